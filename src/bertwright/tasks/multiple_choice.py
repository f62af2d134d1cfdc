"""Multiple choice: which of several texts follows a context, or answers its question (paper, section 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError, WrongTypeError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs import sequences
from bertwright.inputs.sequences import ModelInput
from bertwright.models.answer_heads import ChoiceHead, require_segments
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head
from bertwright.ranges import require
from bertwright.tasks.answers import Shown
from bertwright.tasks.log_loss import frequency_loss, log_loss
from bertwright.tasks.resampling import Resampled, Units, resample_means
from bertwright.tasks.task import Examples, Progress, Task
from bertwright.text.contexts import choices_of
from bertwright.text.formats import repaired
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class Choice:
    """The most probable choice of a record.

    Args:
        text: the choice.
        index: its number, from 0.
        score: its probability.
        probabilities: of all choices, in order.
    """

    text: str
    index: int
    score: float
    probabilities: list[float]


@dataclass(frozen=True)
class Choices:
    """A context with each of its choices.

    Args:
        parts: `[CLS] context [SEP] choice [SEP]` for each choice.
    """

    parts: list[sequences.Sequence]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def is_empty(self) -> bool:
        """Whether the context or a choice has no token."""
        segments = [part.token_type_ids[~part.special_tokens_mask] for part in self.parts]
        return not all((own == 0).any() and (own == 1).any() for own in segments)


class MultipleChoice(Task):
    """One of the choices of each record; predictions are probabilities, float32 (records, most choices).

    Trained and evaluated are records of as many choices each; a trained model chooses among any number, and beyond a
    record's choices its probabilities are 0. Labels are the numbers of the right choices, int64 (records,).
    """

    name = "multiple-choice"
    columns = ("context", "choices", "label")
    primary_metric = "accuracy"
    choosing_metrics = ("accuracy",)
    bounds = (0.0, 1.0)
    answer_class = Choice

    def about(self, positive_label: str | None, names: Sequence[str]) -> Self:
        """The task itself.

        Raises:
            UserError: if a positive class is named.
        """
        require(
            positive_label is None,
            "finetune.positive_label is for classification; choices have no classes: leave it out",
        )
        return self

    def check(self, config: FinetuneConfig) -> None:
        """Refuse what is for single texts.

        Raises:
            UserError: if there is such a setting.
        """
        require(
            config.truncation != "windows",
            "finetune.truncation is windows, which is for single texts; write head, tail or head-tail",
        )
        for name in ("unlabelled", "label_names"):
            require(
                not getattr(config, name),
                f"finetune.{name} is for classes, and choices differ by record; leave it out",
            )

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The numbers of the choices, from 0."""
        return [str(number) for number in range(_number_of_choices(records, where))]

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Ints:
        """Numbers of the right choices.

        Raises:
            UserError: if a label is none, or a record has more or fewer choices than the others.
        """
        for record in records:
            if len(record.choices or ()) != len(names):
                raise _uneven(record, len(names), where)
            if record.label not in names:
                raise UserError(
                    f"{where}: {record.place or record.id} has the label {record.label!r}; it must be the number of "
                    f"the right choice, from 0 to {len(names) - 1}"
                )
        return np.array([int(record.label or 0) for record in records], np.int64)

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """For each sequence 1 at the right choice of its record, float32 (records x choices, choices)."""
        return np.repeat(np.eye(len(names), dtype=np.float32)[labels], len(names), axis=0)

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """One logit for each sequence."""
        require_segments(encoder, "a context and a choice")
        return ChoiceHead(encoder.config.hidden_size, dropout, encoder.causal, encoder.pooler())

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, truncation: str
    ) -> Sequence[ModelInput]:
        """Each context with each of its choices; the longer one of the two is cut first."""
        contexts = [record.text for record in records for _ in record.choices or ()]
        choices = [choice for record in records for choice in record.choices or ()]
        built = iter(sequences.build_many(tokenizer, contexts, choices, max_length=max_length, truncation=truncation))
        return [Choices([next(built) for _ in record.choices or ()]) for record in records]

    def windows(self, model_input: ModelInput, max_length: int) -> list[sequences.Sequence]:
        """A sequence for each choice."""
        assert isinstance(model_input, Choices)
        return model_input.parts

    def examples(self, inputs: Sequence[ModelInput], labels: Ints, names: Sequence[str], max_length: int) -> Examples:
        """All sequences; those of one record are computed together."""
        parts = [part for one in inputs for part in self.windows(one, max_length)]
        return Examples(parts, self.targets(labels, names), len(names))

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """The softmax over each record's choices."""
        found = np.zeros((len(parts), max(map(len, parts))), np.float32)
        rows = iter(logits)
        for row, own in enumerate(parts):
            found[row, : len(own)] = torch.stack([next(rows)[0] for _ in own]).softmax(-1).numpy()
        return found

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """Mean of minus the log-probability, in nats, of the right choices."""
        return log_loss(predictions, labels)

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """The accuracy."""
        return {"accuracy": float((predictions.argmax(axis=1) == labels).mean())}

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """The accuracy of resamples."""
        return resample_means({"accuracy": predictions.argmax(axis=1) == labels}, units, samples, seed)

    def chance_loss(self, known: Ints, labels: Ints) -> float:
        """The loss of a model that predicts how often each place is right."""
        return frequency_loss(known, labels)

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """The choice that shares most with its context; and the place that is right most often."""
        from bertwright.tasks.overlap import shared_words

        choices = len(test[0].choices or ())
        usual = np.bincount(labels, minlength=choices) / len(labels)
        overlap = np.stack(shared_words(train, test)) + usual * 1e-6  # which decides where nothing is shared
        progress("n-gram overlap")
        return {
            "most_frequent": np.tile(usual.astype(np.float32), (len(test), 1)),
            "ngram_overlap": (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32),
        }

    def reads(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Context and choices."""
        return ("context", "choices")

    def warm(self) -> Any:
        """Two choices."""
        return {"context": "It is", "choices": ["day.", "night."]}

    def record(self, number: int, given: Any) -> Record:
        """A dict with `context` and `choices`, a list of texts or the lists text and label.

        Raises:
            WrongTypeError: if it is something else.
        """
        if not isinstance(given, dict) or set(given) != {"context", "choices"}:
            kind = f"has {', '.join(map(str, given)) or 'nothing'}" if isinstance(given, dict) else type(given).__name__
            raise WrongTypeError(
                f"text {number + 1} {kind if isinstance(given, dict) else f'is {kind}'}; this model chooses: give "
                '{"context": "...", "choices": ["...", "..."]}, on the command line --context and --choices'
            )
        context = given["context"]
        if not isinstance(context, str):
            raise WrongTypeError(f"text {number + 1} has {type(context).__name__} as context; it must be a str")
        try:
            choices, _ = choices_of(given["choices"], f"text {number + 1}")  # in each form that training reads
        except UserError as error:
            raise WrongTypeError(str(error)) from error
        return Record(str(number), repaired(context), choices=tuple(map(repaired, choices)))

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[Choice]:
        """The most probable choice of each record."""
        found = []
        for row, record in zip(predictions, records, strict=True):
            choices = record.choices or ()
            best = int(row.argmax())
            found.append(Choice(choices[best], best, float(row[best]), [float(one) for one in row[: len(choices)]]))
        return found

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """The choice, its number, its score, and the probabilities of all."""
        return ["choice", "index", "score", "probabilities"]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """The same of an answer."""
        return [answer.text, answer.index, round(answer.score, 6), [round(one, 6) for one in answer.probabilities]]

    def line(self, answer: Any, text: str) -> str:
        """The choice's number, score and text."""
        return f"{answer.index}  {answer.score:.3f}  {' '.join(answer.text.split())}"

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """The right choice and the predicted one."""
        return Shown((record.choices or ())[label], answer.text, answer.score)


def _number_of_choices(records: Sequence[Record], where: str) -> int:
    """How many choices each record has.

    Raises:
        UserError: if not all have as many, or there is none.
    """
    if not records:
        raise UserError(f"{where} holds no record with choices")
    number = len(records[0].choices or ())
    other = next((record for record in records if len(record.choices or ()) != number), None)
    if other is not None:
        raise _uneven(other, number, where)
    return number


def _uneven(record: Record, number: int, where: str) -> UserError:
    return UserError(
        f"{where}: {record.place or record.id} has {len(record.choices or ())} choices, and the first record of train "
        f"has {number}; training and evaluation need as many in each: leave out or fill up the others"
    )
