"""CoNLL files: a word a line with its columns, the first of which is the word and the last its tag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bertwright.errors import UserError

COLUMNS = ("tokens", "tags")
"""The columns that every file has."""


def sentences(lines: Iterable[tuple[int, str]], path: object) -> Iterator[tuple[int, list[list[str]]]]:
    """The sentences of a CoNLL file: a word a line with its columns, and a blank line behind each sentence.

    Columns are parted by tabs where a line has one, else by white space. Lines with -DOCSTART- begin a document and
    hold no word; neither do lines before a sentence that begin with # and have another number of columns.

    Args:
        lines: with their numbers.
        path: of the file, for a message.

    Yields:
        For each sentence the line of its first word, and the columns of each word.

    Raises:
        UserError: if a word has another number of columns than the first.
    """
    width = 0
    for block in _blocks(lines):
        width = width or len(block[-1][1])
        begin = 0
        while begin < len(block) and block[begin][1][0] == "#" and len(block[begin][1]) not in (1, width):
            begin += 1
        for number, columns in block[begin:]:
            if len(columns) != width or width < 2:
                wanted = f"where others have {width}" if width > 1 else "where a word and its tag are expected"
                raise UserError(
                    f"{path}, line {number} has {len(columns)} column{'s' if len(columns) > 1 else ''} {wanted}; write "
                    "a word and its tag on each line, and a blank line behind each sentence"
                )
        if begin < len(block):
            yield block[begin][0], [columns for _, columns in block[begin:]]


def _blocks(lines: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, list[str]]]]:
    """Lines up to a blank one, as their numbers and columns."""
    block: list[tuple[int, list[str]]] = []
    for number, line in lines:
        columns = [cell.strip() for cell in line.rstrip("\r\n").split("\t")] if "\t" in line else line.split()
        if any(columns) and columns[0] != "-DOCSTART-":
            block.append((number, columns))
        elif block:
            yield block
            block = []
    if block:
        yield block


def column(rows: Sequence[Sequence[str]], name: str, path: object, option: str) -> Any:
    """A column of a sentence: a list with a value for each word, or the sentence as text.

    Args:
        rows: the columns of each word.
        name: tokens, the first column; tags, the last; a column's number, from 1; or text, the tokens with spaces.
        path: of the file, for a message.
        option: that sets the name.

    Raises:
        UserError: if there is no such column.
    """
    width = len(rows[0])
    if name == "text":
        return " ".join(row[0] for row in rows)
    place = {"tokens": 0, "tags": width - 1}.get(name)
    if place is None and name.isascii() and name.isdigit() and 1 <= int(name) <= width:
        place = int(name) - 1
    if place is None:
        raise UserError(f"{path} has columns 1 to {width} and no `{name}`; set {option} to one of these numbers")
    return [row[place] for row in rows]
