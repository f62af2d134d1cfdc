"""Labelled rows of any task, read from wherever a `Source` points."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.text import imdb
from bertwright.text.corpus import as_text, open_parts
from bertwright.text.sources import Reviews, canonical, choose, locate

Label = str | int


@dataclass(frozen=True)
class Record:
    """A labelled row.

    Args:
        id: the place in its data set: split and file in aclImdb (train/pos/0_9), else split and row from 0 (train/17).
        text: the raw text.
        text_pair: the second text, for tasks on pairs.
        label: the label as the data write it; whole numbers are int in every format.
    """

    id: str
    text: str
    text_pair: str | None = None
    label: Label | None = None


def read_records(source: Source, split: str, columns: Sequence[str]) -> list[Record]:
    """Reads the labelled rows of one split.

    Args:
        source: where the rows are: a table format, the aclImdb folder or its tar.gz, or a data set of the hub.
        split: the split to read, such as train or test.
        columns: the fields of a record that a task needs: text, text_pair, label. The source says which column of the
            data each of them is.

    Returns:
        The rows in order; those of aclImdb are ordered by id.

    Raises:
        UserError: if a file, a column or a label is missing, or labels are words in one row and numbers in another.
    """
    place = locate(source)
    records: list[Record] = []
    if isinstance(place, Reviews):
        found = imdb.read_reviews(place.path, choose([split], imdb.SPLITS, source))
        for name, label, text in sorted(found, key=lambda review: review[0]):
            records.append(Record(name, text, label=as_label(label, f"{place.path}, {name}")))
    else:
        named = [(getattr(source, f"{column}_column"), f"{column}_column") for column in columns]
        for part in open_parts(source, place, None if source.test_ratio else [split], named):
            for number, values in part.rows:
                if source.test_ratio and _is_test(values[0], source.test_ratio) != (split == "test"):
                    continue
                if part.is_plain:
                    raise UserError(f"{part.name} is plain text and holds no labels; give a .jsonl, .csv or .parquet")
                row = dict(zip(columns, values, strict=True))
                records.append(_record(f"{canonical(split)}/{len(records)}", row, part.where(number)))
    if len({type(record.label) for record in records}) > 1:
        raise UserError(f"{source.path}, split {split}, mixes numbers and words as labels; use one kind")
    return records


def _is_test(text: Any, ratio: float) -> bool:
    """Whether a text falls to the test split: by its digest."""
    return int.from_bytes(hashlib.blake2b(str(text).encode(), digest_size=4).digest()) < ratio * 2**32


def _record(name: str, row: dict[str, Any], where: str) -> Record:
    for column in ("text", "text_pair"):
        if column in row and row[column] is None:
            raise UserError(f"{where} has no {column}; remove this row")
    pair = row.get("text_pair")
    return Record(
        name,
        as_text(row["text"], where),
        None if pair is None else as_text(pair, where),
        as_label(row["label"], where) if "label" in row else None,
    )


def as_label(value: Any, where: str) -> Label:
    """A label as a string or whole number: CSV writes all as strings, pandas writes 1.0 and NaN.

    Args:
        value: as it was read.
        where: its place, for a message.

    Raises:
        UserError: if there is none, or it is something else.
    """
    if isinstance(value, str):
        value = value.strip()
        value = int(value.partition(".")[0]) if re.fullmatch(r"-?\d+(\.0+)?", value) else value
    elif isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if value in (None, "", -1) or value != value:
        raise UserError(f"{where} has no label ({value!r}); remove such rows, or choose a split with labels")
    if not isinstance(value, str | int):
        raise UserError(f"{where} has the label {value!r}; a label is a whole number or a word; set label_column")
    return value
