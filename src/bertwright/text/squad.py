"""SQuAD's own JSON: articles of paragraphs of questions, as rows (Rajpurkar et al. 2016 and 2018)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from bertwright.text.decoding import counted, parse_json


def is_squad(value: Any) -> bool:
    """Whether a JSON value is a file of SQuAD: an object whose data are articles with paragraphs."""
    articles = value.get("data") if isinstance(value, dict) else None
    return (
        isinstance(articles, list)
        and len(articles) > 0
        and all(isinstance(one, dict) and isinstance(one.get("paragraphs"), list) for one in articles)
    )


def squad_rows(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of a file in order, each as a row: id, title, context, question, answers.

    Args:
        value: for which `is_squad`.
    """
    for article in value["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph.get("qas", []):
                yield {
                    "id": one.get("id"),
                    "title": article.get("title"),
                    "context": paragraph.get("context"),
                    "question": one.get("question"),
                    "answers": one.get("answers"),
                }


def questions(stream: io.BufferedReader, most: int) -> Iterator[tuple[int, dict[str, Any]]] | None:
    """The questions of a file in SQuAD's own form, numbered from 1; None for another file, which is read anew.

    Args:
        stream: at the file's beginning.
        most: bytes that are read.
    """
    try:
        value = parse_json(stream.read(most).decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if is_squad(value):
        return counted(squad_rows(value), "question")
    stream.seek(0)
    return None
