"""Bootstrap resamples of a test set: in general row by row, and for classes by resampling a confusion matrix.

The intervals of `evaluate/significance.py` are percentiles of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Resampled = dict[str, NDArray[np.float64]]


def resample_rows(
    metrics: Callable[[Any, Any], dict[str, float]], systems: Sequence[Any], labels: Any, samples: int, seed: int
) -> list[Resampled]:
    """Metrics of resamples of rows, each computed anew.

    Args:
        metrics: from predictions and labels, (rows, ...) both, to metrics by name.
        systems: predictions of each system.
        labels: of the rows.
        samples: number of resamples.
        seed: of the resamples.

    Returns:
        For each system its metrics by name, (samples,) each; the same rows for each system.
    """
    generator = np.random.default_rng(seed)
    found: list[list[dict[str, float]]] = [[] for _ in systems]
    for _ in range(samples):
        rows = generator.integers(0, len(labels), size=len(labels))
        for system, values in zip(found, systems, strict=True):
            system.append(metrics(values[rows], labels[rows]))
    return [{name: np.array([one[name] for one in system]) for name in system[0]} for system in found]


def resample_classes(systems: Sequence[NDArray[Any]], labels: Ints, samples: int, seed: int) -> list[Resampled]:
    """Accuracy and F1 of resamples, for one or two systems; for one also the area under the ROC curve.

    Accuracy and F1 depend on the confusion matrix alone, and resampling rows resamples its cells: no row is touched.

    Args:
        systems: probabilities of each system, (rows, classes).
        labels: true classes, (rows,).
        samples: number of resamples.
        seed: of the resamples.
    """
    count, classes = systems[0].shape
    joint = tally([labels, *(values.argmax(axis=1) for values in systems)], classes)
    generator = np.random.default_rng(seed)
    tables = generator.multinomial(count, joint.ravel() / count, size=samples).reshape(samples, *joint.shape)
    axes = range(2, 2 + len(systems))
    found = [ratios(tables.sum(axis=tuple(axis for axis in axes if axis != own))) for own in axes]
    if len(systems) == 1:
        areas = _resampled_areas(systems[0], labels, samples, generator)
        found[0] |= {} if areas is None else {"roc_auc": areas}
    return found


def tally(columns: Sequence[Ints], classes: int) -> Ints:
    """How often each combination of the columns' classes occurs: one axis of length `classes` per column."""
    shape = (classes,) * len(columns)
    cells = np.ravel_multi_index(tuple(columns), shape)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


def ratios(confusions: Ints) -> Resampled:
    """Accuracy and F1, (tables,), of confusion matrices (tables, true class, predicted class).

    With two classes F1 is that of class 1; with more, the mean over classes. A ratio with denominator zero is 0.
    """
    classes = confusions.shape[-1]
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    total = confusions.sum(axis=1) + confusions.sum(axis=2)
    per_class = np.divide(2 * hits, total, out=np.zeros(hits.shape), where=total > 0)
    f1 = per_class[:, 1] if classes == 2 else per_class.mean(axis=1)
    return {"accuracy": hits.sum(axis=1) / confusions.sum(axis=(1, 2)), "f1": f1}


def _resampled_areas(
    scores: NDArray[Any], labels: Ints, samples: int, generator: np.random.Generator
) -> NDArray[np.float64] | None:
    """The mean area under the ROC curve of each resample, (samples,); None where labels are of one class only."""
    count, classes = scores.shape
    ranked = [_rank_codes(labels == label, scores[:, label]) for label in ([1] if classes == 2 else range(classes))]
    if not np.isfinite(_mean_area([np.bincount(codes, minlength=ranks * 2) for codes, ranks in ranked])):
        return None
    areas = np.empty(samples)
    for sample in range(samples):
        rows = generator.integers(0, count, size=count)
        areas[sample] = _mean_area([np.bincount(codes[rows], minlength=ranks * 2) for codes, ranks in ranked])
    return areas


def _rank_codes(positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[Ints, int]:
    """For each row 2 x (rank of its score among the distinct scores) + (1 if positive), and the number of ranks.

    A histogram of these codes over any resample of rows gives the area under its ROC curve, so that the sort is paid
    once and not per resample.
    """
    distinct, ranks = np.unique(scores, return_inverse=True)
    return (2 * ranks + positive).astype(np.int64), len(distinct)


def _mean_area(histograms: list[Ints]) -> float:
    """The area under the ROC curve, averaged over classes that have both positives and negatives; NaN if none has."""
    areas = []
    for histogram in histograms:
        negatives, positives = histogram[0::2], histogram[1::2]
        pairs = int(negatives.sum()) * int(positives.sum())
        if pairs:
            # Mann-Whitney: pairs in which the positive ranks higher, ties counting one half.
            below = np.cumsum(negatives) - negatives / 2
            areas.append(float((positives * below).sum()) / pairs)
    return float(np.mean(areas)) if areas else float("nan")
