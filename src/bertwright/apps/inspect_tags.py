"""Texts with tags, as `bertwright init` finds them: lists of tokens and tags, CoNLL files, and spans of characters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from bertwright.apps.inspect_rows import first_of, look_at_rows
from bertwright.apps.inspection import Column, Contents
from bertwright.apps.new_recipe import Findings
from bertwright.text.tables import Table, is_conll

_TOKENS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "labels", "ner", "pos_tags", "upos", "pos")
_SPANS = ("entities", "spans", "label", "labels")


def _columns_of_tags(tables: Sequence[Table], contents: Contents) -> dict[str, str] | None:
    """The options of a source that say where words and tags stand; None where there are none.

    Args:
        tables: that are looked at.
        contents: their columns.
    """
    if all(table.is_plain for table in tables):
        return {} if all(is_conll(table.path) for table in tables) else None
    columns = contents.columns
    lists = [name for name in columns if columns[name].holds_lists]
    tokens, tags = first_of(_TOKENS, lists), first_of(_TAGS, lists)
    if tokens and tags:
        return {"tokens_column": tokens, "tags_column": tags}
    spans = next((name for name in _SPANS if name in lists and _holds_spans(columns[name])), None)
    return {"entities_column": spans} if spans and "text" in columns else None


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
    return look_at_rows(
        name, path, contents, options, ("tokens", "tags"), lambda record: record.text, text_column="text"
    )
