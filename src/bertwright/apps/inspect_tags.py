"""Texts with tags, as `bertwright init` finds them: lists of tokens and tags, CoNLL files, and spans of characters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from bertwright.apps.inspection import LOOKED_AT, Column, Contents, measure
from bertwright.apps.new_recipe import TEST_RATIO, Findings
from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.text import conll, decoding, formats
from bertwright.text.corpus import parts_read
from bertwright.text.records import read_split
from bertwright.text.tables import Table
from bertwright.text.tags import split_tag

_TOKENS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "labels", "ner", "pos_tags", "upos", "pos")
_SPANS = ("entities", "spans", "label", "labels")
_LINES = 200
"""Lines of a text file that are looked at, to see whether it is a CoNLL file."""


def _columns_of_tags(tables: Sequence[Table], contents: Contents) -> dict[str, str] | None:
    """The options of a source that say where words and tags stand; None where there are none.

    Args:
        tables: that are looked at.
        contents: their columns.
    """
    if all(table.is_plain for table in tables):
        return {} if all(_is_conll(table.path) for table in tables) else None
    columns = contents.columns
    lists = [name for name in columns if columns[name].holds_lists]
    tokens = next((name for name in _TOKENS if name in lists), None)
    tags = next((name for name in _TAGS if name in lists), None)
    if tokens and tags:
        return {"tokens_column": tokens, "tags_column": tags}
    spans = next((name for name in _SPANS if name in lists and _holds_spans(columns[name])), None)
    return {"entities_column": spans} if spans and "text" in columns else None


def _is_conll(path: Path) -> bool:
    """Whether a text file has a word and a tag of entities on each line."""
    with formats.clear_errors(path), decoding.open_bytes(path) as stream:
        lines = (
            (number, decoding.decode(line, path, number))
            for number, line in enumerate(islice(decoding.read_lines(stream), _LINES), 1)
        )
        try:
            tags = {row[-1] for _, rows in conll.sentences(lines, path) for row in rows}
        except UserError:
            return False
    return any(split_tag(tag)[0] for tag in tags) and all(tag == "O" or split_tag(tag)[0] for tag in tags)


def _holds_spans(column: Column) -> bool:
    """Whether the values are lists of start, end and label, as far as they are looked at."""
    found: list[Any] = []
    for value in islice(column.counts, 50):
        try:
            found += json.loads(value)
        except (json.JSONDecodeError, TypeError):
            return False
    return bool(found) and all(isinstance(one, Mapping) and {"start", "end", "label"} <= set(one) for one in found)


def look_at_tags(name: str, path: str, tables: Sequence[Table], contents: Contents) -> Findings | None:
    """What texts with tags hold; None where there are no tags.

    Args:
        name: for the recipe.
        path: that the recipe names.
        tables: that are looked at.
        contents: their columns.

    Raises:
        UserError: if words and tags do not fit each other, or the tags no scheme.
    """
    options: dict[str, Any] | None = _columns_of_tags(tables, contents)
    if options is None:
        return None
    has_test = "test" in parts_read(Source(path=path), None).values()
    source = replace(Source(path=path, test_ratio=None if has_test else TEST_RATIO), **options)
    records = read_split(source, "train", ("tokens", "tags"))
    texts = measure((record.text, number) for number, record in enumerate(records.records[:LOOKED_AT], 1))
    notes = [] if records.converted is None else [f"tags are {records.converted}"]
    if not has_test:
        notes.append("rows and entities are those of the train part")
    return Findings(
        name=name,
        path=path,
        contents=contents,
        texts=texts,
        text_column="text",
        label_column=None,
        labels=records.summary()["classes"],
        has_test=has_test,
        groups=[],
        notes=notes,
        is_plain=False,
        characters=texts.total,
        tagged=options,
    )
