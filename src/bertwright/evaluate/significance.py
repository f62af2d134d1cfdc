"""How sure a figure is: bootstrap intervals of a system, and of the difference between two, for any task.

Intervals of 95 % follow Student's t, with the spread that a bootstrap over the test set shows. It draws the units that
are independent of each other (`tasks/resampling.py`); the fewer there are, the wider the interval. Over several
fine-tuning seeds it holds the spread between seeds, too; with one it cannot. `benchmarks/interval_coverage.py` measures
how often intervals hold the true figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from bertwright.tasks.resampling import Units
from bertwright.tasks.task import Task

SAMPLES = 1000
"""Resamples behind an interval."""

_OUTSIDE = 0.025
"""Probability beyond each end."""


def interval(
    resampled: NDArray[np.float64],
    found: NDArray[np.float64],
    count: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float] | None:
    """The 95 % interval of a figure that is the mean over runs, one per fine-tuning seed; None if it is not defined.

    The figure errs in two independent ways: the test set is harder or easier for all runs, which the resamples show;
    and runs differ among themselves, by seed and by the texts on which each errs. Each part has a variance and degrees
    of freedom, which Satterthwaite's rule joins (1946, "An Approximate Distribution of Estimates of Variance
    Components"); runs that are alike by chance make no interval narrower than the resamples of their mean. Between
    bounds the interval is that of the log-odds of where the figure stands, since the figure errs further towards the
    middle; so it never reaches a bound. Above a lower bound alone it is that of the logarithm.

    Args:
        resampled: the figure of each run on the same resamples, (samples, runs).
        found: the figure of each run on the test set, (runs,).
        count: independent units of the test set.
        bounds: the lowest and highest value that the figure can have, infinite if it has none.
    """
    values = resampled[np.isfinite(resampled).all(axis=1)]  # a tiny test set has resamples without the metric
    if len(values) == 0 or count < 2:
        return None
    means, runs = values.mean(axis=1), len(found)
    centre = float(found.mean())
    of_tests = float(means.var()) * count / (count - 1)
    reach = _reach(np.array([of_tests]), np.array([count - 1])) if of_tests > 0 else 0.0
    if runs > 1 and found.var() > 0:
        apart = float((values - means[:, None]).var(axis=0).mean()) / (runs - 1)  # of tests, but not shared by all runs
        variances = np.array([max(0.0, of_tests - apart), found.var(ddof=1) / runs])
        reach = max(reach, _reach(variances, np.array([count - 1, runs - 1])))
    low, high = bounds
    if low < centre and np.isfinite(low) and not np.isfinite(high):
        factor = float(np.exp(reach / (centre - low)))
        return low + (centre - low) / factor, low + (centre - low) * factor
    if not (np.isfinite([low, high]).all() and low < centre < high):
        return centre - reach, centre + reach
    place = (centre - low) / (high - low)
    ends = special.expit(special.logit(place) + np.array([-1, 1]) * reach / (high - low) / (place * (1 - place)))
    return float(low + (high - low) * ends[0]), float(low + (high - low) * ends[1])


def _reach(variances: NDArray[np.float64], freedom: NDArray[np.int64]) -> float:
    """How far the sum of independent errors is from 0 at most in 95 % of all cases."""
    joined = variances.sum() ** 2 / (variances**2 / freedom).sum()
    return float(stats.t.ppf(1 - _OUTSIDE, joined) * np.sqrt(variances.sum()))


def scores(
    task: Task,
    predictions: NDArray[Any] | Sequence[NDArray[Any]],
    labels: NDArray[Any],
    units: Units | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The metrics of a system with their intervals, ready for JSON.

    Args:
        task: computes metrics.
        predictions: of the system, (rows, ...); or of its runs, one per fine-tuning seed, whose metrics are averaged.
        labels: (rows,).
        units: what is drawn for a resample; by default single rows.
        samples: resamples behind each interval; 0 leaves the intervals out.
        seed: of the resamples.

    Returns:
        The metrics that all runs define, by name, `<name>_low` and `<name>_high` for those that the task resamples,
        what the task tells beside of the first run, and count.
    """
    runs = [predictions] if isinstance(predictions, np.ndarray) else list(predictions)
    units = units or Units(len(labels))
    by_run = [task.metrics(run, labels) for run in runs]
    # A metric that one of the runs does not define has no mean.
    names = [name for name in by_run[0] if all(name in one for one in by_run)]
    result: dict[str, Any] = {name: float(np.mean([one[name] for one in by_run])) for name in names}
    if samples > 0:
        resampled = [task.resampled(run, labels, units, samples, seed) for run in runs]
        for name in [name for name in names if all(name in one for one in resampled)]:
            found = np.array([one[name] for one in by_run])
            bounds = task.other_bounds.get(name, task.bounds)
            ends = interval(np.stack([one[name] for one in resampled], axis=1), found, units.count, bounds)
            if ends is not None:
                result[f"{name}_low"], result[f"{name}_high"] = ends
    return {**result, **task.details(runs[0], labels), "count": len(labels)}


def difference(
    task: Task,
    labels: NDArray[Any],
    first: NDArray[Any] | Sequence[NDArray[Any]],
    second: NDArray[Any] | Sequence[NDArray[Any]],
    units: Units | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    metric: str | None = None,
) -> dict[str, float]:
    """How much higher a metric of the first system is than the second's, with a paired bootstrap interval.

    All runs of both systems are evaluated on the same resamples. That is much sharper than asking
    whether two separate intervals overlap, since most rows are easy, or hard, for both.

    Args:
        task: computes metrics.
        labels: (rows,).
        first: predictions of one system, (rows, ...); or of its runs, one per fine-tuning seed.
        second: predictions of the other, of the same rows; or of its runs, as many as the first has, in the order of
            their seeds. The difference is taken within a seed.
        units: what is drawn for a resample; by default single rows.
        samples: resamples behind the interval.
        seed: of the resamples.
        metric: the metric; by default the task's primary one.

    Returns:
        difference, low, high; the ends are absent where no resample defines the metric.
    """
    runs = [first] if isinstance(first, np.ndarray) else list(first)
    others = [second] if isinstance(second, np.ndarray) else list(second)
    if len(others) not in (1, len(runs)):
        raise ValueError(f"the systems have {len(runs)} and {len(others)} runs; give one a seed of both")
    for run in [*runs, *others]:
        if len(run) != len(labels):
            raise ValueError(f"there are {len(labels)} labels, and a system has predictions of {len(run)} rows")
    name, units = metric or task.primary_metric, units or Units(len(labels))

    def measured(one: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
        return task.metrics(one, labels)[name], task.resampled(one, labels, units, samples, seed, only=name)[name]

    ours, theirs = ([measured(one) for one in system] for system in (runs, others))
    pairs = list(zip(ours, theirs * (len(ours) // len(theirs)), strict=True))
    found = np.array([one - other for (one, _), (other, _) in pairs])
    ends = interval(np.stack([one - other for (_, one), (_, other) in pairs], axis=1), found, units.count)
    return {"difference": float(found.mean()), **({} if ends is None else {"low": ends[0], "high": ends[1]})}


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
