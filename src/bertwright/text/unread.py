"""Second texts that data have and a recipe does not read: a user should know that pairs are classified by half."""

from __future__ import annotations

from collections.abc import Sequence

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.text.corpus import open_parts
from bertwright.text.sources import Reviews, locate

_COLUMN = "text_pair"
"""What a second text is usually called; under another name it cannot be told from a remark."""


def unread_pair(source: Source, columns: Sequence[str]) -> str | None:
    """A sentence on a column of second texts that a task on single texts leaves unread; None where there is none.

    Args:
        source: the labelled data; the first row of the first file that has columns is looked at.
        columns: the fields of a record that the task needs.
    """
    place = locate(source)
    if "text" not in columns or _COLUMN in columns or source.text_column == _COLUMN or isinstance(place, Reviews):
        return None
    for part in open_parts(source, place, None, [(_COLUMN, "text_pair_column")]):
        if part.is_plain:
            continue
        try:
            _, (value,) = next(part.rows)
        except (UserError, StopIteration):  # no such column, or no row
            return None
        if isinstance(value, str) and value.strip():
            return (
                f"{part.name} has a column `{_COLUMN}`, which is not read: the task is on `{source.text_column}` "
                f"alone; for pairs of texts set text_pair_column: {_COLUMN}"
            )
        return None
    return None
