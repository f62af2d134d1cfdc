"""Thresholds of labels, chosen where the answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 10
"""Texts with a label below which its own threshold would follow chance: it takes that of all labels together."""


def best_thresholds(probabilities: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float32]:
    """The threshold of each label that makes its F1 highest (Yang 2001, "A Study of Thresholding Strategies", SCut).

    Between two thresholds of the same F1, the one nearer to 0.5 is taken. A label that few texts have takes the
    threshold that makes the F1 of all labels together highest.

    Args:
        probabilities: (rows, K).
        labels: 1 where a text has a label, else 0; (rows, K).

    Returns:
        (K,); a label is predicted from its threshold on.
    """
    shared = _best(probabilities.ravel(), labels.ravel())
    number = labels.sum(axis=0)
    return np.array(
        [
            _best(probabilities[:, k], labels[:, k]) if number[k] >= _FEW else shared
            for k in range(probabilities.shape[1])
        ],
        np.float32,
    )


def _best(scores: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """The threshold of one label: between two neighbouring scores, in the middle."""
    if not labels.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    hits = np.cumsum(labels[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # a threshold parts no equal scores
    f1 = 2 * hits[ends] / (ends + 1 + labels.sum())
    below = np.append(ranked[ends[:-1] + 1], 0.0)
    middle = (ranked[ends] + below) / 2
    # Exactly between in float32, too: what is above stays above.
    middle = np.where(middle.astype(np.float32) > below.astype(np.float32), middle, ranked[ends])
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(middle[best[np.argmin(np.abs(middle[best] - 0.5))]])
