"""Rows and text out of one file: .txt .jsonl .csv .parquet .conll, each also .gz .xz .zst, streamed with exact errors.

Every format has one path, and that path counts lines as it goes, so that an error names the line without a second
reading. Memory stays constant: a file's longest row, or a batch of a Parquet file, is the most that is held.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import lzma
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.errors import UserError
from bertwright.files import means_disk_full
from bertwright.text import conll, decoding, squad
from bertwright.text.decoding import (
    BUFFER,
    COMPRESSIONS,
    decode,
    line_blocks,
    open_bytes,
    open_stored,
    parse_json,
    read_lines,
)
from bertwright.text.json_errors import kind, refuse_one_value

FORMATS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".conll")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What stands between the columns of a CSV file, in words."""

# A JSON file that is one big list cannot be streamed by the standard library, so it must fit in memory.
_LIST_LIMIT = 256 << 20
_HEADER_LINES = 100


def repaired(text: str) -> str:
    """Half a surrogate pair, which cut-off emoji leave behind in JSON, becomes a question mark.

    So do the bytes of a command line or of standard input that are not UTF-8.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def format_of(path: Path) -> str | None:
    """The suffix that says a file's format, compression left out; None where Bertwright cannot read it."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.suffix.lower() in COMPRESSIONS


def place(path: Path, number: int) -> str:
    """Where a row is, in words: the file and the line; in a Parquet file and a list of JSON the row, from 1."""
    return f"{path}, {decoding.numbered(number, 'row' if format_of(path) == '.parquet' else 'line')}"


def missing_column(where: str, column: str, existing: Iterable[str], option: str) -> UserError:
    """The error for a column that is not there, with those that are and the likeliest one that was meant."""
    names = [str(name) for name in existing]
    near = difflib.get_close_matches(column, names, n=1)
    meant = f"; did you mean `{near[0]}`?" if near else ""
    return UserError(f"{where} has no column `{column}`; it has: {', '.join(names) or 'none'}{meant}; set {option}")


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turns the many ways in which reading a file fails into one sentence about that file.

    Raises:
        UserError: if the file is absent, unreadable, truncated or not what its name says.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except PermissionError:
        raise UserError(f"{path} may not be read by this user; change its permissions") from None
    except (EOFError, lzma.LZMAError, zlib.error, tarfile.TarError, OSError, pa.ArrowInvalid, csv.Error) as error:
        if means_disk_full(error):  # where it is unpacked
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} is truncated or damaged ({reason}); fetch it again or remove it") from error


def read_text(path: Path) -> Iterator[str]:
    """A text file in pieces of about 1 MiB that end where a line does, with Windows' line breaks made plain.

    Raises:
        UserError: as `clear_errors`, or if bytes are not UTF-8.
    """
    with clear_errors(path), open_bytes(path) as stream:
        number = 1
        for lines in line_blocks(stream):
            yield decode(b"".join(lines), path, number).replace("\r\n", "\n")
            number += len(lines)


def read_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    """The rows of a file in a table format.

    Args:
        path: a .jsonl, .json, .csv, .parquet or .conll file, possibly compressed; .txt is read as .conll.
        columns: for each column to read, its name and the option that sets that name.

    Yields:
        For each row: its line (in Parquet: its row; in CoNLL: its first), counted from 1, and the columns' values.

    Raises:
        UserError: as `clear_errors`, or if a line is malformed or a column is missing, or the file holds no row.
    """
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}
    readers |= {".conll": _conll_rows, ".txt": _conll_rows}
    count = 0
    with clear_errors(path):
        for row in readers.get(format_of(path) or "", _json_rows)(path, columns):
            count += 1
            yield row
    if count == 0:
        raise UserError(f"{path} is empty; remove it, or give a file with rows")


def _json_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    with open_bytes(path) as stream:
        is_list = is_json_list(stream, path)
        rows = _json_list(stream, path) if is_list else _json_lines(stream, path)
        if not is_list and format_of(path) == ".json" and any(option == "question_column" for _, option in columns):
            rows = squad.questions(stream, _LIST_LIMIT) or rows
        for number, row in rows:
            if not isinstance(row, dict):
                raise UserError(
                    f'{place(path, number)} is not a JSON object but {kind(row)}; write each row as {{"text": ...}}'
                )
            try:
                yield number, [row[name] for name, _ in columns]
            except KeyError:
                name, option = next(column for column in columns if column[0] not in row)
                raise missing_column(place(path, number), name, row, option) from None


def is_json_list(stream: io.BufferedReader, path: Path) -> bool:
    """Whether a file holds one list of rows, as it begins: .json, or .jsonl by a name that is wrong."""
    start = stream.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    # The lists of a .jsonl are rows of another shape, unless the first of them holds a row and ends later.
    return start.startswith(b"[") and (format_of(path) == ".json" or start[1:].lstrip()[:1] in (b"{", b""))


