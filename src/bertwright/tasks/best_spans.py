"""The best span of a window: the highest sum of a start and an end logit (paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertwright.inputs.questions import context_tokens
from bertwright.inputs.sequences import Sequence

LONGEST_ANSWER = 30
"""The most tokens of an answer, as in BERT's own program for SQuAD."""


@dataclass(frozen=True)
class Span:
    """The best span of a window: characters, sum of logits and score; and the same two of no answer."""

    start: int
    end: int
    logit: float
    score: float
    none_logit: float
    none_score: float


def best_span(logits: npt.NDArray[np.float64], window: Sequence) -> Span:
    """The best span of a window of which the logits (tokens, 2) are known."""
    assert window.offsets is not None
    places = np.flatnonzero(context_tokens(window))
    none = float(logits[0].sum())
    if not len(places):
        return Span(0, 0, -np.inf, 0.0, none, 1.0)
    # Probabilities over the context and [CLS]: neither the question nor a [SEP] can answer.
    possible = logits[np.concatenate([[0], places])]
    top = possible.max(axis=0)
    norm = (np.log(np.exp(possible - top).sum(axis=0)) + top).sum()
    starts, ends = possible[1:].T
    width = min(LONGEST_ANSWER, len(places))
    padded = np.concatenate([ends, np.full(width - 1, -np.inf)])
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)  # (tokens, width)
    first, length = np.unravel_index(int(sums.argmax()), sums.shape)
    begin, end = window.offsets[places[first], 0], window.offsets[places[first + length], 1]
    logit = float(sums[first, length])
    return Span(int(begin), int(end), logit, float(np.exp(logit - norm)), none, float(np.exp(none - norm)))
