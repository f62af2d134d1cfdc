"""How well texts are found for questions whose right texts are known: metrics of rankings, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bertwright.arrays import Ints
from bertwright.evaluate.significance import SAMPLES, interval
from bertwright.tasks.resampling import Units, resample_means

DEPTH = 10
"""How many texts of a ranking count."""

METRICS = {"ndcg_10": "nDCG@10", "recall_1": "recall@1", "recall_10": "recall@10", "mrr_10": "MRR@10"}
"""The names of the metrics, as a table has them."""

Values = dict[str, NDArray[np.float64]]
"""Each question's value of each metric, (questions,)."""


def metrics(rankings: Sequence[Ints], right: Sequence[Ints]) -> Values:
    """nDCG@10, recall@1, recall@10 and the reciprocal rank at 10 of each question; all right texts are equally right.

    nDCG: Järvelin and Kekäläinen 2002, "Cumulated Gain-based Evaluation of IR Techniques", with the logarithm of base 2
    and a gain of 1. Recall is the fraction of a question's right texts that are among the first.

    Args:
        rankings: of each question the numbers of texts, the best first, no right one twice; some may be missing.
        right: of each question the numbers of its right texts, one or more.

    Returns:
        By the names of `METRICS`, each from 0 to 1.
    """
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    found = np.zeros((len(rankings), DEPTH))
    for row, (ranking, own) in enumerate(zip(rankings, right, strict=True)):
        first = ranking[:DEPTH]
        found[row, : len(first)] = np.isin(first, own)
    counts = np.array([len(own) for own in right])
    ideal = discounts.cumsum()[np.minimum(counts, DEPTH) - 1]
    ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1, np.inf)
    return {
        "ndcg_10": found @ discounts / ideal,
        "recall_1": found[:, 0] / counts,
        "recall_10": found.sum(axis=1) / counts,
        "mrr_10": 1 / ranks,
    }


def with_intervals(values: Values, units: Units, against: Values | None = None) -> dict[str, dict[str, float]]:
    """The mean of each metric over the questions, or of its difference to that of another system, with 95 % intervals.

    Args:
        values: of a system, from `metrics`.
        units: which questions are drawn together.
        against: of another system, for the same questions.

    Returns:
        mean, low and high by metric; both ends are the mean where there is one unit alone.
    """
    own = values if against is None else {name: one - against[name] for name, one in values.items()}
    bounds = (0.0, 1.0) if against is None else (-np.inf, np.inf)
    resampled = resample_means(own, units, SAMPLES, 0)
    found = {}
    for name, one in own.items():
        mean = float(one.mean())
        low, high = interval(resampled[name][:, None], np.array([mean]), units.count, bounds) or (mean, mean)
        found[name] = {"mean": mean, "low": low, "high": high}
    return found
