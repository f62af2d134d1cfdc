"""All columns of one file, row by row, where a row that cannot be read costs only itself.

`formats.read_rows` reads chosen columns for training, where a bad row must stop the work. Here a file is looked at
(`bertwright init`) or answered (`bertwright predict --file`): every column is kept, and a bad row comes with its
reason. Memory stays constant but for a JSON file that is one list.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.text import conll, decoding, formats, squad
from bertwright.text.tags import OUTSIDE, split_tags

DELIMITERS = (",", "\t", ";")
_BATCH = 1_024
"""Rows of a Parquet file that are held together."""

_LINES = 200
"""Lines of a text file that are looked at, to see whether it is a CoNLL file."""

_TAGGED = 0.9
"""Part of its words that have a known tag: a tag that a model does not know makes a file of words no plain text."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        number: its line, or its row where that is no line, counted from 1; of a row over several lines the last.
        values: one for each column; None where the row has none.
        problem: why the row cannot be read, in words that follow its place.
    """

    number: int
    values: list[Any]
    problem: str | None = None


@dataclass(frozen=True)
class Table:
    """A file as a table.

    Args:
        path: the file.
        columns: the names of its columns in order; a text file has one, called text, and a row for each line.
        delimiter: between the columns of a CSV file.
        words: of a CoNLL file, what its column of words is called there: tokens, or a number.
    """

    path: Path
    columns: list[str]
    delimiter: str = ","
    words: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is plain text, without columns of its own."""
        return formats.format_of(self.path) == ".txt" and self.words is None

    def place_of(self, column: str) -> int:
        """The number of a column, from 0.

        Args:
            column: the name of one.

        Raises:
            UserError: if several have this name.
        """
        formats.require_one(self.path, self.columns, column)
        return self.columns.index(column)

    def rows(self) -> Iterator[Row]:
        """The rows in order; each call reads the file anew.

        Raises:
            UserError: if the file cannot be read to its end.
        """
        readers = {".txt": _text_rows, ".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}
        kind = formats.format_of(self.path) if self.words is None else ".conll"
        readers[".conll"] = _conll_rows
        with formats.clear_errors(self.path):
            yield from readers.get(kind or "", _json_rows)(self)


def open_table(path: Path) -> Table:
    """A file as a table: .txt .csv .tsv .jsonl .json .parquet .conll, each also compressed.

    Raises:
        UserError: if there is no such file, its format is unknown, or it has no row.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one file")
    if path.exists() and formats.format_of(path) is None:
        raise UserError(f"{path} is of no known format; Bertwright reads {' '.join(formats.FORMATS)}")
    with formats.clear_errors(path):
        kind = formats.format_of(path)
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; give a file with rows")
        if kind == ".txt":
            return Table(path, ["text"])
        if kind == ".conll":
            return Table(path, list(conll.COLUMNS), words="tokens")
        if kind in (".csv", ".tsv"):
            return _open_csv(path)
        if kind == ".parquet":
            with formats.open_parquet(path) as table:
                return Table(path, list(table.schema_arrow.names))
        columns = dict.fromkeys(str(key) for _, row in _json_values(path) if isinstance(row, dict) for key in row)
        if not columns:
            raise UserError(f'{path} has no row that is a JSON object; write each as {{"text": ...}}')
        return Table(path, list(columns))


def is_conll(path: Path, tags: Collection[str] = ()) -> bool:
    """Whether a text file is a CoNLL file: its first lines have as many columns each, and most end with a tag.

    A tag is of entities, or known.

    Args:
        path: the file.
        tags: that are known, as those of a model are.

    Raises:
        UserError: if the file cannot be read.
    """
    with formats.clear_errors(path), decoding.open_bytes(path) as stream:
        lines = ((i, decoding.decode(line, path, i)) for i, line in enumerate(decoding.read_lines(stream), 1))
        try:
            found = Counter(row[-1] for _, rows in conll.sentences(islice(lines, _LINES), path) for row in rows)
        except UserError:
            return False
    of_entities = {tag for tag, (prefix, _) in split_tags(found).items() if prefix}
    tagged = sum(found[tag] for tag in {OUTSIDE, *of_entities, *tags})
    return bool(of_entities or found.keys() & {*tags}) and tagged >= _TAGGED * found.total()


def with_words(table: Table, column: str, tags: Collection[str] = ()) -> Table:
    """A CoNLL file whose words are those of a column: its tokens, and its tags where it has more columns.

    Args:
        table: the file.
        column: as training calls it; a name that is no number, as those of other formats are, is the first column.
        tags: that are known, as those of a model are.

    Raises:
        UserError: if the file cannot be read, or has other columns than this one, or tags in it.
    """
    with formats.clear_errors(table.path):
        lines = enumerate(_lines(table.path), 1)
        _, rows = next(conll.sentences(lines, table.path, tagged=False), (0, [[""]]))
    width, number = len(rows[0]), int(column) if column.isascii() and column.isdigit() else 1
    if width == 1:
        number = 1
    if not 1 <= number <= width:
        raise UserError(
            f"{table.path} has columns 1 to {width}, and the words that the model was trained on were column {number}; "
            "write them there, or in a file of words alone"
        )
    if number == width > 1 and is_conll(table.path, tags):
        raise UserError(
            f"{table.path} has tags in column {number}, where the words are that the model was trained on; write words "
            "there, or a file of words alone"
        )
    columns = list(conll.COLUMNS)[: 1 if number == width else 2]
    return replace(table, columns=columns, words=str(number))


def cell(value: Any) -> str:
    """A value as the text of a cell: none is empty, and lists and objects are JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str).strip('"')


