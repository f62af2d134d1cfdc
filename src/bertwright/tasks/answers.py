"""A task's answers as users meet them: on the command line, in files, and among the examples of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bertwright.text.records import Record


@dataclass(frozen=True)
class Prediction:
    """The class of a text.

    Args:
        label: the most probable class.
        score: its probability.
        probabilities: of each class, by name.
    """

    label: str
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Shown:
    """A test text's label and prediction, in words.

    Args:
        label: what is right.
        prediction: what was predicted; it is wrong where it differs from the label.
        score: how confident the prediction is, 0 to 1; None of a number.
        error: how far a number is off; the largest are the worst. None of one on another scale than the label's.
    """

    label: str
    prediction: str
    score: float | None
    error: float | None = 0.0


class Answers(Protocol):
    """How the answers of a task are shown; by default they are a `Prediction` each."""

    answer_class: type[Any] = Prediction
    """The class of the answers, a dataclass, whose fields the server and the command line give as JSON."""

    def reads(self, fields: Sequence[str]) -> tuple[str, ...]:
        """The fields that `Task.record` takes of a row of a file: a str where it is `text` alone, else a dict of them.

        Args:
            fields: that the file has columns for, such as text, text_pair and tokens.
        """
        return ("text",)

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """The columns that answers add to a file's.

        Args:
            names: from `Task.label_names`.
        """
        return ["label", "score", *(f"probability_{name}" for name in names)]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """An answer's values for these columns; a list or a dict is written as JSON.

        Args:
            answer: from `Task.answers`.
            names: from `Task.label_names`.
        """
        return [answer.label, round(answer.score, 6), *(round(answer.probabilities[name], 6) for name in names)]

    def line(self, answer: Any, text: str) -> str:
        """An answer as a line of a terminal.

        Args:
            answer: from `Task.answers`.
            text: that it is for, on one line and shortened.
        """
        return f"{answer.label:<12} {answer.score:.3f}  {text}"

    def shown_text(self, record: Record) -> str:
        """A record's text for the report's examples, with its second text if it has one.

        Args:
            record: any.
        """
        return " / ".join(text for text in (record.text, record.text_pair) if text)

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """An answer with the label that is right, for the report's examples.

        Args:
            answer: from `Task.answers`.
            label: of the record, from `Task.labels`.
            names: from `Task.label_names`.
            record: that was predicted.
        """
        return Shown(names[label], answer.label, answer.score)
