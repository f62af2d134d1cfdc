"""Bootstrap resamples of a test set: which rows are drawn together, and the metrics of each resample.

The intervals of `evaluate/significance.py` come from these. A resample is the number of times that each row is drawn:
two systems, or two seeds, that are given the same units and seed are evaluated on the same resamples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bertwright.arrays import Ints

Resampled = dict[str, NDArray[np.float64]]

_CHUNK = 200_000
"""Counts of rows that are made together: few enough for a processor's cache."""

_RUNS = 60
"""Runs of neighbouring rows that a test set is taken in; small parts of it are taken in more (`_LEAST_RUNS`)."""

_LEAST_RUNS = 10
"""Runs that the rows of a part make at least: one that covers them all would leave them the same in each resample."""

_ALIKE = 0.05
"""Probability of such likeness by chance, at each length, below which neighbours count as alike."""


@dataclass(frozen=True)
class Units:
    """What is drawn: rows one by one, whole groups of rows, or runs of neighbouring rows.

    Rows of one group, such as the reviews of one film, are right or wrong together more often than others: drawn one by
    one, they make an interval too narrow.

    Args:
        rows: how many rows there are.
        groups: the group's number of each row, (rows,), from 0; None where the data have no groups.
        length: the most rows of a run; 1 draws rows one by one. Runs of a small part are shorter. Groups decide where
            both are given.
        parts: rows of each part of a file that is sorted by class, in its order; no run reaches from one to the next,
            and each resample has as many rows of each as the file. By default all rows are one part.
    """

    rows: int
    groups: Ints | None = None
    length: int = 1
    parts: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many units there are."""
        if self.groups is not None:
            return int(self.groups.max()) + 1
        return sum(rows // self._length(rows) for rows in self._parts)

    @property
    def kind(self) -> str:
        """What is drawn, in words: texts, groups or runs."""
        return "groups" if self.groups is not None else "runs" if self.length > 1 else "texts"

    def summary(self) -> dict[str, Any]:
        """What is drawn, ready for JSON."""
        return {"unit": self.kind, "count": self.count, "run_length": self.length, "parts": list(self.parts)}

    @property
    def _parts(self) -> tuple[int, ...]:
        return self.parts or (self.rows,)

    def _length(self, rows: int) -> int:
        """Rows of a run in a part of so many rows."""
        return max(1, min(self.length, rows // _LEAST_RUNS))

    def kept(self, rows: NDArray[np.bool_]) -> Self:
        """The units of some of the rows, a mask (rows,)."""
        groups = None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1]
        ends = np.cumsum((0, *self.parts))
        parts = _joined([int(rows[a:b].sum()) for a, b in itertools.pairwise(ends)])
        return type(self)(int(rows.sum()), groups, self.length, parts)

    def resamples(self, samples: int, seed: int) -> Iterator[NDArray[np.float32]]:
        """How often each row is drawn, in chunks (some of the samples, rows)."""
        generator = np.random.default_rng(seed)
        together = max(1, _CHUNK // self.rows)
        for start in range(0, samples, together):
            yield self._draw(min(together, samples - start), generator).astype(np.float32)

    def _draw(self, samples: int, generator: np.random.Generator) -> Ints:
        if self.groups is not None:
            return _counted(generator.integers(0, self.count, (samples, self.count)), self.count)[:, self.groups]
        return np.concatenate([self._draw_runs(samples, rows, generator) for rows in self._parts], axis=1)

    def _draw_runs(self, samples: int, rows: int, generator: np.random.Generator) -> Ints:
        length = self._length(rows)
        drawn = _counted(generator.integers(0, rows, (samples, math.ceil(rows / length))), rows)
        if length == 1:
            return drawn
        # Runs begin anywhere and go round the end, so that each row is drawn equally often: a row is in the runs that
        # begin at it or up to length - 1 rows before it.
        begun = np.cumsum(np.concatenate([drawn[:, -length:], drawn], axis=1), axis=1)
        covered: Ints = begun[:, length:] - begun[:, :-length]
        return covered


def _counted(drawn: Ints, values: int) -> Ints:
    """How often each row of `drawn` (samples, draws) holds each number below `values`: (samples, values)."""
    samples = len(drawn)
    flat = (drawn + np.arange(samples)[:, None] * values).ravel()
    return np.bincount(flat, minlength=samples * values).reshape(samples, values)


def run_length(scores: NDArray[Any]) -> int:
    """The most rows of a run, which holds what neighbours have in common: 1 where they have nothing in common.

    Where neighbours are alike, the test set is taken in `_RUNS` runs, or in more where `Units` shortens those of small
    parts. Few long runs hold likeness of any reach, and
    Student's t pays for their number: intervals then hold the truth as often as they say, which shorter runs miss
    (`benchmarks/interval_coverage.py`; the reason is that of Sun 2014, "Let's Fix It: Fixed-b Asymptotics versus
    Small-b Asymptotics"). Neighbours are alike if the means of runs of some length differ more than chance has it.

    Args:
        scores: how good the prediction of each row is, (rows,), in the order of the data.
    """
    from scipy.special import chdtrc  # a fifth of a second, which a prediction does not wait for

    length, centred = len(scores) // _RUNS, np.asarray(scores, np.float64) - np.mean(scores)
    variance = float(centred.var())
    short = 4
    while short <= length and variance > 0:
        runs = len(scores) // short
        means = centred[: runs * short].reshape(runs, short).mean(axis=1)
        if chdtrc(runs, float((means**2).sum()) * short / variance) < _ALIKE:
            return length
        short *= 2
    return 1


def parts_by_class(labels: NDArray[Any]) -> tuple[int, ...]:
    """Rows of each class in a row, from labels (rows,), where a file is sorted by class; empty where it is not.

    A class of few rows is in one part with the class after it, or before it.
    """
    begins = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    if not 1 < len(begins) <= 2 * len(np.unique(labels)):
        return ()
    return _joined([int(rows) for rows in np.diff(begins, append=len(labels))])


def _joined(parts: list[int]) -> tuple[int, ...]:
    """Parts, each with the next ones until it has enough rows to vary: a lone row would be drawn once each time."""
    found: list[int] = []
    waiting = 0
    for rows in parts:
        waiting += rows
        if waiting >= _LEAST_RUNS:
            found.append(waiting)
            waiting = 0
    if waiting and found:
        found[-1] += waiting
    return tuple(found)


def resample_rows(
    metrics: Callable[[Any, Any], dict[str, float]],
    predictions: Any,
    labels: Any,
    units: Units,
    samples: int,
    seed: int,
) -> Resampled:
    """Metrics of resamples, each computed anew.

    Args:
        metrics: from predictions and labels, (rows, ...) both, to metrics by name.
        predictions: of a system.
        labels: of the rows.
        units: what is drawn.
        samples: number of resamples.
        seed: of the resamples.

    Returns:
        Metrics by name, (samples,) each.
    """
    found: list[dict[str, float]] = []
    for chunk in units.resamples(samples, seed):
        for times in chunk.astype(np.int64):
            rows = np.repeat(np.arange(units.rows), times)
            found.append(metrics(predictions[rows], labels[rows]))
    names = dict.fromkeys(name for one in found for name in one)
    return {name: np.array([one.get(name, np.nan) for one in found]) for name in names}


def resample_means(columns: dict[str, NDArray[Any]], units: Units, samples: int, seed: int) -> Resampled:
    """Means of resamples of metrics that are means over rows, from each row's value.

    Args:
        columns: the values of each metric, (rows,); a metric does not speak of a row with NaN.
        units: what is drawn.
        samples: number of resamples.
        seed: of the resamples.
    """
    values = np.stack([np.asarray(column, np.float64) for column in columns.values()], axis=1)  # (rows, metrics)
    counted = ~np.isnan(values)
    both = np.concatenate([np.where(counted, values, 0.0), counted], axis=1)
    drawn = np.concatenate([chunk.astype(np.float64) @ both for chunk in units.resamples(samples, seed)])
    sums, counts = np.split(drawn, 2, axis=1)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return dict(zip(columns, means.T, strict=True))


def resample_classes(
    probabilities: NDArray[Any], labels: Ints, positive: int, units: Units, samples: int, seed: int, areas: bool
) -> Resampled:
    """Accuracy, F1, Matthews correlation and, with two classes, macro-F1 of resamples; on demand the area under ROC.

    A metric that a resample does not define, such as the F1 of a class that it does not hold, is NaN.

    Args:
        probabilities: of a system, (rows, classes).
        labels: true classes, (rows,).
        positive: with two classes the one that F1 and area speak of.
        units: what is drawn.
        samples: number of resamples.
        seed: of the resamples.
        areas: whether areas are computed, too.
    """
    classes = probabilities.shape[1]
    true, predicted = (np.eye(classes, dtype=np.float32)[one] for one in (labels, probabilities.argmax(axis=1)))
    columns = np.concatenate([true * predicted, true + predicted, predicted], axis=1)  # (rows, 3 x classes)
    of_classes = [] if not areas else [positive] if classes == 2 else list(range(classes))
    ranked = [_rank_codes(labels == label, probabilities[:, label]) for label in of_classes]
    parts: list[Resampled] = []
    for chunk in units.resamples(samples, seed):
        counts = (chunk @ columns).astype(np.float64)  # sums of small whole numbers: exact
        hits, totals, chosen = np.split(counts, 3, axis=1)
        parts.append(ratios(hits, totals, positive) | {"matthews": matthews(hits, totals - chosen, chosen)})
        if areas:
            parts[-1]["roc_auc"] = np.array(
                [_mean_area([np.bincount(code, row, 2 * ranks) for code, ranks in ranked]) for row in chunk]
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tally(columns: list[Ints], classes: int) -> Ints:
    """How often each combination of the columns' classes occurs: one axis of length `classes` per column."""
    shape = (classes,) * len(columns)
    cells = np.ravel_multi_index(tuple(columns), shape)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


def ratios(hits: NDArray[np.float64], totals: NDArray[np.float64], positive: int) -> Resampled:
    """Accuracy and F1, (tables,), of counts by class.

    With two classes F1 is that of the positive one, macro-F1 stands next to that; with more, F1 is the mean over
    classes. A class that neither labels nor predictions name has no F1, and is left out of means.

    Args:
        hits: right predictions of each class, (tables, classes).
        totals: labels plus predictions of each class, (tables, classes).
        positive: a class.
    """
    present = totals > 0
    per_class = np.divide(2 * hits, totals, out=np.zeros(hits.shape), where=present)
    macro = per_class.sum(axis=1) / present.sum(axis=1)
    accuracy = 2 * hits.sum(axis=1) / totals.sum(axis=1)
    if hits.shape[1] > 2:
        return {"accuracy": accuracy, "f1": macro}
    f1 = np.where(present[:, positive], per_class[:, positive], np.nan)
    return {"accuracy": accuracy, "f1": f1, "macro_f1": macro}


def matthews(
    hits: NDArray[np.float64], true: NDArray[np.float64], predicted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Matthews correlation of counts by class, (tables,), with any number of classes (Gorodkin 2004).

    It is 0 where labels or predictions are of one class only.

    Args:
        hits: right predictions of each class, (tables, classes).
        true: labels of each class.
        predicted: predictions of each class.
    """
    rows = true.sum(axis=1)
    shared = hits.sum(axis=1) * rows - (true * predicted).sum(axis=1)
    spread = (rows**2 - (true**2).sum(axis=1)) * (rows**2 - (predicted**2).sum(axis=1))
    found: NDArray[np.float64] = np.divide(shared, np.sqrt(spread), out=np.zeros(len(rows)), where=spread > 0)
    return found


def _rank_codes(positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[Ints, int]:
    """For each row 2 x (rank of its score among the distinct scores) + (1 if positive), and the number of ranks.

    A histogram of these codes over any resample of rows gives the area under its ROC curve, so that the sort is paid
    once and not per resample.
    """
    distinct, ranks = np.unique(scores, return_inverse=True)
    return (2 * ranks + positive).astype(np.int64), len(distinct)


def _mean_area(histograms: list[NDArray[Any]]) -> float:
    """The area under the ROC curve, averaged over classes that have both positives and negatives; NaN if none has."""
    areas = []
    for histogram in histograms:
        negatives, positives = histogram[0::2], histogram[1::2]
        pairs = float(negatives.sum()) * float(positives.sum())
        if pairs:
            # Mann-Whitney: pairs in which the positive ranks higher, ties counting one half.
            below = np.cumsum(negatives) - negatives / 2
            areas.append(float((positives * below).sum()) / pairs)
    return float(np.mean(areas)) if areas else float("nan")
