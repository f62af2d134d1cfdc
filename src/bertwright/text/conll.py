"""CoNLL files: a word a line with its columns, the first of which is the word and the last its tag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, dropwhile
from typing import Any, NamedTuple

from bertwright.errors import UserError

COLUMNS = ("tokens", "tags")
"""The columns that every file has."""


def sentences(
    lines: Iterable[tuple[int, str]], path: object, tagged: bool = True
) -> Iterator[tuple[int, list[list[str]]]]:
    """The sentences of a CoNLL file: a word a line with its columns, and a blank line behind each sentence.

    Columns are parted by tabs where a line has one, else by white space. Lines with -DOCSTART- begin a document and
    hold no word; neither do remarks before a sentence, which begin with #. A remark has another number of columns than
    words have or, where these are parted by tabs, no tab.

    Args:
        lines: with their numbers.
        path: of the file, for a message.
        tagged: whether tags are read, so that a word alone is too little.

    Yields:
        For each sentence the line of its first word, and the columns of each word.

    Raises:
        UserError: if a word has another number of columns than the first.
    """
    blocks = _blocks(lines)
    head: list[list[_Line]] = []
    word = None
    while word is None and (block := next(blocks, None)):
        head.append(block)
        word = next((line for line in block if not line.columns[0].startswith("#")), None)
    if not head:
        return
    word = word or head[-1][-1]
    width = len(word.columns)
    for block in chain(head, blocks):
        words = list(dropwhile(partial(_is_remark, word=word), block))
        for number, columns, _ in words:
            if len(columns) != width or (tagged and width < 2):
                wanted = (
                    "where a word and its tag are expected" if tagged and width < 2 else f"where others have {width}"
                )
                what = "a word and its tag" if tagged or width > 1 else "one word"
                raise UserError(
                    f"{path}, line {number} has {len(columns)} column{'s' if len(columns) > 1 else ''} {wanted}; write "
                    f"{what} on each line, and a blank line behind each sentence"
                )
        if words:
            yield words[0].number, [line.columns for line in words]


class _Line(NamedTuple):
    """A line that is not blank: its number, its columns, and whether tabs part these."""

    number: int
    columns: list[str]
    tabs: bool


def _is_remark(line: _Line, word: _Line) -> bool:
    """Whether a line before a sentence holds no word, in a file with such lines of words."""
    if word.tabs and not line.tabs:  # as `# newpar`, which has two columns as a word with its tag has
        return line.columns[0].startswith("#")
    return line.columns[0] == "#" and len(line.columns) not in (1, len(word.columns))


def _blocks(lines: Iterable[tuple[int, str]]) -> Iterator[list[_Line]]:
    """Lines up to a blank one."""
    block: list[_Line] = []
    for number, line in lines:
        tabs = "\t" in line
        columns = [cell.strip() for cell in line.rstrip("\r\n").split("\t")] if tabs else line.split()
        if any(columns) and columns[0] != "-DOCSTART-":
            block.append(_Line(number, columns, tabs))
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
