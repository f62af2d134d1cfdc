"""Scores of a classifier on a test set, with bootstrap intervals: pure functions on arrays.

Point scores agree with scikit-learn, which is the reference in the tests. The intervals are 95 % percentile bootstrap
intervals over test rows: they say how far a score could move with another test set of the same size, not with another
training run. For the latter, fine-tune with several seeds and see `mean_and_spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PERCENTILES = (2.5, 97.5)


def classification_scores(
    labels: ArrayLike, probabilities: ArrayLike, bootstrap_samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Scores of predicted probabilities against true labels, ready for JSON.

    With two classes, precision, recall, f1 and roc_auc are those of class 1; with more, they are macro averages, and
    roc_auc compares each class with all others. A ratio with denominator zero counts as 0. The predicted class is the
    most probable one, the lower one in a tie.

    Args:
        labels: true classes, (rows,), integers from 0.
        probabilities: (rows, classes); any scores that rank classes work, they need not add up to 1.
        bootstrap_samples: resamples behind each interval; 0 leaves the intervals out.
        seed: the seed of the resamples.

    Returns:
        accuracy, precision, recall, f1, roc_auc; `<name>_low` and `<name>_high` for accuracy, f1 and roc_auc; confusion
        as nested lists, true classes in rows; count. roc_auc is absent when the labels hold one class only, where it
        is not defined.
    """
    truth, scores = _checked(labels, probabilities)
    count, classes = scores.shape
    confusion = _tally([truth, scores.argmax(axis=1)], classes)
    result: dict[str, Any] = {name: float(value[0]) for name, value in _ratios(confusion[None]).items()}

    ranked = [_rank_codes(truth == label, scores[:, label]) for label in ([1] if classes == 2 else range(classes))]
    area = _mean_area([np.bincount(codes, minlength=groups * 2) for codes, groups in ranked])
    if np.isfinite(area):
        result["roc_auc"] = area

    if bootstrap_samples > 0:
        generator = np.random.default_rng(seed)
        # Accuracy and F1 depend on the confusion matrix alone, and resampling rows resamples its cells.
        resampled = generator.multinomial(count, confusion.ravel() / count, size=bootstrap_samples)
        ratios = _ratios(resampled.reshape(bootstrap_samples, classes, classes))
        for name in ("accuracy", "f1"):
            _put_interval(result, name, ratios[name])
        if "roc_auc" in result:
            areas = np.empty(bootstrap_samples)
            for sample in range(bootstrap_samples):
                rows = generator.integers(0, count, size=count)
                areas[sample] = _mean_area([np.bincount(codes[rows], minlength=n * 2) for codes, n in ranked])
            _put_interval(result, "roc_auc", areas)
    return {**result, "confusion": confusion.tolist(), "count": count}


def f1_difference(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, bootstrap_samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """How much higher the first system's F1 is than the second's, with a paired bootstrap interval.

    Both systems are judged on the same resampled rows. That is much sharper than asking whether two separate intervals
    overlap, since most rows are easy, or hard, for both.

    Args:
        labels: true classes, (rows,).
        first: probabilities of one system, (rows, classes).
        second: probabilities of the other, (rows, classes).
        bootstrap_samples: resamples behind the interval.
        seed: the seed of the resamples.

    Returns:
        difference, low, high.
    """
    truth, first_scores = _checked(labels, first)
    _, second_scores = _checked(labels, second)
    if first_scores.shape != second_scores.shape:
        raise ValueError(f"the systems' probabilities differ in shape: {first_scores.shape}, {second_scores.shape}")
    count, classes = first_scores.shape
    joint = _tally([truth, first_scores.argmax(axis=1), second_scores.argmax(axis=1)], classes)
    resampled = np.random.default_rng(seed).multinomial(count, joint.ravel() / count, size=bootstrap_samples)
    tables = np.concatenate([joint[None], resampled.reshape(bootstrap_samples, *joint.shape)])
    differences = _ratios(tables.sum(axis=3))["f1"] - _ratios(tables.sum(axis=2))["f1"]
    low, high = np.percentile(differences[1:], _PERCENTILES)
    return {"difference": float(differences[0]), "low": float(low), "high": float(high)}


def mean_and_spread(scores: Sequence[float]) -> dict[str, float | int]:
    """Mean, sample standard deviation and number of the scores of several seeds; one score has standard deviation 0."""
    if len(scores) == 0:
        raise ValueError("mean_and_spread needs at least one score")
    values = np.asarray(scores, dtype=np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "n": len(values),
    }


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or scores.ndim != 2 or len(truth) != len(scores) or len(truth) == 0 or scores.shape[1] < 2:
        raise ValueError(
            f"labels {truth.shape} and probabilities {scores.shape} must have shapes (rows,) and (rows, classes), "
            "with at least one row and two classes"
        )
    if not np.isfinite(scores).all():
        raise ValueError("probabilities hold values that are not finite")
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"labels lie outside 0 to {scores.shape[1] - 1}, the classes that probabilities have")
    return truth.astype(np.int64), scores


def _tally(columns: list[NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    """How often each combination of the columns' classes occurs: one axis of length `classes` per column."""
    shape = (classes,) * len(columns)
    cells = np.ravel_multi_index(tuple(columns), shape)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


def _ratios(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Accuracy, precision, recall and F1, each (tables,), of confusion matrices (tables, true class, predicted class).

    Binary: class 1. More classes: the mean over classes.
    """
    classes = confusion.shape[-1]
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    predicted, actual = confusion.sum(axis=1), confusion.sum(axis=2)
    per_class = {
        "precision": _divide(hits, predicted),
        "recall": _divide(hits, actual),
        "f1": _divide(2 * hits, predicted + actual),
    }
    accuracy = hits.sum(axis=1) / confusion.sum(axis=(1, 2))
    return {
        "accuracy": accuracy,
        **{name: value[:, 1] if classes == 2 else value.mean(axis=1) for name, value in per_class.items()},
    }


def _divide(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.zeros(numerator.shape, dtype=np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _rank_codes(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """For each row 2 x (rank of its score among the distinct scores) + (1 if positive), and the number of ranks.

    A histogram of these codes over any resample of rows is all that the area under its ROC curve needs, so that the
    sort is paid once and not per resample.
    """
    distinct, ranks = np.unique(scores, return_inverse=True)
    return (2 * ranks + positive).astype(np.int64), len(distinct)


def _mean_area(histograms: list[NDArray[np.int64]]) -> float:
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


def _put_interval(result: dict[str, Any], name: str, values: NDArray[np.float64]) -> None:
    """Add the percentiles; a tiny test set has resamples with one class only, whose area is not defined."""
    finite = values[np.isfinite(values)]
    if len(finite):
        low, high = np.percentile(finite, _PERCENTILES)
        result[f"{name}_low"], result[f"{name}_high"] = float(low), float(high)
