"""How often 95 % intervals hold the true figure, over simulated studies whose truth is known.

    python benchmarks/interval_coverage.py --studies 2000

A study draws a test set and the predictions of one or two systems; the true metrics follow from the distribution that
they are drawn from. Its intervals are those of the report (`evaluate/significance.py`). With 2,000 studies, 19 of 20
measurements of an interval that holds the truth in 95 % of all cases lie between 94.0 and 96.0 %.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray
from scipy.stats import norm

from bertwright.arrays import Ints
from bertwright.evaluate.significance import difference, scores
from bertwright.tasks.resampling import Units, ratios, run_length
from bertwright.tasks.sequence import Classification
from common import described, write

Floats = NDArray[np.float64]


class WithoutAreas(Classification):
    """Classification without the area under the ROC curve, whose resamples take most of the time."""

    def resampled(
        self, predictions: Any, labels: Ints, units: Units, samples: int, seed: int, only: str | None = "f1"
    ) -> dict[str, Floats]:
        """Accuracy, F1 and macro-F1 of resamples."""
        return super().resampled(predictions, labels, units, samples, seed, "f1")


TASK = WithoutAreas()
SAMPLES = 600


@dataclass(frozen=True)
class Case:
    """A kind of study.

    Args:
        frequencies: of the classes.
        recalls: of each class, by a system of average seed.
        baseline: the same of a second system; the study is then of the difference of F1.
        rows: of the test set.
        unit: what rows have in common: nothing; a known group; or a group that the data do not name, whose rows are
            neighbours.
        size: the average number of rows of a group.
        alike: how much of a row's difficulty its group has.
        seeds: fine-tuning runs.
        spread: how far seeds differ, in standard deviations of the difficulty of rows.
    """

    frequencies: tuple[float, ...] = (0.8, 0.2)
    recalls: tuple[float, ...] = (0.95, 0.75)
    baseline: tuple[float, ...] | None = None
    rows: int = 400
    unit: str = "rows"
    size: int = 10
    alike: float = 0.3
    seeds: int = 1
    spread: float = 0.1


_RARE = {"frequencies": (0.58, 0.38, 0.04), "recalls": (0.9, 0.85, 0.5)}
CASES = {
    "single rows": Case(),
    "single rows, a class of 4 % among three": Case(**_RARE),
    "single rows, a class of 4 % among two": Case(frequencies=(0.96, 0.04), recalls=(0.98, 0.6), rows=500),
    "60 groups": Case(unit="groups", rows=600),
    "25 groups": Case(unit="groups", rows=500, size=20),
    "unknown groups of neighbours": Case(unit="neighbours", rows=3000),
    "no groups, run length estimated": Case(unit="neighbours", rows=3000, alike=0.0),
    "2 seeds": Case(seeds=2),
    "3 seeds": Case(seeds=3),
    "5 seeds": Case(seeds=5),
    "5 seeds that differ much": Case(seeds=5, spread=0.3),
    "3 seeds, 60 groups": Case(seeds=3, unit="groups", rows=600),
    "difference": Case(baseline=(0.93, 0.7)),
    "difference, a class of 4 % among three": Case(**_RARE, baseline=(0.88, 0.83, 0.4)),
    "difference, 3 seeds": Case(baseline=(0.93, 0.7), seeds=3),
    "difference, 60 groups": Case(baseline=(0.93, 0.7), unit="groups", rows=600),
    "difference, 3 seeds, 60 groups": Case(baseline=(0.93, 0.7), unit="groups", rows=600, seeds=3),
}


def truth(frequencies: Floats, thresholds: Floats, spread: float) -> dict[str, float]:
    """The metrics of an endless test set, averaged over endlessly many seeds."""
    seeds = norm.ppf((np.arange(2001) + 0.5) / 2001)[:, None] * spread
    hits = frequencies * norm.cdf(thresholds + seeds)  # (seeds, classes)
    wrong = frequencies - hits
    predicted = hits + (wrong.sum(axis=1, keepdims=True) - wrong) / (len(frequencies) - 1)
    return {name: float(values.mean()) for name, values in ratios(hits, frequencies + predicted, 1).items()}


def study(case: Case, generator: np.random.Generator) -> tuple[Ints, list[Floats], Floats | None, Ints | None]:
    """Labels (rows,), one-hot predictions of the runs and of the baseline (rows, classes), and groups (rows,)."""
    classes = len(case.frequencies)
    groups = None
    shared = np.zeros(case.rows)
    if case.unit != "rows":
        sizes = generator.integers(case.size // 2, case.size + case.size // 2 + 1, case.rows // case.size)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        shared = generator.normal(size=len(sizes))[groups] * np.sqrt(case.alike)
    rows = len(shared)
    labels = generator.choice(classes, rows, p=case.frequencies)
    rest = 1 - case.alike * (case.unit != "rows")
    shared = shared + generator.normal(size=rows) * np.sqrt(rest / 2)  # half of a row's difficulty is for all systems

    def predictions(recalls: tuple[float, ...], spread: float) -> Floats:
        threshold = norm.ppf(recalls)[labels] + generator.normal() * spread
        right = shared + generator.normal(size=rows) * np.sqrt(rest / 2) < threshold
        other = (labels + generator.integers(1, classes, rows)) % classes
        return np.eye(classes)[np.where(right, labels, other)]

    runs = [predictions(case.recalls, case.spread if case.seeds > 1 else 0.0) for _ in range(case.seeds)]
    return labels, runs, predictions(case.baseline, 0.0) if case.baseline else None, groups


def coverage(case: Case, studies: int, seed: int) -> dict[str, dict[str, float]]:
    """By metric: the fractions of studies whose interval holds the truth, lies below or above it; its mean width."""
    generator = np.random.default_rng(seed)
    frequencies = np.array(case.frequencies)
    expected = truth(frequencies, norm.ppf(case.recalls), case.spread if case.seeds > 1 else 0.0)
    if case.baseline:
        expected = {"f1": expected["f1"] - truth(frequencies, norm.ppf(case.baseline), 0.0)["f1"]}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in expected}
    for number in range(studies):
        labels, runs, baseline, groups = study(case, generator)
        units = Units(len(labels), groups if case.unit == "groups" else None)
        if case.unit == "neighbours":
            units = Units(len(labels), length=max(run_length(TASK.row_scores(run, labels)) for run in runs))
        if baseline is not None:
            ends = difference(TASK, labels, runs, baseline, units, SAMPLES, number)
            found["f1"].append((ends["low"], ends["high"]))
            continue
        one = scores(TASK, runs, labels, units, SAMPLES, number)
        for name, held in found.items():
            held.append((one[f"{name}_low"], one[f"{name}_high"]))
    result = {}
    for name, held in found.items():
        low, high = np.array(held).T
        below, above = (high < expected[name] - 1e-12).mean(), (low > expected[name] + 1e-12).mean()
        result[name] = {
            "truth": expected[name],
            "coverage": float(1 - below - above),
            "below": float(below),
            "above": float(above),
            "mean_width": float((high - low).mean()),
        }
    return result


def main(studies: int = 2000, only: str | None = None, out: str = "results/intervals/coverage.json") -> None:
    """Measure the coverage of the report's intervals.

    Args:
        studies: simulated studies of each case.
        only: the one case to measure; then nothing is written.
        out: the file to write.
    """
    chosen = [name for name in CASES if only in (None, name)]
    cases = {}
    with ProcessPoolExecutor() as pool:
        found = pool.map(coverage, [CASES[name] for name in chosen], [studies] * len(chosen), range(len(chosen)))
        for name, result in zip(chosen, found, strict=True):
            cases[name] = result
            line = "; ".join(f"{metric} {100 * one['coverage']:.1f} %" for metric, one in result.items())
            print(f"{name}: {line}", flush=True)
    if only is None:
        write({"studies": studies, "resamples": SAMPLES, "cases": cases, **described()}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
