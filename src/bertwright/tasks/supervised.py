"""Training on labelled examples, as the loop sees it: batches, objective, validation, choice of the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.files import atomic_path
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs.bucketing import token_buckets
from bertwright.inputs.sequences import ModelInput
from bertwright.models.checkpoints import save_model
from bertwright.models.heads import Loss, TaskModel
from bertwright.tasks.in_batch import NOT_SCORED, BatchObjective
from bertwright.tasks.prediction import collate, predict
from bertwright.tasks.task import Examples, Task
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.checkpoint import Best, EpochEnds
from bertwright.train.engine import Engine
from bertwright.train.prefetch import Batch
from bertwright.train.training import Objective

_DRAWN = 1
"""A part of the seed of what is drawn for a batch, which no other generator has."""

_POOL_BATCHES = 50
"""Batches whose texts are sorted by length together: little padding, and still a different mix in every epoch."""


@dataclass(frozen=True)
class Validation:
    """What a checkpoint is chosen by.

    Args:
        inputs: the model input of each text.
        labels: (texts,).
    """

    inputs: Many[ModelInput]
    labels: Ints


class TaskObjective(Objective):
    """The model with its head's loss, as the loop calls it."""

    model: TaskModel

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor, targets: Tensor
    ) -> dict[str, Loss]:
        """The loss of a batch (B, S); a row of zeros in `targets` (B, ...) is not scored."""
        return {"label": self.model.head.loss(self.model(input_ids, token_type_ids, attention_mask), targets)}

    def parts(self) -> list[nn.Module]:
        """The encoder's parts, and a head on all positions: a fine-tuning is short, and so this compiles sooner."""
        head = self.model.head
        return self.model.encoder.parts(head.positions) + ([head] if head.positions is None else [])


class Finetuning:
    """Fine-tuning as the loop sees it.

    Args:
        task: the task.
        config: of fine-tuning.
        seed: decides the order of texts.
        model: the encoder's weights with a fresh head.
        tokenizer: the encoder's.
        training: to train on.
        validation: to choose the checkpoint by.
        best_folder: receives the best model so far, as finetune.metric_for_best_model has it.
    """

    def __init__(
        self,
        task: Task,
        config: FinetuneConfig,
        seed: int,
        model: TaskModel,
        tokenizer: Tokenizer,
        training: Examples,
        validation: Validation,
        best_folder: Path,
    ) -> None:
        self.task = task
        self.config = config
        self.seed = seed
        self.model = model
        self.tokenizer = tokenizer
        self.training = training
        self.validation = validation
        self.best_folder = best_folder
        self.objective: Objective = BatchObjective(model) if model.head.in_batch else TaskObjective(model)
        self.phase_ratios = (1.0,)
        self.epoch_ends: EpochEnds = ()  # an epoch has as many batches as any other
        self.batches_per_epoch = math.ceil(len(training) / config.batch_size)
        self._lengths = training.lengths()
        self.step_tokens = round(float(self._lengths.mean()) * min(config.batch_size, len(training)))
        self._order: tuple[int, list[Ints]] | None = None

    def epoch_batches(self, epoch: int) -> list[Ints]:
        """The texts of each global batch of an epoch: each text once, neighbours in length together."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order, count = rng.permutation(len(self._lengths)), self.batches_per_epoch
            ends = np.minimum(np.arange(count + 1) * self.config.batch_size, len(order))
            if self.model.head.in_batch:  # a short batch would have few negatives: sizes differ by one at most
                ends = np.cumsum([0, *map(len, np.array_split(order, count))])
            batches = []
            for first in range(0, count, _POOL_BATCHES):
                own = ends[first : first + _POOL_BATCHES + 1]
                part = order[own[0] : own[-1]]
                part = part[np.argsort(self._lengths[part], kind="stable")]
                batches += np.split(part, own[1:-1] - own[0])
            self._order = (epoch, [batches[i] for i in rng.permutation(len(batches))])
        return self._order[1]

    def micro_batches(self, phase: int, number: int, rank: int, world: int) -> list[Batch]:
        """This process's texts of a global batch, in micro-batches of bounded size."""
        epoch, index = divmod(number, self.batches_per_epoch)
        batch = self.epoch_batches(epoch)[index]
        texts = self.training.take(np.append(batch, self._lengths.argmin()))  # the last one fills up
        texts = texts.drawn(np.random.default_rng((self.seed, number, _DRAWN)))
        own = np.arange(len(batch))[rank::world]
        missing = min(2, self.config.batch_size) - len(own)
        if missing > 0:
            # A last batch is filled up to two rows: the compiler would start afresh for one, and a process that has
            # none would not meet the others. Those rows are not scored, and losses are divided by the number that are.
            return [self._batch(texts, np.append(own, np.full(missing, len(batch))), len(own))]
        buckets = token_buckets(texts.take(own).lengths(), self.config.micro_batch_tokens)
        return [self._batch(texts, own[bucket], len(bucket)) for bucket in buckets]

    def _batch(self, examples: Examples, rows: Ints, scored: int) -> Batch:
        """The examples `rows` as tensors, of which the first `scored` are scored."""
        texts = examples.take(rows)
        batch, targets = collate(texts.sequences, self.model.encoder), texts.targets
        if isinstance(targets, list):
            padded = np.zeros((*batch["input_ids"].shape, *targets[0].shape[1:]), np.float32)
            for row, own in zip(padded, targets, strict=True):
                row[: len(own)] = own
            targets = padded
        targets[scored * texts.together :] = 0
        places = np.append(rows[:scored], np.full(len(rows) - scored, NOT_SCORED))
        more = {"places": torch.from_numpy(places)} if self.model.head.in_batch else {}
        return batch | more | {"targets": torch.from_numpy(targets)}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Scored items and real tokens."""
        scored = int(self.model.head.scored(batch["targets"]))
        return {"label": scored, "tokens": int(batch["attention_mask"].sum())}

    def evaluate(self, objective: nn.Module, engine: Engine, phase: int) -> dict[str, float]:
        """Loss and metrics on the validation set."""
        config, labels = self.config, self.validation.labels
        with engine.autocast():
            predictions = predict(
                self.task, self.model, self.validation.inputs, config.micro_batch_tokens, config.max_length
            )
        self.task, predictions = self.task.tuned(predictions, labels)
        self.model.notes = self.task.notes()
        return {"loss": self.task.loss(predictions, labels), **self.task.metrics(predictions, labels)}

    def on_evaluation(self, metrics: dict[str, float], best: Best | None, engine: Engine) -> Best | None:
        """Keep the weights with the lowest validation loss, or the highest of the metric that the recipe names.

        The loss says more than the number of right predictions: two thousand texts leave an accuracy uncertain by half
        a point, and checkpoints differ by less. Of equals by a metric, which are many on a small validation set, it
        decides.
        """
        name = self.config.metric_for_best_model
        if name not in metrics:
            raise UserError(
                f"finetune.metric_for_best_model is {name}, which the labels of the validation set do not define; "
                f"choose one of {', '.join(one for one in ('loss', *self.task.choosing_metrics) if one in metrics)}"
            )
        # Another processor may compute another last bit.
        found, loss = (engine.from_main(metrics[key]) for key in (name, "loss"))
        sign = 1 if name == "loss" else -1
        if best is not None and (sign * found, loss) >= (sign * best[0], best[1]):
            return best
        with engine.together():
            if engine.is_main:
                self._keep()
        return found, loss

    def _keep(self) -> None:
        with atomic_path(self.best_folder) as temporary:
            save_model(self.model, self.tokenizer, temporary, self.config.max_length, self.config.truncation)