def _json_lines(stream: io.BufferedReader, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(read_lines(stream), 1):
        if line.strip():
            try:
                yield number, parse_json(decode(line, path, number).rstrip())
            except (json.JSONDecodeError, RecursionError) as error:
                if number == 1:
                    refuse_one_value(line + stream.read(_LIST_LIMIT), path)
                raise _not_json(path, number, error) from error


def _json_list(stream: io.BufferedReader, path: Path) -> Iterator[tuple[int, Any]]:
    content = stream.read(_LIST_LIMIT + 1)
    if len(content) > _LIST_LIMIT:
        raise UserError(f"{path} is one list of more than {_LIST_LIMIT >> 20} MiB; rewrite it with one row per line")
    try:
        yield from decoding.counted(parse_json(decode(content, path, 1).rstrip()))
    except (json.JSONDecodeError, RecursionError) as error:
        raise _not_json(path, getattr(error, "lineno", 1), error) from error


def _not_json(path: Path, number: int, error: Exception) -> UserError:
    return UserError(
        f"{place(path, number)} is not valid JSON ({getattr(error, 'msg', error)}); fix or remove this line"
    )


def delimiter(path: Path, names: Sequence[str]) -> str:
    """What stands between the columns of a CSV file: commas, unless only with semicolons or tabs the columns are there.

    Args:
        path: the file.
        names: of the columns that are read.
    """
    if format_of(path) == ".tsv":
        return "\t"
    wanted = {name.strip() for name in names}
    fitting = [mark for mark in DELIMITERS if wanted <= set(header(path, mark))]
    return fitting[0] if fitting and (fitting[0] == "," or len(fitting) == 1) else ","


def header(path: Path, mark: str) -> list[str]:
    """The names of a CSV file's columns, if `mark` stands between them; a name in quotes may have more than a line."""
    csv.field_size_limit(sys.maxsize)
    with clear_errors(path), open_bytes(path) as stream:
        # With another mark a quotation mark may stay open.
        first = enumerate(islice(read_lines(stream), _HEADER_LINES), 1)
        row = next(csv.reader((decode(line, path, number) for number, line in first), delimiter=mark), [])
    return [name.strip() for name in row]


def _csv_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    mark = delimiter(path, [name for name, _ in columns])
    with open_bytes(path) as stream:
        pending: list[str] = []  # the lines of the row that is being read

        def lines() -> Iterator[str]:
            for number, line in enumerate(read_lines(stream), 1):
                pending.append(decode(line, path, number))
                yield pending[-1]

        # Strict, for an unclosed quotation mark would otherwise swallow the rows up to the next one.
        reader = csv.reader(lines(), delimiter=mark, strict=True)
        header: list[str] | None = None
        places: list[int] = []
        while True:
            start = reader.line_num + 1
            pending.clear()
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise _bad_row(path, start, pending, mark, error) from error
            if row is None:
                return
            if header is None:
                header = [name.strip() for name in row]  # as `tables` and so `bertwright init` name them
                _require_columns(path, header, [(name.strip(), option) for name, option in columns])
                places = [header.index(name.strip()) for name, _ in columns]
            elif row and len(row) != len(header):
                raise UserError(
                    f"{place(path, start)} has {len(row)} columns where the header has {len(header)}; "
                    f"quote texts that contain {DELIMITERS[mark]}"
                )
            elif row:
                yield start, [row[index] for index in places]


def _require_columns(path: Path, names: list[str], columns: Sequence[tuple[str, str]]) -> None:
    for name, option in columns:
        if name not in names:
            raise missing_column(str(path), name, names, option)
        require_one(path, names, name)


def require_one(path: Path, names: Sequence[str], name: str, why: str = "") -> None:
    """See that no other column has the name of one.

    Raises:
        UserError: if one has.
    """
    if (count := names.count(name)) > 1:
        called = f"called `{name}`" if name else "without a name"
        raise UserError(f"{path} has {count} columns {called}{why}; rename all but one")


def _bad_row(path: Path, start: int, lines: Sequence[str], mark: str, error: csv.Error) -> UserError:
    """The error for a row that `csv` refuses: where its quotation mark opens, if that is what is wrong."""
    opened = None  # the line of the quotation mark that is open
    quoted = False
    before = mark
    for number, line in enumerate(lines, start):
        for character in line:
            if character == '"' and (quoted or before in (mark, "\n", '"')):
                quoted = not quoted
                opened = number if quoted and before != '"' else opened  # a doubled one opens nothing
            before = character
    last = start + len(lines) - 1
    if opened is not None and (opened < last or quoted):
        return UserError(
            f"{place(path, opened)} opens a quotation mark that is not closed; close it, or double the quotation "
            "marks that belong to a text"
        )
    if opened is not None:
        return UserError(
            f"{place(path, last)} has text after a closing quotation mark; double the quotation marks that belong to "
            "a text"
        )
    return UserError(f"{place(path, last)} is not valid CSV ({error}); fix or remove this line")


def _parquet_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    if not is_compressed(path) and path.stat().st_size == 0:
        return
    with open_parquet(path) as table:
        _require_columns(path, table.schema_arrow.names, columns)
        start = 1
        for batch in table.iter_batches(batch_size=512, columns=[name for name, _ in columns]):
            values = [batch.column(name).to_pylist() for name, _ in columns]
            yield from enumerate(map(list, zip(*values, strict=True)), start)
            start += batch.num_rows


def _conll_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    with open_bytes(path) as stream:
        lines = ((number, decode(line, path, number)) for number, line in enumerate(read_lines(stream), 1))
        tagged = any(option == "tags_column" for _, option in columns)
        for number, words in conll.sentences(lines, path, tagged):
            yield number, [conll.column(words, name, path, option) for name, option in columns]


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, unpacked first where it is compressed as a whole: it is read from its end."""
    with tempfile.TemporaryFile() as unpacked:
        source: Any = path
        if is_compressed(path):
            with open_stored(path) as stream:
                shutil.copyfileobj(stream, unpacked, BUFFER)
            unpacked.seek(0)
            source = unpacked
        with pq.ParquetFile(source) as table:
            yield table
