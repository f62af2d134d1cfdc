"""Losses of probabilities of classes, in nats: of a model, and of one that only knows how frequent classes are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_loss(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Mean of minus the log-probability of the labels.

    Args:
        probabilities: of K classes, (rows, K).
        labels: numbers of classes, (rows,).
    """
    return _mean_surprise(probabilities[np.arange(len(labels)), labels])


def frequency_loss(known: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The loss on `labels` (rows,) of a model that predicts for each row how frequent classes are in `known`."""
    counts = np.bincount(known, minlength=int(labels.max(initial=0)) + 1)
    return _mean_surprise(counts[labels] / counts.sum())


def _mean_surprise(picked: NDArray[Any]) -> float:
    return float(-np.log(np.clip(picked, 1e-12, None)).mean())
