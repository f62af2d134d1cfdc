"""What a task is: everything that training, evaluation, inference and report must know of one kind of labels.

A task is a value of a class that meets `Task`; `registry.py` names them. A new task is one file here and one line
there. The tasks of the paper are in its section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError, WrongTypeError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs import sequences
from bertwright.inputs.sequences import ModelInput
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head
from bertwright.recipe import Source
from bertwright.tasks.answers import Answers
from bertwright.tasks.answers import Prediction as Prediction
from bertwright.tasks.examples import Examples as Examples
from bertwright.tasks.resampling import Resampled, Units, resample_rows
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer

Progress = Callable[[str], None]


class Task(Answers, Protocol):
    """One kind of labels. Subclass it, so that the methods with a body need not be written.

    Labels are an array with a row per record, of numbers or of objects; predictions are one of numbers.

    Attributes:
        name: what a recipe calls it in finetune.task.
        columns: the fields of a `Record` that it needs.
        primary_metric: the metric that the report sorts and compares by; higher is better.
        choosing_metrics: the metrics of which higher is better, and which resamples give: a checkpoint can be chosen by
            each.
        bounds: what metrics lie between.
        other_bounds: what those metrics lie between that have bounds of their own.
        chance: the answer of a model that reads nothing, whose loss is `chance_loss`, in words.
    """

    name: str
    columns: tuple[str, ...]
    primary_metric: str
    choosing_metrics: tuple[str, ...] = ()
    bounds: tuple[float, float] = (-np.inf, np.inf)
    other_bounds: Mapping[str, tuple[float, float]] = MappingProxyType({})
    chance: str = "how frequent each class is"

    def on(self, source: Source) -> Self:
        """The task as the columns of a source of labelled data make it; as it was by default."""
        return self

    def with_settings(self, config: FinetuneConfig) -> Self:
        """The task with settings of its own, from finetune; as it was by default.

        Args:
            config: of fine-tuning.
        """
        return self

    def starting_from(self, encoder: Path) -> Self:
        """The task with what it takes from the folder of the encoder; as it was by default."""
        return self

    def fitted(self, labels: Ints) -> Self:
        """The task with what it takes from the training labels before the head is made; as it was by default."""
        return self

    def notes(self) -> dict[str, Any]:
        """What a model's config.json holds for the task beside its head, by name; nothing by default."""
        return {}

    def restored(self, config: Mapping[str, Any]) -> Self:
        """The task of a model, with what `notes` had written to its config.json; as it was by default."""
        return self

    def tuned(self, predictions: Floats, labels: Ints) -> tuple[Self, Floats]:
        """The task with what is chosen on the validation set, such as thresholds, and the predictions with it.

        Args:
            predictions: of the validation set, as the task before made them.
            labels: theirs.
        """
        return self, predictions

    def about(self, positive_label: str | None, names: Sequence[str]) -> Self:
        """The task with metrics that speak of a class; a task without such metrics is as it was.

        Args:
            positive_label: the recipe's; None leaves the choice to the task.
            names: from `label_names`.

        Raises:
            UserError: if there is no such class, or the metrics speak of all.
        """
        return self

    def positive_label(self, names: Sequence[str]) -> str | None:
        """The class that the primary metric speaks of; None by default: it speaks of all."""
        return None

    def check(self, config: FinetuneConfig) -> None:
        """See that fine-tuning is not asked for what the task does not have; by default all is there.

        Args:
            config: of fine-tuning.

        Raises:
            UserError: if it is, with the setting to leave out.
        """
        return

    def check_training_set(self, rows: int) -> None:
        """See that a training set is large enough for the settings; by default any is.

        Args:
            rows: of the training set.

        Raises:
            UserError: if it is not, with the setting to change.
        """
        return

    def check_predictions(self, records: Sequence[Record], names: Sequence[str], copies: int, where: str) -> None:
        """See that memory has enough for the predictions of a split, before any work; by default it does.

        Args:
            records: of the split.
            names: from `label_names`.
            copies: how many predictions of all records are held at once.
            where: the split is, for a message.

        Raises:
            UserError: if it has not.
        """
        return

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The names of what the model can answer, in the order of the head's outputs.

        Args:
            records: of the train split.
            given: names that the recipe gives in place of the data's.
            where: the records stand, for a message.

        Raises:
            UserError: if there is nothing to learn, or the names do not fit.
        """
        ...

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Ints:
        """The labels of records as numbers, (records,).

        Args:
            records: of any split.
            names: from `label_names`.
            known: the records of the train split, from which the names were made.
            where: the records stand, for a message.

        Raises:
            UserError: if a label is not among those of train.
        """
        ...

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """What the head's loss compares with, float32 (records, ...); never a row of zeros, which is not scored."""
        ...

    def strata(self, labels: Ints) -> Ints:
        """Numbers (records,); the validation set has the same fraction of each. All are alike by default."""
        return np.zeros(len(labels), np.int64)

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """A fresh head for an encoder.

        Args:
            encoder: its width and direction matter.
            names: from `label_names`.
            dropout: before the output layer.
        """
        ...

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, truncation: str
    ) -> Sequence[ModelInput]:
        """The model input of each record; of the text, or of text and text_pair, by default.

        Args:
            records: of any split, or unlabelled.
            tokenizer: the model's.
            max_length: the most tokens of a sequence.
            truncation: which part of a longer text is kept; windows keeps all of it, to be cut when it is computed.
        """
        pairs = [record.text_pair or "" for record in records] if "text_pair" in self.columns else None
        texts = [record.text for record in records]
        return sequences.build_many(tokenizer, texts, pairs, max_length=max_length, truncation=truncation)

    def notices(self, inputs: Sequence[ModelInput]) -> list[str]:
        """What of records is not read beyond what the recipe asks to cut, in sentences; nothing by default.

        Args:
            inputs: from `encode`.
        """
        return []

    def windows(self, model_input: ModelInput, max_length: int) -> list[sequences.Sequence]:
        """The sequences that are computed for a record; of most texts one.

        Args:
            model_input: from `encode`.
            max_length: the most tokens of a sequence.
        """
        assert isinstance(model_input, sequences.Sequence)
        return sequences.windows(model_input, max_length)

    def examples(self, inputs: Sequence[ModelInput], labels: Ints, names: Sequence[str], max_length: int) -> Examples:
        """What is trained on; by default a sequence for each record.

        Args:
            inputs: of the training set, from `encode` with finetune.training_truncation.
            labels: theirs.
            names: from `label_names`.
            max_length: the most tokens of a sequence.
        """
        return Examples(cast(list[sequences.Sequence], list(inputs)), self.targets(labels, names))

    def text_weights(
        self, labels: Ints, names: Sequence[str], weights: Literal["balanced"] | Mapping[str, float]
    ) -> Floats:
        """How much each text counts in training by its class, float32 (records,); refused by default.

        Args:
            labels: of the records.
            names: from `label_names`.
            weights: by class, or balanced.

        Raises:
            UserError: if the task has no classes, or a weight is missing or of no class.
        """
        raise UserError(f"finetune.class_weights is for classification; leave it out with finetune.task {self.name}")

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """Predictions of records, float32 (records, ...), from the logits of their windows.

        Args:
            logits: of all windows, record after record, as the head gives them, float32: (K,) each; or a row for each
                token of the window and for padding, (seq, K).
            parts: the windows of each record, from `windows`.
        """
        ...

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """The mean loss of predictions; the checkpoint with the lowest on the validation set is kept."""
        ...

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """The metrics of a system's predictions, by name; `primary_metric` is one of them."""
        ...

    def details(self, predictions: Floats, labels: Ints) -> dict[str, Any]:
        """More of a system for results.json, such as a confusion matrix; nothing by default."""
        return {}

    def warnings(self, predictions: Floats, labels: Ints, names: Sequence[str]) -> list[str]:
        """What is wrong with a system's predictions as a whole, in sentences with what to try; none by default."""
        return []

    def chance_loss(self, known: Ints, labels: Ints) -> float | None:
        """The loss on `labels` of a model that answers `chance`, of the labels `known`; None where there is no such."""
        return None

    def row_scores(self, predictions: Floats, labels: Ints) -> npt.NDArray[np.float64] | None:
        """How good each record's prediction is, (records,): neighbours alike in it are resampled together.

        By default none: records are taken to be independent.
        """
        return None

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """The metrics of bootstrap resamples, the same ones for the same units and seed.

        Args:
            predictions: of a system.
            labels: of the records.
            units: what is drawn.
            samples: number of resamples.
            seed: of the resamples.
            only: the one metric that is needed; all by default.

        Returns:
            Metrics by name, (samples,) each; NaN where a resample does not define one.
        """
        return resample_rows(self.metrics, predictions, labels, units, samples, seed)

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """Predictions of the classical systems that BERT is compared with, by name; none by default.

        A system that cannot learn from the texts has the reason in place of predictions.

        Args:
            train: records to train on.
            labels: theirs.
            test: records to predict.
            progress: called with one sentence when a system is done.
        """
        return {}

    def warm(self) -> Any:
        """Something that `record` takes, for a first prediction; a text by default."""
        return "warm"

    def record(self, number: int, given: Any) -> Record:
        """What a user gives to `Model.predict` as a record; a text by default.

        Args:
            number: its place among several, from 0.
            given: a text; or what else the task reads: its columns in a dict, or two texts in a tuple.

        Raises:
            WrongTypeError: if it is something else.
        """
        if not isinstance(given, str):
            raise WrongTypeError(f"text {number + 1} is {type(given).__name__}; it must be a str")
        return Record(str(number), given)

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> Sequence[Any]:
        """Predictions as a user gets them, one per record; a dataclass each, such as `Prediction`.

        Args:
            predictions: from `predictions`.
            names: from `label_names`.
            records: that were predicted.
        """
        ...
