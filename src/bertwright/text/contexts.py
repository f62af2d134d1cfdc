"""Rows with a context: questions whose answers stand in it, and choices that may follow it.

An answer is checked to the letter when it is read: a model that learns from places that do not fit learns nothing, and
does not say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bertwright.errors import UserError
from bertwright.text.decoding import parse_json
from bertwright.text.holdout import digest

Answers = tuple[tuple[str, int], ...]
"""Answers, each with the place of its first character in the context."""

COLUMNS = ("context", "question", "answers", "choices")
"""The columns that are read here, each of which has an option of a source."""


def context_fields(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a `Record` that come from a row with a context.

    The context is the text, the question (or all choices) the second text: two rows are the same if both are. Questions
    on one context are a group: neither the validation set nor a resample takes them apart.

    Args:
        row: context with question and answers, or with choices.
        where: its place, for messages.

    Raises:
        UserError: if a value is of another kind, or an answer does not stand where it is said to.
    """
    context = _text(row["context"], where, "context")
    found: dict[str, Any] = {"text": context}
    if "question" in row:
        found["text_pair"] = _text(row["question"], where, "question")
        found["group"] = digest(context).hex()
    if row.get("answers") is not None and context.strip():  # a row without a context is skipped
        found["answers"] = _answers(row["answers"], context, where)
    if row.get("choices") is not None:
        found["choices"], _ = choices_of(row["choices"], where)
        found["text_pair"] = "\n".join(found["choices"])
    return found


def _text(value: Any, where: str, column: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise UserError(
        f"{where} has {type(value).__name__} as {column}, where text is expected; set {column}_column to a column of "
        "text"
    )


def parsed(value: Any) -> Any:
    """A value; the text of JSON, as a CSV file has it, becomes what it says.

    Args:
        value: any.
    """
    if isinstance(value, str):
        try:
            return parse_json(value)
        except (json.JSONDecodeError, RecursionError):
            return value
    return value


def _answers(value: Any, context: str, where: str) -> Answers:
    found = []
    for text, start in _pairs(parsed(value), where):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where} has the answer {text!r}; an answer is text, and no answer is an empty list")
        if isinstance(start, bool) or not isinstance(start, int):
            raise UserError(f"{where}: the answer {text!r} begins at {start!r}; give the place of its first character")
        if start < 0 or context[start : start + len(text)] != text:
            raise UserError(f"{where}: {_misplaced(text, start, context)}")
        found.append((text, start))
    return tuple(found)


def _misplaced(text: str, start: int, context: str) -> str:
    """Why an answer is refused that does not stand where it is said to, and what to do."""
    place = context.find(text)
    if place < 0:
        return f"the answer {text!r} is not in the context; copy it from there to the letter"
    there = f"; the context has {context[start : start + len(text)]!r} there" if 0 <= start < len(context) else ""
    return (
        f"the answer {text!r} does not begin at {start}, but first at {place}{there}; count characters from 0, not "
        "bytes or words"
    )


def _pairs(value: Any, where: str) -> list[tuple[Any, Any]]:
    """Text and place of each answer, from either of the two usual forms."""
    if isinstance(value, Mapping):  # of the hub: a list for each field
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if not isinstance(texts, Sequence) or not isinstance(starts, Sequence) or isinstance(texts, str):
            raise UserError(f"{where} has answers without the lists text and answer_start; write {_FORM}")
        if len(texts) != len(starts):
            raise UserError(f"{where} has {len(texts)} texts of answers and {len(starts)} places; give one for each")
        return list(zip(texts, starts, strict=True))
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{where} has {type(value).__name__} as answers; write {_FORM}")
    found = []
    for one in value:
        place = one.get("start", one.get("answer_start")) if isinstance(one, Mapping) else None
        if not isinstance(one, Mapping) or "text" not in one or place is None:
            raise UserError(f"{where} has the answer {one!r}, without text or start; write {_FORM}")
        found.append((one["text"], place))
    return found


_FORM = '[{"text": "in May", "start": 17}], or [] where there is no answer'


def choices_of(value: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Choices, and the labels that they have in some data sets of the hub.

    Args:
        value: a list of texts; or {"text": [...], "label": [...]}.
        where: its place, for messages.

    Raises:
        UserError: if they are something else, or fewer than two.
    """
    value = parsed(value)
    labels = None
    if isinstance(value, Mapping):
        value, labels = value.get("text"), value.get("label")
        if not isinstance(value, list) or not isinstance(labels, list) or len(value) != len(labels):
            raise UserError(f"{where} has choices without lists of as many text and label; write {_CHOICES}")
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one.strip() for one in value):
        raise UserError(f"{where} has choices that are no list of texts; write {_CHOICES}")
    if len(value) < 2:
        raise UserError(f"{where} has {len(value)} choice, and at least two are needed")
    return tuple(value), None if labels is None else tuple(map(str, labels))


_CHOICES = '["a bank", "a library"]'


def numbered(row: Mapping[str, Any], where: str) -> Any:
    """The label of a row with choices: the number of the right one, from 0, also where the data call it A."""
    label = row["label"]
    if row.get("choices") is None or label is None:
        return label
    _, labels = choices_of(row["choices"], where)
    if labels is None or str(label).strip() not in labels:
        return label
    return labels.index(str(label).strip())
