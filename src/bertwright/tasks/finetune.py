"""The finetune stage: a task's head on the pre-trained encoder, trained once per seed (paper, 4.1 and appendix A.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bertwright.errors import UserError
from bertwright.files import recover, write_json
from bertwright.inputs.sequences import Sequence
from bertwright.models.checkpoints import (
    FORMATS,
    load_into,
    load_tokenizer,
    model_config,
    new_encoder,
    read_config,
    read_weights,
    to_hugging_face,
)
from bertwright.models.heads import TaskModel
from bertwright.models.initialization import as_bert, initialize_averaging
from bertwright.recipe import Recipe, fingerprint
from bertwright.settings import FinetuneConfig
from bertwright.tasks.registry import find_task
from bertwright.tasks.self_training import pseudo_labels, read_unlabelled
from bertwright.tasks.supervised import Examples, Finetuning, Validation
from bertwright.tasks.task import Ints, Task
from bertwright.text.records import Record, read_records
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from bertwright.train.loop import LoopConfig, Notice, train

WHAT_TO_TRY = "try more epochs, another learning rate (lower if the loss jumps), or more labels of the rarer classes"
"""Advice for a model that does not learn."""

_LONGEST_RUN = 250
"""Rows of a class that stand side by side in the validation set: many more than there are reviews of one film."""


@dataclass(frozen=True)
class Split:
    """The train split of a recipe's labelled data, cut into training and validation set.

    Args:
        task: the recipe's.
        tokenizer: the encoder's.
        records: of the train split.
        names: of the classes.
        labels: of the records.
        training_rows: indices of the training set.
        training: the training set.
        validation: the validation set.
    """

    task: Task
    tokenizer: Tokenizer
    records: list[Record]
    names: list[str]
    labels: Ints
    training_rows: Ints
    training: Examples
    validation: Validation


def split_validation(strata: Ints, ratio: float) -> tuple[Ints, Ints]:
    """Indices of training and validation set, the same for every seed, with the same fraction of each class.

    A class of a single text has none in the validation set.

    The validation set is made of runs of neighbours. Rows of a file that stand side by side often belong together, as
    the reviews of one film do in IMDB, and its test split is about other films: a validation set that is drawn row by
    row has a film's other reviews in training, and rewards a model for learning names.

    Args:
        strata: the class of each text, (texts,).
        ratio: the fraction of the validation set.
    """
    parts = []
    for label in np.unique(strata):
        rng = np.random.default_rng(0)  # the same places for each class, so that mixed classes keep their neighbours
        rows = np.flatnonzero(strata == label)
        wanted = min(max(1, round(ratio * len(rows))), len(rows) - 1)
        size = min(_LONGEST_RUN, max(1, wanted // 5))
        runs = [rows[start : start + size] for start in range(0, len(rows), size)]
        parts.append(np.concatenate([runs[i] for i in rng.permutation(len(runs))])[:wanted])
    validation = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(strata)), validation), validation


def new_task_model(task: Task, encoder: Path, config: FinetuneConfig, names: list[str], notice: Notice) -> TaskModel:
    """A task's model with an encoder's weights, before it is fine-tuned.

    The head of a classifier of as many classes is taken over, too.

    Args:
        task: makes the head.
        encoder: a model folder.
        config: decides dropout, and whether an averaging block is put on top.
        names: of the classes.
        notice: told if the encoder has no pooler.
    """
    stored = read_config(encoder)
    weights = read_weights(encoder)
    shape = model_config(stored)
    if config.hidden_dropout_prob is not None:
        shape = replace(shape, hidden_dropout_prob=config.hidden_dropout_prob)
    layout = FORMATS[shape.model_type].names
    pooler, trained_pooler, classifier = (
        [to_hugging_face(f"{module}.{part}", layout) for part in ("weight", "bias")]
        for module in ("head.pooler.dense", "pooler.dense", "head.classifier")
    )
    for own, trained in zip(pooler, trained_pooler, strict=True):
        if trained in weights:  # that of pre-training
            weights.setdefault(own, weights[trained])
    left_out = []
    if len(weights.get(classifier[1], names)) != len(names):  # a classifier of something else
        left_out += classifier
    may_miss = ["head."]
    if config.averaging_block:
        may_miss.append(f"encoder.blocks.{shape.num_hidden_layers}.")
        shape = replace(shape, num_hidden_layers=shape.num_hidden_layers + 1)
        left_out += pooler  # it was trained on the block below
    weights = {name: value for name, value in weights.items() if name not in left_out}
    fresh = new_encoder(shape, stored["vocab_size"], stored.get("pad_token_id", 0))
    model = TaskModel(fresh, task.head(fresh, names, config.classifier_dropout), names, task.name)
    has_pooler = any(name.startswith("head.pooler") for name, _ in model.named_parameters())
    if has_pooler and not config.averaging_block and pooler[0] not in weights:
        notice(f"{encoder} has no pooler: it is freshly initialised, as the classifier is")
    load_into(model, weights, encoder, may_miss=tuple(may_miss))
    if config.averaging_block:
        initialize_averaging(as_bert(model.encoder, "finetune.averaging_block"))
    return model


def read_split(recipe: Recipe, encoder: Path, notice: Notice) -> Split:
    """Read and encode the train split of a recipe's labelled data.

    Args:
        recipe: the whole recipe.
        encoder: a model folder.
        notice: told how many texts there are.

    Raises:
        UserError: if the data cannot be used, or the encoder is too short for max_length.
    """
    config = recipe.finetune
    positions = model_config(read_config(encoder)).max_position_embeddings
    if config.max_length > positions:
        raise UserError(
            f"finetune.max_length is {config.max_length}, but {encoder} has {positions} positions; lower it"
        )
    task = find_task(config.task)
    tokenizer = load_tokenizer(encoder)
    tokenizer.html_line_breaks |= recipe.tokenizer.html_line_breaks
    where = f"data.{config.data}"
    records = read_records(recipe.source(config.data), "train", task.columns)
    names = task.label_names(records, config.label_names, f"{where}, split train,")
    task = task.about(config.positive_label, names)
    labels = task.labels(records, names, records, where)
    training_rows, validation_rows = split_validation(task.strata(labels), config.validation_ratio)
    if len(validation_rows) == 0:
        raise UserError(f"{where} has one text of each class to train on; a class needs two or more")
    notice(f"encoding {len(records):,} texts")

    def encoded(rows: Ints, truncation: str) -> list[Sequence]:
        return task.encode([records[i] for i in rows], tokenizer, config.max_length, truncation)

    training = Examples(encoded(training_rows, config.training_truncation), task.targets(labels[training_rows], names))
    validation = Validation(encoded(validation_rows, config.truncation), labels[validation_rows])
    return Split(task, tokenizer, records, names, labels, training_rows, training, validation)


def not_learnt(loss: float, chance: float) -> str:
    """What is said of a model that has learnt nothing, and what to try.

    Args:
        loss: its lowest on the validation set.
        chance: that of a model that predicts the frequencies of the classes.
    """
    return (
        f"has not learnt to tell the classes apart: its lowest validation loss, {loss:.3f}, is not below {chance:.3f}, "
        f"that of predicting how frequent each class is for every text; {WHAT_TO_TRY}"
    )


def finetune(recipe: Recipe, encoder: Path, folder: Path, run_fingerprint: str, engine: Engine, notice: Notice) -> None:
    """Fine-tune once per seed: `folder`/seed-N/model; a teacher of all seeds goes to `folder`/teacher.

    Args:
        recipe: the whole recipe.
        encoder: a model folder to start from.
        folder: receives a folder per seed.
        run_fingerprint: of all that decides the result.
        engine: the machine.
        notice: told in a sentence about anything a user should know.

    Raises:
        UserError: if the data cannot be used, the encoder is too short for max_length, or the loss is not a number.
    """
    config = recipe.finetune
    split = read_split(recipe, encoder, notice)
    stage = _Stage(config, encoder, folder, run_fingerprint, engine, notice, split)
    training = split.training
    if config.unlabelled is not None:
        texts, sequences = read_unlabelled(recipe, split.task, split.tokenizer, notice)
        stage.train("teacher", config.seeds[0], training)
        labelled = ([split.records[i].text for i in split.training_rows], split.labels[split.training_rows])
        targets = pseudo_labels(folder / "teacher", texts, sequences, labelled, config, engine, notice)
        training = Examples([*training.sequences, *sequences], np.concatenate([training.targets, targets]))
    for seed in config.seeds:
        stage.train(f"seed-{seed}", seed, training)


@dataclass(frozen=True)
class _Stage:
    """What all models of the stage have in common."""

    config: FinetuneConfig
    encoder: Path
    folder: Path
    fingerprint: str
    engine: Engine
    notice: Notice
    split: Split

    def train(self, name: str, seed: int, training: Examples) -> None:
        """Train the model of the folder `name`, unless it is finished.

        Args:
            name: teacher or seed-N.
            seed: of head, order and dropout.
            training: the training set.
        """
        config, split, engine, target = self.config, self.split, self.engine, self.folder / name
        if (target / "done.json").exists():
            return
        if engine.is_main:
            recover(target / "model")
        torch.manual_seed(seed)
        model = new_task_model(split.task, self.encoder, config, split.names, self.notice)
        job = Finetuning(split.task, config, seed, model, split.tokenizer, training, split.validation, target / "model")
        loop = LoopConfig(
            optimizer=config.optimizer,
            seed=seed,
            max_steps=math.ceil(config.epochs * job.batches_per_epoch),
            max_seconds=None,
            log_every=config.log_every,
            evaluate_every=max(1, job.batches_per_epoch // config.evaluations_per_epoch),
            checkpoint_every=config.checkpoint_every,
        )
        doing = "fine-tuning a teacher" if name == "teacher" else "fine-tuning"
        sizes = f"{len(training):,} texts, {len(split.validation.labels):,} in the validation set"
        self.notice(f"{doing} with seed {seed}: {sizes}")
        position = train(job, loop, engine, target, fingerprint(self.fingerprint, seed, name), self.notice)
        chance = split.task.chance_loss(split.labels[split.training_rows], split.validation.labels)
        if chance is not None and position.best is not None and not position.best < chance:
            self.notice(f"warning: the model of {name} {not_learnt(position.best, chance)}")
        if engine.is_main:
            done = {"seconds": position.seconds, "validation_loss": position.best, "chance_loss": chance}
            write_json(target / "done.json", done)
        engine.barrier()
