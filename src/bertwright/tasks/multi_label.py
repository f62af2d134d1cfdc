"""Multi-label classification: any number of labels for a text or a pair, each predicted on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.inputs import sequences
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head
from bertwright.models.sequence_heads import MultiLabelHead
from bertwright.tasks.answers import Shown
from bertwright.tasks.resampling import Resampled, Units
from bertwright.tasks.task import Progress
from bertwright.tasks.text_task import TextTask, mean_logits
from bertwright.tasks.thresholds import best_thresholds
from bertwright.text.records import Record

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelsPrediction:
    """The labels of a text.

    Args:
        labels: those whose probability is at least their threshold, the most probable first; it may be none.
        probabilities: of each label, by name. They need not add up to 1.
    """

    labels: list[str]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class MultiLabel(TextTask):
    """Any of K labels for each text or pair.

    Labels are int64 (records, K), 1 where a text has one. Predictions are float32 (records, 2, K): the probability of
    each label, and the threshold from which on a system predicts it.

    Args:
        thresholds: of the labels, chosen on the validation set; 0.5 before that.
        log_odds: of each label's frequency in the training set, from which a fresh head starts.
    """

    columns: tuple[str, ...] = ("text", "labels")
    thresholds: tuple[float, ...] = ()
    log_odds: tuple[float, ...] = ()
    name = "multi-label"
    primary_metric = "macro_f1"
    choosing_metrics = ("macro_f1", "micro_f1", "average_precision")
    bounds = (0.0, 1.0)
    chance = "how frequent each label is"
    answer_class = LabelsPrediction

    def notes(self) -> dict[str, Any]:
        """Whether the model reads pairs, and its thresholds."""
        return super().notes() | ({"label_thresholds": list(self.thresholds)} if self.thresholds else {})

    def restored(self, config: Mapping[str, Any]) -> Self:
        """The task with a model's thresholds; a model of another tool has none, and 0.5 for all."""
        found = tuple(float(one) for one in config.get("label_thresholds", ()))
        return replace(super().restored(config), thresholds=found)

    def fitted(self, labels: Ints) -> Self:
        """The task with the log-odds of each label's frequency."""
        rates = (labels.sum(axis=0) + 0.5) / (len(labels) + 1)  # a label that no text has is finite, too
        return replace(self, log_odds=tuple(map(float, np.log(rates / (1 - rates)))))

    def tuned(self, predictions: Floats, labels: Ints) -> tuple[Self, Floats]:
        """The task with the thresholds that make the F1 of each label highest."""
        found = best_thresholds(predictions[:, 0], labels)
        return replace(self, thresholds=tuple(map(float, found))), with_thresholds(predictions[:, 0], found)

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The labels that occur, sorted; or in the order in which the recipe gives the same names.

        Raises:
            UserError: if there are none, or the names are others.
        """
        counts = Counter(label for record in records for label in record.labels or ())
        found = sorted(counts)
        if not found:
            raise UserError(f"{where} has no text with a label; multi-label classification needs some")
        everywhere = [label for label in found if counts[label] == len(records)]
        if len(everywhere) == len(found):
            raise UserError(f"{where} has the same labels in every text, {', '.join(found)}: there is nothing to learn")
        if given is not None and set(given) != set(found):
            raise UserError(f"finetune.label_names must name the labels of the data, in any order: {', '.join(found)}")
        return list(given or found)

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Labels:
        """1 for each label of a text, int64 (records, K).

        Raises:
            UserError: if a label is not among those of train.
        """
        numbers = {name: number for number, name in enumerate(names)}
        found = np.zeros((len(records), len(names)), np.int64)
        for row, record in zip(found, records, strict=True):
            for label in record.labels or ():
                if label not in numbers:
                    place = f" ({record.place})" if record.place else ""
                    raise UserError(f"{where}: text {record.id} has label {label}, which train does not have{place}")
                row[numbers[label]] = 1
        return found

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """1 for a label that a text has and -1 for others, float32 (records, K)."""
        return (2 * labels - 1).astype(np.float32)

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """An output for each label on the pooled vector."""
        return MultiLabelHead(
            encoder.config.hidden_size, len(names), dropout, encoder.causal, self.log_odds, encoder.pooler()
        )

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """Probabilities from the mean of a text's logits over its windows, and thresholds."""
        probabilities: Floats = mean_logits(logits, parts).sigmoid().numpy()
        return with_thresholds(probabilities, self.thresholds or (0.5,) * probabilities.shape[1])

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """The mean binary cross-entropy over texts and labels, in nats."""
        right = np.where(labels == 1, predictions[:, 0], 1 - predictions[:, 0].astype(np.float64))
        return float(-np.log(np.clip(right, 1e-12, None)).mean())

    def chance_loss(self, known: Ints, labels: Ints) -> float:
        """The loss of the frequency of each label in train."""
        rates = np.clip(np.mean(known, axis=0), 1e-12, 1 - 1e-12)
        return float(-np.log(np.where(labels == 1, rates, 1 - rates)).mean())

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """F1 of all labels together (micro) and the mean over labels (macro), and the mean average precision.

        A label that neither texts nor predictions have is left out of macro-F1, and one that no text has out of average
        precision, which needs no threshold.

        Raises:
            ValueError: if there is no row, or a probability is not finite.
        """
        _check(predictions, labels)
        found = _of_resamples(predictions, labels, np.ones((1, len(labels)), np.float32), None)
        return {name: float(values[0]) for name, values in found.items() if np.isfinite(values[0])}

    def details(self, predictions: Floats, labels: Ints) -> dict[str, Any]:
        """For each label, in order, how many texts have it, are predicted to, and both; and the thresholds."""
        chosen = _chosen(predictions)
        counts = [(labels * chosen).sum(axis=0), chosen.sum(axis=0), labels.sum(axis=0)]
        each = [
            dict(zip(("right", "predicted", "true"), map(int, one), strict=True)) for one in zip(*counts, strict=True)
        ]
        return {"by_label": each, "thresholds": [round(float(one), 6) for one in predictions[0, 1]]}

    def warnings(self, predictions: Floats, labels: Ints, names: Sequence[str]) -> list[str]:
        """Labels of texts that are never predicted."""
        never = (_chosen(predictions).sum(axis=0) == 0) & (labels.sum(axis=0) > 0)
        missing = [f"`{names[i]}`, a label of {labels[:, i].sum():,} texts" for i in np.flatnonzero(never).tolist()]
        more = f", nor {len(missing) - 5} other labels" if len(missing) > 5 else ""
        return [f"never predicts {'; nor '.join(missing[:5])}{more}"] if missing else []

    def row_scores(self, predictions: Floats, labels: Ints) -> npt.NDArray[np.float64]:
        """The fraction of a text's labels, given or not, that are right."""
        right: npt.NDArray[np.float64] = (_chosen(predictions) == labels).mean(axis=1)
        return right

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """All metrics of resamples, or one."""
        parts = [_of_resamples(predictions, labels, chunk, only) for chunk in units.resamples(samples, seed)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """The frequency of each label; NB-weighted logistic regression for each, on n-grams or features of pairs."""
        from bertwright.tasks.baselines_labels import fit_and_predict  # scikit-learn takes seconds to load

        rates = np.tile(labels.mean(axis=0, dtype=np.float64).astype(np.float32), (len(test), 1))
        known = np.tile(rates[:1], (len(labels), 1))
        constant = with_thresholds(rates, best_thresholds(known, labels))
        return {"label_frequencies": constant, **fit_and_predict(train, labels, test, bool(self.pair), progress)}

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[LabelsPrediction]:
        """The labels of each text whose probability is at least their threshold."""
        found = []
        for (row, _), chosen in zip(predictions, _chosen(predictions), strict=True):
            order = [i for i in np.argsort(-row, kind="stable") if chosen[i]]
            found.append(LabelsPrediction([names[i] for i in order], dict(zip(names, map(float, row), strict=True))))
        return found

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """The labels, and the probability of each."""
        return ["labels", *(f"probability_{name}" for name in names)]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """A list of labels, and probabilities."""
        return [answer.labels, *(round(answer.probabilities[name], 6) for name in names)]

    def line(self, answer: Any, text: str) -> str:
        """The labels with their probabilities, and the text."""
        listed = ", ".join(f"{label} {answer.probabilities[label]:.3f}" for label in answer.labels)
        return f"{listed or 'no label':<24}  {text}"

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """Both sets of labels in the order of names, and how sure the least certain of all decisions is."""
        own = [name for name in names if name in answer.labels]
        true = [name for name, has in zip(names, label, strict=True) if has]
        sure = [p if name in own else 1 - p for name, p in answer.probabilities.items()]
        return Shown(", ".join(true) or "no label", ", ".join(own) or "no label", min(sure))


def with_thresholds(probabilities: Floats, thresholds: Any) -> Floats:
    """Predictions (records, 2, K) from probabilities (records, K) and thresholds (K,)."""
    beside = np.broadcast_to(np.asarray(thresholds, np.float32), probabilities.shape)
    return np.stack([probabilities, beside], axis=1).astype(np.float32)


def _chosen(predictions: Floats) -> npt.NDArray[np.int64]:
    return (predictions[:, 0] >= predictions[:, 1]).astype(np.int64)


def _check(predictions: Labels, labels: Labels) -> None:
    if predictions.ndim != 3 or predictions.shape != (len(labels), 2, labels.shape[-1]) or len(labels) == 0:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must be (rows, K), (rows, 2, K)")
    if not np.isfinite(predictions).all() or not np.isin(labels, (0, 1)).all():
        raise ValueError("predictions hold values that are not finite, or labels others than 0 and 1")


def _of_resamples(predictions: Floats, labels: Labels, times: npt.NDArray[np.float32], only: str | None) -> Resampled:
    """Metrics of resamples, (samples,) each; NaN where one is not defined.

    Args:
        predictions: (rows, 2, K).
        labels: (rows, K).
        times: how often each row is in each resample, (samples, rows).
        only: the one metric that is needed; None for all.
    """
    chosen, width = _chosen(predictions), labels.shape[1]
    columns = np.concatenate([labels * chosen, labels + chosen], axis=1).astype(np.float32)
    counts = (times @ columns).astype(np.float64)  # sums of small whole numbers: exact
    right, total = counts[:, :width], counts[:, width:]
    each = np.divide(2 * right, total, out=np.full(right.shape, np.nan), where=total > 0)
    all_right, all_total = 2 * right.sum(axis=1), total.sum(axis=1)
    found = {
        "macro_f1": _mean(each),
        "micro_f1": np.divide(all_right, all_total, out=np.full(len(times), np.nan), where=all_total > 0),
    }
    if only in (None, "average_precision"):
        found["average_precision"] = _mean(
            np.stack([_average_precision(predictions[:, 0, k], labels[:, k], times) for k in range(width)], axis=1)
        )
    return found if only is None else {only: found[only]}


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of each row's numbers that are defined; NaN where none is."""
    defined = np.isfinite(values)
    number = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    found: npt.NDArray[np.float64] = np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)
    return found


def _average_precision(
    scores: npt.NDArray[Any], labels: Labels, times: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The average precision of resamples, (samples,): the mean, over texts with the label, of the precision there.

    Texts of one score are taken together, as scikit-learn does it. NaN where no text has the label.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each run of equal scores
    drawn = times[:, order].astype(np.float64)
    taken = np.cumsum(drawn, axis=1)[:, ends]
    hits = np.cumsum(drawn * labels[order], axis=1)[:, ends]
    precision = np.divide(hits, taken, out=np.zeros(hits.shape), where=taken > 0)
    gained = np.diff(hits, axis=1, prepend=0.0)
    total = hits[:, -1]
    found: npt.NDArray[np.float64] = np.divide(
        (gained * precision).sum(axis=1), total, out=np.full(len(times), np.nan), where=total > 0
    )
    return found
