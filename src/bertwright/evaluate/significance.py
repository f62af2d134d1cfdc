"""How sure a figure is: bootstrap intervals of one system, and of the difference between two, for any task.

The intervals are 95 % percentile bootstrap intervals over test rows: they say how far a metric could move with another
test set of the same size, not with another training run. For the latter, fine-tune with several seeds and see
`mean_and_spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertwright.tasks.task import Task

SAMPLES = 1000
"""Resamples behind an interval."""

_PERCENTILES = (2.5, 97.5)


def scores(
    task: Task, predictions: NDArray[Any], labels: NDArray[Any], samples: int = SAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The metrics of a system with their intervals, ready for JSON.

    Args:
        task: computes metrics.
        predictions: of the system, (rows, ...).
        labels: (rows,).
        samples: resamples behind each interval; 0 leaves the intervals out.
        seed: of the resamples.

    Returns:
        The metrics by name, `<name>_low` and `<name>_high` for those that the task resamples, what the task tells
        beside, and count.
    """
    result: dict[str, Any] = dict(task.metrics(predictions, labels))
    if samples > 0:
        for name, values in task.resampled([predictions], labels, samples, seed)[0].items():
            finite = values[np.isfinite(values)]  # a tiny test set has resamples where a metric is not defined
            if len(finite):
                result[f"{name}_low"], result[f"{name}_high"] = map(float, np.percentile(finite, _PERCENTILES))
    return {**result, **task.details(predictions, labels), "count": len(labels)}


def difference(
    task: Task,
    labels: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """How much higher the first system's primary metric is than the second's, with a paired bootstrap interval.

    Both systems are evaluated on the same resampled rows. That is much sharper than asking whether two separate
    intervals overlap, since most rows are easy, or hard, for both.

    Args:
        task: computes metrics.
        labels: (rows,).
        first: predictions of one system, (rows, ...).
        second: predictions of the other, of the same shape.
        samples: resamples behind the interval.
        seed: of the resamples.

    Returns:
        difference, low, high.
    """
    if first.shape != second.shape:
        raise ValueError(f"the systems' predictions differ in shape: {first.shape}, {second.shape}")
    name = task.primary_metric
    one, other = (task.metrics(values, labels)[name] for values in (first, second))
    resampled = task.resampled([first, second], labels, samples, seed)
    low, high = map(float, np.percentile(resampled[0][name] - resampled[1][name], _PERCENTILES))
    return {"difference": one - other, "low": low, "high": high}


def mean_and_spread(values: Sequence[float]) -> dict[str, float | int]:
    """Mean, sample standard deviation and number of the figures of several seeds; a lone one has deviation 0."""
    if len(values) == 0:
        raise ValueError("mean_and_spread needs at least one figure")
    array = np.asarray(values, dtype=np.float64)
    return {
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "n": len(array),
    }
