"""The order of texts by their scores: of words, of vectors, or of both."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Floats, Ints

Ranking = Literal["vectors", "bm25", "hybrid"]

_VECTORS = 0.4
"""How much vectors count in the fusion, words the rest: a weak encoder then costs nothing, and a good one brings much
(docs/decisions.md)."""


def fuse(words: Floats, cosines: Floats) -> npt.NDArray[np.float64]:
    """The weighted mean of BM25 and cosine, each from 0 for the worst text to 1 for the best: (texts,).

    Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval", section 4: scores tell how much
    better a text is, which its rank does not.

    Args:
        words: BM25, (texts,); all 0 where no text shares a word with the query, so that cosines decide.
        cosines: (texts,).
    """
    by_words, by_vectors = (_stretched(scores.astype(np.float64)) for scores in (words, cosines))
    return (1 - _VECTORS) * by_words + _VECTORS * by_vectors


def _stretched(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores (texts,) with the least at 0 and the greatest at 1; all 0 where they are equal."""
    least, most = scores.min(), scores.max()
    return (scores - least) / (most - least) if most > least else np.zeros_like(scores)


def best_first(scores: npt.NDArray[Any], top: int | None = None) -> Ints:
    """Numbers of texts by their scores, the best first; of equal ones the earlier first.

    Args:
        scores: (texts,).
        top: the most numbers; None is all.
    """
    rows = np.arange(len(scores))
    if top is not None and 0 < top < len(scores):
        rows = np.flatnonzero(scores >= np.partition(scores, -top)[-top])  # sorting all would take longer than scoring
    return rows[np.argsort(-scores[rows], kind="stable")][:top]
