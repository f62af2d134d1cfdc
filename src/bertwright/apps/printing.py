"""Predictions as lines of a terminal, or as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from bertwright.tasks.answers import Answers


def print_prediction(task: Answers, given: Any, prediction: Any, format: str) -> None:
    """A line for one prediction; None is that of a row without text.

    Args:
        task: the model's.
        given: the text, or the columns of a row.
        prediction: the answer.
        format: table or jsonl.
    """
    columns = {"text": given} if isinstance(given, str) else given
    if format == "jsonl":
        empty = {field.name: None for field in fields(task.answer_class) if field.name not in columns}
        print_json({**columns, **(empty if prediction is None else asdict(prediction))})
        return
    text = shortened(" ".join(map(str, columns.values())))
    print(f"{'-':<12} {'-':<5}  {text}" if prediction is None else task.line(prediction, text))


def print_json(value: dict[str, Any]) -> None:
    """A line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


def shortened(text: str, width: int = 80) -> str:
    """A text on one line, cut to a width in characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
