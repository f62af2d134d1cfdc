"""Sequences into batches: like lengths together, cut by a token budget, padded. The only place that pads."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Bools, Ints
from bertwright.inputs.sequences import Sequence

WIDTH_STEP = 16
"""Widths of batches are multiples of this: matrix units work on blocks."""


@dataclass(frozen=True)
class Padded:
    """Sequences side by side, with padding on the right.

    Args:
        input_ids: int64 (batch, seq).
        token_type_ids: int64 (batch, seq), 0 at padding.
        attention_mask: True at real tokens, bool (batch, seq).
        special_tokens_mask: True at [CLS] and [SEP] of the frame, bool (batch, seq).
    """

    input_ids: Ints
    token_type_ids: Ints
    attention_mask: Bools
    special_tokens_mask: Bools


def rounded_width(length: int) -> int:
    """The width of a batch whose longest sequence has `length` tokens."""
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def token_buckets(lengths: Many[int] | npt.NDArray[np.int64], max_tokens: int) -> list[Ints]:
    """Which sequences are computed together: longest first, each bucket as wide as its longest one needs.

    Args:
        lengths: tokens of each sequence, (sequences,).
        max_tokens: of a bucket, padding included; a sequence that is longer has a bucket of its own.

    Returns:
        Indices of sequences, int64 (bucket,) each; every sequence stands in one bucket.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    buckets = []
    while len(order):
        rows = order[: max(1, max_tokens // rounded_width(int(sizes[order[0]])))]
        buckets.append(rows)
        order = order[len(rows) :]
    return buckets


def pad(sequences: Many[Sequence], pad_id: int, width: int) -> Padded:
    """Sequences as one batch.

    Args:
        sequences: none longer than `width`.
        pad_id: id of [PAD].
        width: tokens of each row, padding included.
    """
    shape = (len(sequences), width)
    mask, special = np.zeros((2, *shape), np.bool_)
    padded = Padded(np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), mask, special)
    for row, sequence in enumerate(sequences):
        size = len(sequence)
        padded.input_ids[row, :size] = sequence.input_ids
        padded.token_type_ids[row, :size] = sequence.token_type_ids
        padded.attention_mask[row, :size] = True
        padded.special_tokens_mask[row, :size] = sequence.special_tokens_mask
    return padded
