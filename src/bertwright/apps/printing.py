"""Predictions as lines of a terminal, or as lines of JSON."""

from __future__ import annotations

import json
import sys
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


def print_vectors(text: str, where: str, found: Any, per_token: bool) -> None:
    """A line of JSON for one text; a row without text has no vectors.

    Args:
        text: the text.
        where: its place, for a message.
        found: its `Features`; None without text.
        per_token: whether vectors of tokens are printed, too.
    """
    if found is None:
        print_json({"text": text, "mean": None})
        return
    if found.left_out:
        print(
            f"bertwright: {where} is longer than the model reads; its last {found.left_out:,} tokens are left out",
            file=sys.stderr,
        )
    line: dict[str, Any] = {"text": text}
    line |= {} if found.pooled is None else {"pooled": found.pooled.tolist()}
    line["mean"] = found.mean.tolist()
    if per_token:
        line |= {"tokens": found.tokens, "vectors": found.vectors.tolist()}
    print_json(line)
