"""Regression: one number for a text or a pair of texts, as similarity in STS-B (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.inputs import sequences
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head
from bertwright.models.sequence_heads import RegressionHead
from bertwright.tasks.answers import Shown
from bertwright.tasks.resampling import Resampled, Units
from bertwright.tasks.task import Progress
from bertwright.tasks.text_task import TextTask, mean_logits
from bertwright.text.records import Record

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class NumberPrediction:
    """The number of a text.

    Args:
        score: the number, in the unit of the labels.
    """

    score: float


@dataclass(frozen=True)
class Regression(TextTask):
    """A number for each text or pair; labels are float64 (records,), predictions float32 (records,).

    Args:
        mean: of the training labels.
        deviation: their standard deviation, above 0.
    """

    columns: tuple[str, ...] = ("text", "number")
    mean: float = 0.0
    deviation: float = 1.0
    name = "regression"
    primary_metric = "spearman"
    choosing_metrics = ("spearman", "pearson")
    bounds = (-1.0, 1.0)
    other_bounds = MappingProxyType({"rmse": (0.0, np.inf)})
    chance = "the mean of the training labels"
    answer_class = NumberPrediction

    def fitted(self, labels: Ints) -> Self:
        """The task with the unit that the head learns in: it is left where all labels are equal."""
        return replace(self, mean=float(np.mean(labels)), deviation=float(np.std(labels)) or 1.0)

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The name of the number: the one that the recipe gives, or `score`.

        Raises:
            UserError: if all labels are equal, or there is not one name.
        """
        numbers = {record.number for record in records}
        if len(numbers) < 2:
            raise UserError(f"{where} has one label alone, {', '.join(map(str, numbers))}; regression needs several")
        if given is not None and len(given) != 1:
            raise UserError(f"finetune.label_names has {len(given)} names, and a number has one; give one, or none")
        return list(given or ["score"])

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Numbers:
        """The numbers, float64 (records,)."""
        return np.array([record.number for record in records], np.float64)

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """Rows of 1 and the number, float32 (records, 2)."""
        return np.stack([np.ones(len(labels)), labels], axis=1).astype(np.float32)

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """One output on the pooled vector."""
        size, causal = encoder.config.hidden_size, encoder.causal
        return RegressionHead(size, dropout, causal, self.mean, self.deviation, encoder.pooler())

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """The numbers, from the mean of a text's outputs over its windows."""
        numbers: Floats = mean_logits(logits, parts)[:, 0].numpy()
        return numbers

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """The mean squared error."""
        return float(np.mean((predictions.astype(np.float64) - labels) ** 2))

    def chance_loss(self, known: Ints, labels: Ints) -> float:
        """The mean squared error of the training labels' mean."""
        return float(np.mean((labels - np.mean(known)) ** 2))

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """Spearman's and Pearson's correlation, and the root of the mean squared error, in the labels' unit.

        A correlation with numbers that are all equal is 0.

        Raises:
            ValueError: if there is no row, or a number is not finite.
        """
        _check(predictions, labels)
        found = moments(predictions, labels, np.ones((1, len(labels)), np.float32))
        return {name: float(values[0]) for name, values in found.items()}

    def warnings(self, predictions: Floats, labels: Ints, names: Sequence[str]) -> list[str]:
        """Numbers that are nearly all the same."""
        if np.std(predictions) >= 0.05 * np.std(labels) or np.std(labels) == 0:
            return []
        return [f"predicts nearly the same number, about {np.mean(predictions):.4g}, for every text"]

    def row_scores(self, predictions: Floats, labels: Ints) -> npt.NDArray[np.float64]:
        """Minus the squared error."""
        return -((predictions.astype(np.float64) - labels) ** 2)

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """All metrics of resamples."""
        parts = [moments(predictions, labels, chunk) for chunk in units.resamples(samples, seed)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """The mean of the training labels; ridge regression on TF-IDF, of pairs with their overlap."""
        from bertwright.tasks.baselines_numbers import fit_and_predict  # scikit-learn takes seconds to load

        constant = np.full(len(test), np.mean(labels), np.float32)
        return {"mean": constant, **fit_and_predict(train, labels, test, bool(self.pair), progress)}

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[NumberPrediction]:
        """A number for each text."""
        return [NumberPrediction(float(number)) for number in predictions]

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """The number, under its name."""
        return [names[0]]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """The number, with six digits."""
        return [float(f"{answer.score:.6g}")]

    def line(self, answer: Any, text: str) -> str:
        """The number, and the text."""
        return f"{answer.score:>12.4g}  {text}"

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """Both numbers; the further they are apart, the worse."""
        return Shown(f"{label:.4g}", f"{answer.score:.4g}", None, abs(answer.score - float(label)))


def _check(predictions: Numbers, labels: Numbers) -> None:
    if predictions.ndim != 1 or predictions.shape != labels.shape or len(labels) == 0:
        raise ValueError(f"labels {labels.shape} and numbers {predictions.shape} must have one shape, (rows,)")
    if not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
        raise ValueError("predictions or labels hold values that are not finite")


def moments(predictions: Numbers, labels: Numbers, times: npt.NDArray[np.float32]) -> Resampled:
    """Spearman's and Pearson's correlation, and the root of the mean squared error of resamples, (samples,) each.

    Args:
        predictions: (rows,).
        labels: (rows,).
        times: how often each row is in each resample, (samples, rows).
    """
    weights = times.astype(np.float64)
    both = [np.asarray(one, np.float64) for one in (predictions, labels)]
    ranks = [_ranks(one, weights) for one in both]
    error = (weights @ (both[0] - both[1]) ** 2) / weights.sum(axis=1)
    values = [np.broadcast_to(one - one.mean(), weights.shape) for one in both]
    return {
        "spearman": _correlation(ranks[0], ranks[1], weights),
        "pearson": _correlation(values[0], values[1], weights),
        "rmse": np.sqrt(error),
    }


def _ranks(values: Numbers, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rank of each row in each resample, the mean of the ranks of equal values, (samples, rows)."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.stack([np.bincount(place, row, len(distinct)) for row in weights])
    middle = np.cumsum(counts, axis=1) - (counts - 1) / 2
    found: npt.NDArray[np.float64] = middle[:, place]
    return found


def _correlation(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The correlation of each resample, all (samples, rows); 0 where one side is constant."""
    rows = weights.sum(axis=1, keepdims=True)
    centred = [one - (weights * one).sum(axis=1, keepdims=True) / rows for one in (a, b)]
    shared, first, second = ((weights * x * y).sum(axis=1) for x, y in (centred, (centred[0],) * 2, (centred[1],) * 2))
    # What rounding leaves of a constant is no spread.
    sizes = [np.abs(weights * one).max(axis=1) + np.abs(one).max(axis=1) for one in (a, b)]
    spread = np.where((first > (1e-12 * sizes[0]) ** 2) & (second > (1e-12 * sizes[1]) ** 2), first * second, 0.0)
    found = np.divide(shared, np.sqrt(spread), out=np.zeros(len(rows)), where=spread > 0)
    clipped: npt.NDArray[np.float64] = np.clip(found, -1.0, 1.0)
    return clipped
