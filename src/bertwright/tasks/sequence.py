"""Classification, the paper's sequence-level task (section 4.1): one label for a text, or for a pair of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.inputs import sequences
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head, SequenceHead
from bertwright.tasks.answers import Prediction
from bertwright.tasks.log_loss import frequency_loss, log_loss
from bertwright.tasks.resampling import Resampled, Units, matthews, resample_classes, tally
from bertwright.tasks.task import Progress
from bertwright.tasks.text_task import TextTask, mean_logits
from bertwright.text.records import Record, ordered_classes

_REAL = re.compile(r"[-+]?(\d+[.,]\d*|[.,]\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?inf")
"""A number that is not whole, with a decimal point or comma; `text.records` writes 1.0 as 1."""

_COLLAPSED = 0.95
"""A class that is predicted for this part of the texts, or for more, is predicted nearly always."""


@dataclass(frozen=True)
class Classification(TextTask):
    """One of K classes for each text or pair; predictions are probabilities, float32 (records, K).

    Args:
        positive: with two classes the one that precision, recall, F1 and area speak of.
        choosing_metrics: what a checkpoint can be chosen by.
    """

    positive: int = 1
    name = "classification"
    primary_metric = "f1"
    choosing_metrics: tuple[str, ...] = ("f1", "accuracy", "macro_f1", "matthews", "roc_auc")
    bounds = (0.0, 1.0)
    other_bounds = MappingProxyType({"matthews": (-1.0, 1.0)})

    def about(self, positive_label: str | None, names: Sequence[str]) -> Self:
        """With two classes, metrics of the named one; by default of the second. With more, F1 itself is macro-F1.

        Raises:
            UserError: if there is no such class, or there are more than two.
        """
        if positive_label is None:
            of_these = [name for name in self.choosing_metrics if name != "macro_f1" or len(names) == 2]
            return replace(self, positive=1, choosing_metrics=tuple(of_these))
        if len(names) != 2:
            raise UserError(
                f"finetune.positive_label is for two classes, and the data have {len(names)}, whose F1 is the mean "
                "over classes; leave it out"
            )
        if positive_label not in names:
            raise UserError(f"finetune.positive_label is `{positive_label}`; the classes are {', '.join(names)}")
        return replace(self, positive=list(names).index(positive_label))

    def positive_label(self, names: Sequence[str]) -> str | None:
        """With two classes the name of the one that F1 speaks of."""
        return names[self.positive] if len(names) == 2 else None

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The classes: as the data's schema orders them, whole numbers by value, others sorted as text.

        Names that are given replace those of the data, in that order; if they are the same names, they say the order.

        Raises:
            UserError: if there are fewer than two classes, labels are real numbers, or the names that are given do not
                fit: one for each class, and none that the data use for another class.
        """
        _check_classes(records, where)
        found = ordered_classes(records)
        if len(found) < 2:
            only = f"has only the label `{found[0]}`" if found else "holds no labelled text"
            raise UserError(f"{where} {only}; classification needs texts of at least two classes")
        if given is None or set(given) == set(found):
            return list(given or found)
        if len(given) != len(found):
            raise UserError(
                f"finetune.label_names has {len(given)} names, but the data have {len(found)} classes: "
                f"{', '.join(found)}"
            )
        for name, own in zip(given, found, strict=True):
            if name != own and name in found:
                raise UserError(
                    f"finetune.label_names calls the label `{own}` of the data `{name}`, which is another label of "
                    f"theirs; give a name for each of {', '.join(found)}, in this order"
                )
        return list(given)

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Ints:
        """Class numbers, int64 (records,).

        Raises:
            UserError: if a label is not among those of train.
        """
        found = ordered_classes(known)
        order = list(names) if set(names) == set(found) else found
        numbers = {written: number for number, written in enumerate(order)}
        for record in records:
            if record.label not in numbers:
                raise UserError(
                    f"{where}: text {record.id} has label {record.label}, but train has only {', '.join(numbers)}"
                    + (f" ({record.place})" if record.place else "")
                )
        return np.array([numbers[str(record.label)] for record in records], np.int64)

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """One-hot rows, float32 (records, K)."""
        return np.eye(len(names), dtype=np.float32)[labels]

    def text_weights(
        self, labels: Ints, names: Sequence[str], weights: Literal["balanced"] | Mapping[str, float]
    ) -> Floats:
        """The weight of each text's class, float32 (records,), scaled to a mean of 1 over the texts.

        Balanced weights are those of scikit-learn: inversely proportional to how frequent classes are.

        Raises:
            UserError: if a weight is missing, or is of no class.
        """
        counts = np.bincount(labels, minlength=len(names))
        if weights == "balanced":
            by_class = 1 / np.maximum(counts, 1)
        else:
            if set(weights) != set(names):
                raise UserError(
                    f"finetune.class_weights names {', '.join(weights)}, and the classes are {', '.join(names)}; give "
                    "a number for each"
                )
            by_class = np.array([weights[name] for name in names])
        scaled: Floats = (by_class / by_class[labels].mean())[labels].astype(np.float32)
        return scaled

    def strata(self, labels: Ints) -> Ints:
        """The classes."""
        return labels

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """A classifier on the pooled vector."""
        return SequenceHead(encoder.config.hidden_size, len(names), dropout, encoder.causal, encoder.pooler())

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """Probabilities of the classes, from the mean of a text's logits over its windows."""
        probabilities: Floats = mean_logits(logits, parts).softmax(-1).numpy()
        return probabilities

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """Mean of minus the log-probability, in nats, of each text's class."""
        return log_loss(predictions, labels)

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """Accuracy, precision, recall, F1, Matthews correlation and area under the ROC curve, by scikit-learn.

        With two classes, precision, recall, F1 and area are those of the positive class, and macro-F1 stands beside
        them; with more, they are means over classes, and the area compares each class with all others. A ratio with
        denominator zero is 0; a class that neither labels nor predictions name is left out of means. The predicted
        class is the most probable one, the lower one in a tie. The Matthews correlation, of all classes, is 0 where
        labels or predictions are of one class only; there the area is absent, if labels are.

        Raises:
            ValueError: if a prediction is not finite, or a label is not a class.
        """
        from sklearn.metrics import f1_score, precision_recall_fscore_support  # takes seconds to load

        _check(predictions, labels)
        predicted = predictions.argmax(axis=1)
        options: dict[str, Any] = {"average": "macro", "zero_division": 0.0}
        two = predictions.shape[1] == 2
        own = {"average": "macro", "labels": [self.positive]} if two else {}
        precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, **options | own)
        area = _area(predictions, labels, self.positive)
        return (
            {
                "accuracy": float((predicted == labels).mean()),
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
            }
            | ({"macro_f1": float(f1_score(labels, predicted, **options))} if two else {})
            | {"matthews": _matthews(labels, predicted, predictions.shape[1])}
            | ({} if area is None else {"roc_auc": area})
        )

    def details(self, predictions: Floats, labels: Ints) -> dict[str, Any]:
        """The confusion matrix as nested lists, true classes in rows."""
        return {"confusion": tally([labels, predictions.argmax(axis=1)], predictions.shape[1]).tolist()}

    def warnings(self, predictions: Floats, labels: Ints, names: Sequence[str]) -> list[str]:
        """A class that is predicted nearly always, though it is clearly rarer, and classes that are never predicted."""
        count, classes = len(labels), len(names)
        predicted = np.bincount(predictions.argmax(axis=1), minlength=classes)
        true = np.bincount(labels, minlength=classes)
        most = int(predicted.argmax())
        found = []
        # Clearly: by more than two standard deviations of a count drawn at random.
        clearly = predicted[most] - true[most] > 2 * np.sqrt(max(true[most] * (count - true[most]) / count, 1.0))
        if predicted[most] >= _COLLAPSED * count and clearly:
            found.append(
                f"predicts `{names[most]}` for {predicted[most]:,} of {count:,} texts, though only {true[most]:,} have "
                "this label"
            )
        missing = [
            f"`{names[i]}`, the label of {true[i]:,} of {count:,} texts"
            for i in range(classes)
            if true[i] and not predicted[i]
        ]
        if missing:
            found.append(f"never predicts {'; nor '.join(missing)}")
        return found

    def chance_loss(self, known: Ints, labels: Ints) -> float:
        """The loss of a model that predicts the frequencies of the classes for every text."""
        return frequency_loss(known, labels)

    def row_scores(self, predictions: Floats, labels: Ints) -> npt.NDArray[np.float64]:
        """1 for a right prediction, else 0; less the mean of the class, since files are often sorted by class."""
        right: npt.NDArray[np.float64] = (predictions.argmax(axis=1) == labels).astype(np.float64)
        for label in np.unique(labels):
            right[labels == label] -= right[labels == label].mean()
        return right

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """Accuracy, F1, macro-F1, Matthews correlation and area under the ROC curve of resamples."""
        areas = only in (None, "roc_auc") and _area(predictions, labels, self.positive) is not None
        values = np.asarray(predictions, np.float64)
        return resample_classes(values, labels, self.positive, units, samples, seed, areas)

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """The most frequent class; naive Bayes and two logistic regressions on n-grams, or two on features of pairs."""
        from bertwright.tasks.baselines import fit_and_predict  # scikit-learn takes seconds to load
        from bertwright.tasks.baselines_pairs import fit_and_predict_pairs

        texts = [[record.text for record in records] for records in (train, test)]
        frequencies = np.bincount(labels) / len(labels)
        constant = np.tile(frequencies.astype(np.float32), (len(test), 1))
        if self.pair:
            return {"most_frequent": constant, **fit_and_predict_pairs(train, labels, test, progress)}
        return {"most_frequent": constant, **fit_and_predict(texts[0], labels, texts[1], progress=progress)}

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[Prediction]:
        """The most probable class of each text, with all probabilities."""
        return [
            Prediction(names[int(row.argmax())], float(row.max()), dict(zip(names, map(float, row), strict=True)))
            for row in predictions
        ]


