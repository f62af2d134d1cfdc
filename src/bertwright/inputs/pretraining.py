"""From a plan to arrays: batch n of a stream is a pure function of (corpus, seed, n).

Nothing is remembered between batches, so that a run resumes by asking for the next number, and every process of a
distributed run cuts its own rows out of the same global batch.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Bools, Ints
from bertwright.inputs.bucketing import pad, rounded_width, token_buckets
from bertwright.inputs.masking import IGNORED_LABEL, Vocabulary, mask_tokens, next_token_labels
from bertwright.inputs.next_sentence import Plan, index_type, plan_epoch
from bertwright.inputs.sequences import frame
from bertwright.settings import MaskingConfig
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer

IS_NEXT, IS_RANDOM = 0, 1
"""Labels of next-sentence prediction, numbered as in google-research/bert and Hugging Face."""

_POOL_BATCHES = 32
"""Batches whose sequences are sorted by length together: little padding, and still a different mix in every epoch."""


@dataclass(frozen=True)
class PretrainBatch:
    """Sequences ready for the model.

    Args:
        input_ids: token ids, some of them masked, or none for a causal model, int64 (batch, seq).
        token_type_ids: 0 in A, 1 in B, int64 (batch, seq).
        attention_mask: True at real tokens, bool (batch, seq).
        labels: the token to predict where one must be predicted, `IGNORED_LABEL` elsewhere, int64 (batch, seq).
        next_sentence_label: 0 where B follows A, 1 where it does not, `IGNORED_LABEL` without a B, int64 (batch,).
    """

    input_ids: Ints
    token_type_ids: Ints
    attention_mask: Bools
    labels: Ints
    next_sentence_label: Ints

    def cut(self, max_tokens: int) -> list[PretrainBatch]:
        """The sequences in parts of at most `max_tokens` tokens, padding included, like lengths together.

        Long sequences come first; each part is as wide as its longest one needs. Little of what is computed is padding.
        """
        lengths = self.attention_mask.sum(1)
        parts = []
        for rows in token_buckets(lengths, max_tokens):
            width = rounded_width(int(lengths[rows[0]]))
            parts.append(
                PretrainBatch(
                    input_ids=self.input_ids[rows, :width],
                    token_type_ids=self.token_type_ids[rows, :width],
                    attention_mask=self.attention_mask[rows, :width],
                    labels=self.labels[rows, :width],
                    next_sentence_label=self.next_sentence_label[rows],
                )
            )
        return parts


class PretrainStream:
    """An endless, numbered stream of global batches from a prepared corpus.

    Args:
        corpus: the prepared corpus.
        tokenizer: the tokenizer it was prepared with.
        batch_size: sequences in a global batch.
        masking: which tokens must be predicted; None masks none, and has each position predict the token after it.
        sequence_length: the most tokens in a sequence.
        next_sentence: whether there is a B.
        short_sequence_probability: the part of sequences with a random shorter target length.
        sources: draw from these sources only; None takes all.
        seed: of the recipe.
    """

    def __init__(
        self,
        corpus: PreparedCorpus,
        tokenizer: Tokenizer,
        batch_size: int,
        masking: MaskingConfig | None,
        *,
        sequence_length: int,
        next_sentence: bool,
        short_sequence_probability: float,
        sources: tuple[str, ...] | None,
        seed: int,
    ) -> None:
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer.mask_id, tokenizer.ordinary_ids, tokenizer.is_continuation)
        self.batch_size = batch_size
        self.masking = masking
        self.sequence_length = sequence_length
        self.next_sentence = next_sentence
        self.short_sequence_probability = short_sequence_probability
        self.sources = sources
        self.seed = seed
        self.epoch_ends: tuple[int, ...] = ()
        """The number of sequences up to the end of each epoch planned so far; given back to a stream of the same
        arguments, it spares planning these epochs again."""
        self._plan: tuple[int, Plan] | None = None

    def forget(self) -> None:
        """Let go of the plan in memory, which is made again if it is asked for."""
        self._plan = None

    def plan(self, epoch: int) -> Plan:
        """The sequences of an epoch, in order."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = None  # one plan at a time in memory
            planned = plan_epoch(
                self.corpus,
                sequence_length=self.sequence_length,
                seed=self.seed,
                epoch=epoch,
                next_sentence=self.next_sentence,
                short_sequence_probability=self.short_sequence_probability,
                sources=self.sources,
            )
            begin = self.epoch_ends[epoch - 1] if epoch else 0
            planned.reorder(self._like_lengths_together(planned, begin, epoch))
            self._plan = (epoch, planned)
            if epoch == len(self.epoch_ends):
                self.epoch_ends = (*self.epoch_ends, begin + len(planned))
        return self._plan[1]

    def _like_lengths_together(self, planned: Plan, begin: int, epoch: int) -> npt.NDArray[np.signedinteger]:
        """An order of an epoch's sequences in which those of a batch are about equally long, and batches are mixed.

        Sequences are as short as their documents: a quarter of what is computed for film reviews would be padding.

        Args:
            planned: the epoch, in random order.
            begin: sequences in the epochs before, which need not end where a batch does.
            epoch: its number.
        """
        rng = np.random.default_rng((self.seed, self.sequence_length, epoch, 2))
        lengths = planned.first_length + planned.second_length
        order = np.arange(len(planned), dtype=index_type(len(planned)))
        # Whole batches only: a batch that an epoch shares with its neighbour is left alone.
        first = -begin % self.batch_size
        last = first + (len(order) - first) // self.batch_size * self.batch_size
        pool = self.batch_size * _POOL_BATCHES
        for start in range(first, last, pool):
            end = min(start + pool, last)
            batches = start + np.argsort(lengths[start:end], kind="stable").reshape(-1, self.batch_size)
            order[start:end] = rng.permutation(batches).reshape(-1)
        return order

    def batch(self, number: int, rows: slice = slice(None)) -> PretrainBatch:
        """Rows of the global batch `number`, which has batch_size rows; epochs follow seamlessly.

        Args:
            number: counts from 0.
            rows: which rows of the global batch to build; the others cost only their random numbers.
        """
        wanted = np.arange(number * self.batch_size, (number + 1) * self.batch_size)[rows]
        parts = []
        epoch = bisect_right(self.epoch_ends, int(wanted[0])) if len(wanted) else 0
        while len(wanted):
            if epoch == len(self.epoch_ends):
                self.plan(epoch)
            begin = self.epoch_ends[epoch - 1] if epoch else 0
            here = wanted[wanted < self.epoch_ends[epoch]]
            if len(here):
                parts.append(self.plan(epoch).take(here - begin))
            wanted = wanted[len(here) :]
            epoch += 1
        chosen = parts[0] if len(parts) == 1 else _concatenate(parts)
        return self._build(chosen, np.random.default_rng((self.seed, self.sequence_length, number, 1)), rows)

    def _build(self, plan: Plan, rng: np.random.Generator, rows: slice) -> PretrainBatch:
        first = self.corpus.spans(plan.first_start, plan.first_length)
        second = self.corpus.spans(plan.second_start, plan.second_length)
        sequences = [frame(self.tokenizer, a, b if len(b) else None) for a, b in zip(first, second, strict=True)]
        padded = pad(sequences, self.tokenizer.pad_id, self.sequence_length)
        maskable = padded.attention_mask & ~padded.special_tokens_mask
        if self.masking is None:
            shown, labels = padded.input_ids, next_token_labels(padded.input_ids, maskable)
        else:
            # Drawn for the global batch and cut afterwards: a process gets the masks that a lone process would get.
            whole = np.full((self.batch_size, self.sequence_length), self.tokenizer.pad_id, np.int64)
            candidates = np.zeros(whole.shape, np.bool_)
            whole[rows], candidates[rows] = padded.input_ids, maskable
            masked, chosen = mask_tokens(whole, candidates, self.masking, self.vocabulary, rng)
            shown, labels = masked[rows], np.where(chosen[rows], padded.input_ids, IGNORED_LABEL)
        return PretrainBatch(
            input_ids=shown,
            token_type_ids=padded.token_type_ids,
            attention_mask=padded.attention_mask,
            labels=labels,
            next_sentence_label=np.where(
                plan.second_length == 0, IGNORED_LABEL, np.where(plan.is_random, IS_RANDOM, IS_NEXT)
            ).astype(np.int64),
        )


def _concatenate(plans: list[Plan]) -> Plan:
    return Plan(
        *(
            np.concatenate([getattr(plan, name) for plan in plans])
            for name in ("first_start", "first_length", "second_start", "second_length", "is_random")
        )
    )
