"""The pre-training objectives on held-out text: the same sequences with the same masks at every evaluation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bertwright.inputs.masking import IGNORED_LABEL, mask_rest_of_words
from bertwright.inputs.pretraining import PretrainBatch, PretrainStream
from bertwright.models.heads import Loss
from bertwright.settings import MaskingConfig, PretrainConfig
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from bertwright.train.prefetch import Batch

EVALUATION_SEQUENCES = 2_048
"""Held-out sequences of an evaluation, the same ones every time."""

EVALUATION_TOKENS = 8_192
"""Tokens of a held-out batch, for which masks are drawn: not micro_batch_tokens, which changes no metric."""

EVALUATION_MASKING = MaskingConfig(rate=0.15, replacement="80-10-10", unit="token")
"""Held-out text is always masked as in the paper, so that recipes with other masks can be compared."""

SCORING_MASKING = replace(EVALUATION_MASKING, replacement="mask")
"""For `bits_per_character`, with `inputs.masking.mask_rest_of_words`: no token is predicted that is in view."""

SCORED_STEP = 128
"""The number of scored positions is filled up to a multiple of this. A CPU's matrix library keeps a kernel and its
scratch memory for every shape it has met: with a new shape in each batch that grew by gigabytes in minutes."""


def corpora_read(config: PretrainConfig, heldout: PreparedCorpus) -> tuple[str, ...] | None:
    """The corpora that some phase reads, of which held-out text is evaluated; None for all.

    General text that no phase reads, to see what is forgotten, would hide what is learned of the others. It counts
    only where nothing of the others is held out.

    Args:
        config: of pre-training.
        heldout: the held-out documents.
    """
    read = config.corpora
    return read if read is not None and heldout.is_from(read).any() else None


class HeldoutText:
    """Held-out text at one sequence length, without short sequences.

    Args:
        corpus: the held-out documents.
        tokenizer: of the corpus.
        sequence_length: the most tokens in a sequence.
        causal: whether the model is, and predicts each token from those before it.
        next_sentence: whether there are pairs; a corpus of one document has none.
        sources: take these sources only; None takes all.
        scoring: whether tokens are masked as `bits_per_character` needs it, and not as in the paper.
    """

    def __init__(
        self,
        corpus: PreparedCorpus,
        tokenizer: Tokenizer,
        sequence_length: int,
        *,
        causal: bool,
        next_sentence: bool,
        sources: tuple[str, ...] | None = None,
        scoring: bool = False,
    ) -> None:
        self.rest_of_words = scoring and not causal
        self.stream = PretrainStream(
            corpus,
            tokenizer,
            max(1, EVALUATION_TOKENS // sequence_length),
            None if causal else SCORING_MASKING if scoring else EVALUATION_MASKING,
            sequence_length=sequence_length,
            next_sentence=next_sentence and int(corpus.is_from(sources).sum()) > 1,
            short_sequence_probability=0.0,
            sources=sources,
            seed=0,
        )

    def batch(self, number: int) -> PretrainBatch:
        """A batch, `number` counts from 0."""
        batch = self.stream.batch(number)
        if not self.rest_of_words:
            return batch
        input_ids, labels = mask_rest_of_words(batch.input_ids, batch.labels, self.stream.vocabulary)
        return replace(batch, input_ids=input_ids, labels=labels)

    def evaluate(self, objective: nn.Module, engine: Engine, micro_batch_tokens: int) -> dict[str, float]:
        """Loss, in nats, and accuracy of each objective, as in mlm_loss and nsp_accuracy.

        Args:
            objective: `tasks.pretraining.PretrainingObjective`, possibly compiled.
            engine: the machine.
            micro_batch_tokens: the most tokens that are computed at a time.
        """
        sequences = min(EVALUATION_SEQUENCES, len(self.stream.plan(0)))
        sums: dict[str, list[float]] = {}
        parts = (
            part
            for number in range(math.ceil(sequences / self.stream.batch_size))
            for part in self.batch(number).cut(micro_batch_tokens)
        )
        for batch in map(tensors, parts):
            losses: dict[str, Loss] = objective(**{name: value.to(engine.device) for name, value in batch.items()})
            for name, loss in losses.items():
                assert loss.correct is not None
                values = (float(loss.total), float(loss.count), float(loss.correct))
                sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * 3), values, strict=True)]
        metrics: dict[str, float] = {}
        for name, (total, count, correct) in sums.items():
            if count:
                metrics |= {f"{name}_loss": total / count, f"{name}_accuracy": correct / count}
        return metrics


def bits_per_character(loss: float, tokens: int, characters: int) -> float:
    """How many bits a character of text costs a model: comparable between vocabularies, unlike a loss on tokens.

    For a causal model it is the length of the code that the text would have. A masked model gives no probability of a
    whole text; here each word costs what a masked one costs, with six of seven other words in view (a pseudo-log-
    likelihood: Salazar et al. 2020, "Masked Language Model Scoring"). The loss must be that of a `HeldoutText` for
    scoring: with all other pieces of its word in view, a piece is predicted too easily, and the more so the shorter a
    vocabulary's pieces are. An unknown token costs its own prediction only, so that a vocabulary must know nearly all
    words for the figure to mean something.

    Args:
        loss: mean loss of a predicted token, in nats.
        tokens: in the text.
        characters: in the text, white space included.
    """
    return loss / math.log(2) * tokens / characters


def tensors(batch: PretrainBatch) -> Batch:
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
