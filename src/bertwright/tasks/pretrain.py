"""The pretrain stage: masked words and next sentences, from random weights (paper, section 3.1).

A left-to-right model (`model.is_decoder`) guesses next tokens instead, the paper's rival in section 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.config import MaskingConfig, ModelConfig, Phase, PretrainConfig, Recipe
from bertwright.errors import UserError
from bertwright.files import atomic_path
from bertwright.model.bert import start_local
from bertwright.model.heads import BertForPreTraining, score, start_counted
from bertwright.model.interop import save_model
from bertwright.objectives.batches import IGNORED_LABEL, PretrainBatch, PretrainStream
from bertwright.text.store import PreparedCorpus
from bertwright.text.vectors import token_vectors
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.checkpoint import Position
from bertwright.train.engine import Engine
from bertwright.train.loop import Batch, LoopConfig, train

EVALUATION_SEQUENCES = 2_048
"""Held-out sequences that an evaluation looks at, the same ones every time."""

EVALUATION_MASKING = MaskingConfig(rate=0.15, replacement="80-10-10", unit="token")
"""Held-out text is always masked as in the paper, so that recipes with other masks can be compared."""


SCORED_STEP = 128
"""The number of scored positions is filled up to a multiple of this. A CPU's matrix library keeps a kernel and its
scratch memory for every shape it has met: with a new shape in each batch that grew by gigabytes in minutes."""


def guess_name(config: ModelConfig) -> str:
    """What the figures on guessed tokens are called: mlm, or ltr for a left-to-right model.

    Their losses are not to be compared: one guesses a few tokens from both sides, the other all from the left.
    """
    return "ltr" if config.is_decoder else "mlm"


def sequences_per_step(config: PretrainConfig, phase: Phase) -> int:
    """How many sequences a global batch of a phase has, all processes together."""
    return (phase.batch_tokens or config.batch_tokens) // phase.sequence_length


class PretrainingObjective(nn.Module):
    """The model with both losses: what the loop calls and the compiler sees.

    Args:
        model: the model with its pre-training heads.
        next_sentence: whether next-sentence prediction is part of the loss.
    """

    def __init__(self, model: BertForPreTraining, next_sentence: bool) -> None:
        super().__init__()
        self.model = model
        self.guesses = guess_name(model.bert.config)
        self.uses_next_sentence = next_sentence
        if not next_sentence:
            # Heads that get no gradient: frozen, so that neither the optimizer nor other processes wait for one.
            for part in (model.next_sentence, model.bert.pooler):
                part.requires_grad_(False)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        masked_positions: Tensor,
        labels: Tensor,
        next_sentence_label: Tensor,
    ) -> dict[str, Tensor]:
        """Summed losses and right guesses of a batch as `objectives.batches.PretrainBatch` describes it."""
        mlm_logits, nsp_logits = self.model(input_ids, token_type_ids, attention_mask, masked_positions)
        loss, correct = score(mlm_logits, labels)
        outcome = {f"{self.guesses}_loss": loss, f"{self.guesses}_correct": correct}
        if self.uses_next_sentence:
            outcome["nsp_loss"], outcome["nsp_correct"] = score(nsp_logits, next_sentence_label)
        return outcome


class PretrainTask:
    """Pre-training as the loop sees it.

    Args:
        recipe: the whole recipe.
        model: fresh, or the weights to go on from.
        tokenizer: the one that the corpus was prepared with.
        corpus: to train on.
        heldout: to evaluate on.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: BertForPreTraining,
        tokenizer: Tokenizer,
        corpus: PreparedCorpus,
        heldout: PreparedCorpus,
    ) -> None:
        config = recipe.pretrain
        self.config = config
        self.model = model
        self.objective = PretrainingObjective(model, config.next_sentence)
        self.guesses = guess_name(recipe.model)
        left_to_right = recipe.model.is_decoder
        self.phase_shares = tuple(phase.share for phase in config.phases)
        self._streams = [
            PretrainStream(
                corpus,
                tokenizer,
                sequences_per_step(config, phase),
                None if left_to_right else config.masking,
                sequence_length=phase.sequence_length,
                next_sentence=config.next_sentence and phase.next_sentence,
                short_sequence_probability=config.short_sequence_probability,
                sources=phase.corpora,
                seed=recipe.seed * len(config.phases) + index,  # a phase does not repeat the pairs of another
            )
            for index, phase in enumerate(config.phases)
        ]
        # Held-out text has pairs in all phases if the run has any, so that what is left of them is seen throughout, but
        # not if a small corpus left one document, from which no pair can be drawn; no short sequences, and masks of its
        # own.
        self._heldout = [
            PretrainStream(
                heldout,
                tokenizer,
                config.micro_batch_tokens // phase.sequence_length,
                None if left_to_right else EVALUATION_MASKING,
                sequence_length=phase.sequence_length,
                next_sentence=config.next_sentence and heldout.num_documents > 1,
                short_sequence_probability=0.0,
                sources=None,
                seed=0,
            )
            for phase in config.phases
        ]

    def micro_batches(self, phase: int, number: int, rank: int, world: int) -> list[Batch]:
        """This process's rows of a global batch, cut into micro-batches of bounded size."""
        stream = self._streams[phase]
        own = slice(rank * stream.batch_size // world, (rank + 1) * stream.batch_size // world)
        return [_tensors(part) for part in stream.batch(number, own).cut(self.config.micro_batch_tokens)]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Scored tokens and pairs, and real tokens."""
        return {
            self.guesses: int((batch["labels"] != IGNORED_LABEL).sum()),
            "nsp": int((batch["next_sentence_label"] != IGNORED_LABEL).sum()),
            "tokens": int(batch["attention_mask"].sum()),
        }

    def evaluate(self, objective: nn.Module, engine: Engine, phase: int) -> dict[str, float]:
        """Loss and accuracy of both objectives on held-out text, masked as in the paper (or not, if left to right)."""
        stream = self._heldout[phase]
        sequences = min(EVALUATION_SEQUENCES, len(stream.plan(0)))
        sums: dict[str, float] = {}
        parts = (
            part
            for number in range(math.ceil(sequences / stream.batch_size))
            for part in stream.batch(number).cut(self.config.micro_batch_tokens)
        )
        for batch in map(_tensors, parts):
            outcome = objective(**{name: value.to(engine.device) for name, value in batch.items()})
            for name, value in {**outcome, **self.counts(batch)}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        figures = {}
        for name in (self.guesses, "nsp") if "nsp_loss" in sums and sums["nsp"] else (self.guesses,):
            figures[f"{name}_loss"] = sums[f"{name}_loss"] / sums[name]
            figures[f"{name}_accuracy"] = sums[f"{name}_correct"] / sums[name]
        return figures

    def on_evaluation(self, figures: dict[str, float], best: float | None, engine: Engine) -> float | None:
        """Pre-training keeps its last weights, not its best."""
        return None


def _tensors(batch: PretrainBatch) -> Batch:
    """A batch as the objective takes it, with the scored positions picked out, and some unscored ones to fill up."""
    scored = np.flatnonzero(batch.labels != IGNORED_LABEL)
    missing = (0, -len(scored) % SCORED_STEP)
    return {
        "input_ids": torch.from_numpy(batch.input_ids),
        "token_type_ids": torch.from_numpy(batch.token_type_ids),
        "attention_mask": torch.from_numpy(batch.attention_mask),
        "masked_positions": torch.from_numpy(np.pad(scored, missing)),
        "labels": torch.from_numpy(np.pad(batch.labels.reshape(-1)[scored], missing, constant_values=IGNORED_LABEL)),
        "next_sentence_label": torch.from_numpy(batch.next_sentence_label),
    }


def pretrain(
    recipe: Recipe, prepared: Path, folder: Path, run_fingerprint: str, engine: Engine, notice: Callable[[str], None]
) -> Position:
    """Pre-train a model from random weights and write it to `folder`/model in the Hugging Face layout.

    Args:
        recipe: the whole recipe.
        prepared: the prepare stage's folder.
        folder: receives metrics, checkpoints and the model.
        run_fingerprint: of all that decides the outcome.
        engine: the machine.
        notice: told in a sentence about anything a user should know.

    Returns:
        Where the run ended.

    Raises:
        UserError: if corpus and tokenizer do not belong together, a step has fewer sequences than there are processes,
            a phase has no text, or the loss is not a number.
    """
    config = recipe.pretrain
    for phase in config.phases:
        sequences = sequences_per_step(config, phase)
        if sequences < engine.world:
            raise UserError(
                f"a step has {sequences} sequences of {phase.sequence_length} tokens, fewer than the {engine.world} "
                "processes; raise pretrain.batch_tokens"
            )
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    corpus = PreparedCorpus(prepared / "train.arrow", tokenizer.fingerprint)
    heldout = PreparedCorpus(prepared / "heldout.arrow", tokenizer.fingerprint)
    for phase in config.phases:
        documents = int(corpus.is_from(phase.corpora).sum())
        needed = 2 if config.next_sentence and phase.next_sentence else 1
        if documents < needed:
            names = ", ".join(phase.corpora or recipe.prepare.corpora)
            raise UserError(
                f"a phase of pretrain.phases reads {names}, which has {documents} documents to train on, and needs "
                f"{needed} (two for next sentences); duplicates and held-out documents do not count"
            )
    torch.manual_seed(recipe.seed)
    model = BertForPreTraining(recipe.model, tokenizer.vocab_size, tokenizer.pad_id)
    if config.first_weights == "local":
        start_local(model.bert)
    if config.first_embeddings == "counted":
        start_counted(
            model, *token_vectors(corpus, tokenizer.vocab_size, recipe.model.hidden_size, config.phases[-1].corpora)
        )
    task = PretrainTask(recipe, model, tokenizer, corpus, heldout)
    loop = LoopConfig(
        optimizer=config.optimizer,
        seed=recipe.seed,
        max_steps=config.max_steps,
        max_seconds=None if config.max_minutes is None else config.max_minutes * 60,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
    )
    position = train(task, loop, engine, folder, run_fingerprint, notice)
    if engine.is_main:
        with atomic_path(folder / "model") as temporary:
            # A head that was not trained is left out, so that nobody takes what it says for an answer.
            save_model(model, tokenizer, temporary, leave_out="" if config.next_sentence else "next_sentence.")
    return position