def _text_rows(table: Table) -> Iterator[Row]:
    number = 0
    for part in formats.read_text(table.path):
        for line in part.removesuffix("\n").split("\n"):
            number += 1
            yield Row(number, [line])


def _lines(path: Path) -> Iterator[str]:
    with decoding.open_bytes(path) as stream:
        for number, line in enumerate(decoding.read_lines(stream), 1):
            yield decoding.decode(line, path, number)


def _open_csv(path: Path) -> Table:
    found = {mark: formats.header(path, mark) for mark in DELIMITERS}
    delimiter = "\t" if formats.format_of(path) == ".tsv" else max(DELIMITERS, key=lambda mark: len(found[mark]))
    columns = found[delimiter]
    if not any(columns):
        raise UserError(f"{path} has no header; its first line must name the columns, such as text,label")
    return Table(path, columns, delimiter)


def _csv_rows(table: Table) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    # Strict, for an unclosed quotation mark would otherwise swallow the rows up to the next one.
    reader = csv.reader(_lines(table.path), delimiter=table.delimiter, strict=True)
    width = len(table.columns)
    next(reader, None)
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{formats.place(table.path, start)} begins a row that is not valid CSV ({error}); close or double "
                "its quotation marks"
            ) from error
        if values:
            problem = None
            if len(values) != width:
                problem = f"has {len(values)} columns where the header has {width}"
            yield Row(reader.line_num, [*values, *[None] * width][:width], problem)


def _json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON file, one a line or in one list; an error in place of one that is not JSON."""
    with decoding.open_bytes(path) as stream:
        is_whole = formats.format_of(path) == ".json" or formats.is_json_list(stream, path)
    if is_whole:
        content = "".join(_lines(path))
        try:
            value = decoding.parse_json(content)
        except (json.JSONDecodeError, RecursionError):
            value = None  # a row a line, perhaps
        if squad.is_squad(value):
            yield from decoding.counted(squad.squad_rows(value), "question")
            return
        if value is not None:
            yield from decoding.counted(value if isinstance(value, list) else [value])
            return
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield number, decoding.parse_json(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield number, error


def _json_rows(table: Table) -> Iterator[Row]:
    for number, value in _json_values(table.path):
        if isinstance(value, dict):
            yield Row(number, [value.get(name) for name in table.columns])
        else:
            reason = getattr(value, "msg", value) if isinstance(value, Exception) else None
            problem = f"is not valid JSON ({reason})" if reason else "is not a JSON object"
            yield Row(number, [None] * len(table.columns), problem)


def _conll_rows(table: Table) -> Iterator[Row]:
    columns = [(str(table.words) if name == "tokens" else name, f"{name}_column") for name in table.columns]
    for number, values in formats.read_rows(table.path, columns):
        yield Row(number, values)


def _parquet_rows(table: Table) -> Iterator[Row]:
    with formats.open_parquet(table.path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield Row(decoding.RowNumber(number, "row"), list(values))
