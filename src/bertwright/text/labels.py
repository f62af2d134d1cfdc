"""Labels as data write them: the name of a class, a number, a list of names, or a column of 0 and 1 for each name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bertwright.errors import UserError
from bertwright.text.decoding import parse_json

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")


def as_label(value: Any, where: str, classes: Sequence[str] | None = None) -> tuple[str | None, int | None]:
    """A label as text, the same from every format, and its number in the data's schema.

    It is what the data write, without white space around it. A truth value is true or false, however a format writes
    it. A whole number with decimals of zero, as pandas writes 1.0 where a column has empty cells, is the whole number.
    An empty cell is no label; neither is -1 where the schema names the classes, as test sets on the hub have it. In all
    other data -1 is a label like any other.

    Args:
        value: as it was read.
        where: its place, for a message.
        classes: the names of the classes in the data's schema.

    Raises:
        UserError: if it is something else, or a class that the schema does not name.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None, None
    if isinstance(value, bool):
        written = str(value).lower()
    elif isinstance(value, int | float):
        written = str(int(value)) if value == value // 1 and abs(value) < 1e300 else repr(value)
    elif isinstance(value, str):
        written = value.strip()
        written = written.lower() if written.lower() in ("true", "false") else written
        whole = _WHOLE.fullmatch(written)
        written = str(int(whole[1])) if whole else written
    else:
        raise UserError(f"{where} has the label {value!r}; a label is a word or a number; set label_column")
    if classes is None:
        return written, None
    if written == "-1":
        return None, None
    if isinstance(value, str) and written in classes:
        return written, list(classes).index(written)
    if re.fullmatch(r"\d+", written) and int(written) < len(classes):
        return classes[int(written)], int(written)
    raise UserError(f"{where} has the label {value!r}, but the data's schema has the classes {', '.join(classes)}")


def as_number(value: Any, where: str) -> float | None:
    """A label that is a number; None where there is none.

    Args:
        value: as it was read: a number, or text with a decimal point.
        where: its place, for a message.

    Raises:
        UserError: if it is no finite number.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (isinstance(value, str) and "_" in value):
        raise UserError(
            f"{where} has the label {value!r}, which is no finite number; write one such as 3.5, or choose another "
            "column with label_column"
        )
    return number


def as_labels(value: Any, where: str, classes: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """The labels of a text, each once; an empty list is a text that has none, and None one whose labels are unknown.

    Args:
        value: as it was read: a list, or a list in JSON, as a CSV file holds it.
        where: its place, for a message.
        classes: the names of the labels in the data's schema.

    Raises:
        UserError: if it is no list of names.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    listed = value
    if isinstance(value, str):
        try:
            listed = parse_json(value)
        except (json.JSONDecodeError, RecursionError):
            listed = None
    if not isinstance(listed, list):
        raise UserError(
            f"{where} has {value!r} where a list of labels is expected; write a list of names, in CSV as "
            '["first", "second"], or a column for each label (label_columns)'
        )
    found = [as_label(one, where, classes)[0] for one in listed]
    if None in found:
        raise UserError(f"{where} has an empty label in {value!r}; remove it")
    return tuple(dict.fromkeys(str(one) for one in found))


def as_indicators(row: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """The labels of a text from a column for each; None if all of them are empty, so that they are unknown.

    Args:
        row: the value of each column, 1 or true where the text has its label and 0 or false where it has not.
        where: the place of the row, for a message.

    Raises:
        UserError: if a value is something else, or only some are empty.
    """
    written = {name: as_label(value, where)[0] for name, value in row.items()}
    if set(written.values()) <= {None}:
        return None
    for name, value in written.items():
        if value not in ("0", "1", "true", "false"):
            shown = "nothing" if value is None else repr(row[name])
            raise UserError(f"{where} has {shown} in column `{name}` of label_columns; write 1 or 0 there")
    return tuple(name for name, value in written.items() if value in ("1", "true"))


def labels_of(
    row: Mapping[str, Any], values: Iterable[tuple[Sequence[str], Any]], where: str, classes: Sequence[str] | None
) -> tuple[str, ...] | None:
    """The labels of a row, from a list or from a column for each; None where it is read for other labels.

    Args:
        row: the values by field of a record; `labels` is a list.
        values: field, column and option of each value; the field `indicator` is a column for one label.
        where: the place of the row, for a message.
        classes: the names of the labels in the data's schema.

    Raises:
        UserError: as `as_labels` and `as_indicators`.
    """
    if "labels" in row:
        return as_labels(row["labels"], where, classes)
    named = {column: value for (name, column, _), value in values if name == "indicator"}
    return as_indicators(named, where) if named else None