def _check_classes(records: Sequence[Record], where: str) -> None:
    """See that labels are classes and not measurements.

    Raises:
        UserError: if some are real numbers.
    """
    real = [record for record in records if record.label and _REAL.fullmatch(record.label)]
    if real:
        first = f"{real[0].label}, {real[0].place}" if real[0].place else str(real[0].label)
        raise UserError(
            f"{where} has real numbers as labels in {len(real)} of {len(records)} rows (first {first}): set "
            "finetune.task to regression; for classification, write whole numbers or words"
        )


def _check(predictions: npt.NDArray[Any], labels: Ints) -> None:
    if labels.ndim != 1 or predictions.ndim != 2 or len(labels) != len(predictions) or predictions.shape[1] < 2:
        raise ValueError(
            f"labels {labels.shape} and probabilities {predictions.shape} must have shapes (rows,) and (rows, classes)"
        )
    if len(labels) == 0 or not np.isfinite(predictions).all():
        raise ValueError("probabilities hold no row, or values that are not finite")
    if labels.min() < 0 or labels.max() >= predictions.shape[1]:
        raise ValueError(f"labels lie outside 0 to {predictions.shape[1] - 1}, the classes that probabilities have")


def _matthews(labels: Ints, predicted: Ints, classes: int) -> float:
    """The Matthews correlation of all classes; 0 where labels or predictions are of one only."""
    table = tally([labels, predicted], classes).astype(np.float64)
    return float(matthews(np.diag(table)[None], table.sum(axis=1)[None], table.sum(axis=0)[None])[0])


def _area(scores: npt.NDArray[Any], labels: Ints, positive: int) -> float | None:
    """The area under the ROC curve, averaged over the classes that have both positives and negatives."""
    from sklearn.metrics import roc_auc_score  # takes seconds to load

    classes = [positive] if scores.shape[1] == 2 else range(scores.shape[1])
    mixed = [label for label in classes if 0 < (labels == label).sum() < len(labels)]
    areas = [float(roc_auc_score(labels == label, scores[:, label])) for label in mixed]
    return float(np.mean(areas)) if areas else None
