"""Predictions as lines of a terminal, or as lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bertwright.apps.file_answers import TextRows, problem_of
from bertwright.errors import UnreadableText, UserError, WrongTypeError
from bertwright.tasks.answers import Answers


@dataclass(frozen=True)
class Given:
    """What a user gives to be answered.

    Args:
        text: a text, or the columns of a row by name.
        where: its place, for a message.
    """

    text: Any
    where: str


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


def print_vectors(text: str, where: str, found: Any) -> None:
    """A line of JSON for one text; a row without text has no vector.

    Args:
        text: the text.
        where: its place, for a message.
        found: its vector, and how many tokens were left out; or the `Features` of its tokens; None without text.
    """
    if found is None:
        print_json({"text": text, "vector": None})
        return
    vector, left_out = found if isinstance(found, tuple) else (None, found.left_out)
    if left_out:
        print(
            f"bertwright: {where} is longer than the model reads; its last {left_out:,} tokens are left out",
            file=sys.stderr,
        )
    if vector is not None:
        print_json({"text": text, "vector": vector.tolist()})
        return
    line = {"text": text, "pooled": found.pooled, "mean": found.mean, "tokens": found.tokens, "vectors": found.vectors}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in line.items()}
    print_json({name: value for name, value in plain.items() if value is not None})


def print_explanations(
    classifier: Any, given: Sequence[Given], format: str, rows: TextRows | None, label: str | None
) -> None:
    """Predictions with attributions of words, as lines or as a page.

    Args:
        classifier: a `Model`.
        given: the texts or pairs.
        format: table, jsonl or html.
        rows: of the file that they come from, if they do.
        label: that is explained; None for the most probable.

    Raises:
        UserError: if a text has no word, and comes from no file; or the model's answers are not explained.
    """
    from bertwright.apps.explain import as_html, as_json, as_terminal, explain

    found = []
    for one in given:
        try:
            found.append(explain(classifier, one.text, label))
        except (UnreadableText, WrongTypeError) as error:
            problem = problem_of(error)
            if rows is None:
                raise UserError(f"{one.where} {problem}") from error
            rows.skipped.add(one.where, problem.partition(";")[0])  # a bad row of a file costs itself
    if rows is not None:
        rows.skipped.report(rows.rows)
    if format == "html":
        print(as_html(found))
    for explanation in found if format != "html" else []:
        if format == "jsonl":
            print_json(as_json(explanation))
        else:
            colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
            print(f"{explanation.heading}\n  {as_terminal(explanation, colours)}")
