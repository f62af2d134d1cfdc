"""Calibration: whether predictions that claim 80 % are right in 80 % of cases."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""As many as in Guo et al. 2017, "On Calibration of Modern Neural Networks", but equal in numbers, not in width."""


def reliability(probabilities: NDArray[Any], labels: NDArray[np.int64], bins: int = BINS) -> dict[str, Any] | None:
    """Confidence against accuracy, and the expected calibration error (ECE).

    The confidence of a text is the probability of its predicted class. Texts are sorted by it and cut into bins of
    equal numbers, so that no bin rests on a handful of texts. Texts of equal confidence count with the accuracy of all
    of them, so that their order decides nothing. ECE is the mean over texts of the distance between mean confidence and
    accuracy of their bin.

    Args:
        probabilities: (rows, classes).
        labels: true classes, (rows,).
        bins: the number of bins; with fewer texts, one bin per text.

    Returns:
        ece, and bins with confidence, accuracy and count each; None where predictions are not probabilities of classes.
    """
    if probabilities.ndim != 2 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        return None
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    _, level = np.unique(confidence, return_inverse=True)
    right = (np.bincount(level, right) / np.bincount(level))[level]
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(labels)))
    found = [
        {"confidence": float(confidence[part].mean()), "accuracy": float(right[part].mean()), "count": len(part)}
        for part in parts
    ]
    error = sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in found) / len(labels)
    return {"ece": float(error), "bins": found}
