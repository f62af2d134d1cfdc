"""Rows and text out of one file: .txt .jsonl .json .csv .parquet, each also .gz .xz .zst, streamed with exact errors.

Every format has one path, and that path counts lines as it goes, so that an error names the line without a second
reading. Memory stays constant: a file's longest row, or a batch of a Parquet file, is the most that is held.
"""

from __future__ import annotations

import csv
import difflib
import gzip
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
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.errors import UserError

FORMATS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")
_BUFFER = 1 << 20
# A JSON file that is one big list cannot be streamed by the standard library, so it must fit in memory.
_LIST_LIMIT = 256 << 20


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


def place(path: Path, number: int) -> str:
    """Where a row is, in words: the file and the line, or in a Parquet file the row, counted from 1."""
    return f"{path}, {'row' if format_of(path) == '.parquet' else 'line'} {number}"


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
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} is truncated or damaged ({reason}); fetch it again or remove it") from error


def open_bytes(path: Path) -> io.BufferedReader:
    """A file's bytes, decompressed as they are read."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"), _BUFFER)
    if suffix == ".xz":
        # Lines are some ten times slower to find in LZMAFile than in a buffer over it.
        return io.BufferedReader(lzma.open(path, "rb"), _BUFFER)
    if suffix == ".zst":
        # Arrow, which we need anyway, spares a dependency on zstandard.
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), _BUFFER)
    return io.BufferedReader(io.FileIO(path), _BUFFER)


def decode(line: bytes, path: Path, number: int) -> str:
    """UTF-8 bytes as text, without a byte order mark at the start of a file.

    Args:
        line: one or more lines.
        path: where they come from.
        number: the number of the first of them in its file, counted from 1.

    Raises:
        UserError: if they are not UTF-8, with the line.
    """
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place(path, number + line[: error.start].count(10))} is not UTF-8 (byte 0x{line[error.start]:02x}); "
            f"convert the file, for example with `iconv -t UTF-8`"
        ) from error


def read_text(path: Path) -> Iterator[str]:
    """A text file in pieces of about 1 MiB that end where a line does, with Windows' line breaks made plain.

    Raises:
        UserError: as `clear_errors`, or if bytes are not UTF-8.
    """
    with clear_errors(path), open_bytes(path) as stream:
        number = 1
        while lines := stream.readlines(_BUFFER):
            yield decode(b"".join(lines), path, number).replace("\r\n", "\n")
            number += len(lines)


def read_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    """The rows of a file in a table format.

    Args:
        path: a .jsonl, .json, .csv or .parquet file, possibly compressed.
        columns: for each column to read, its name and the option that sets that name.

    Yields:
        For each row: its line (in Parquet: its row), counted from 1, and the values of the columns.

    Raises:
        UserError: as `clear_errors`, or if a line is malformed or a column is missing, or the file holds no row.
    """
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}
    count = 0
    with clear_errors(path):
        for row in readers.get(format_of(path) or "", _json_rows)(path, columns):
            count += 1
            yield row
    if count == 0:
        raise UserError(f"{path} is empty; remove it, or give a file with rows")


def _json_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    with open_bytes(path) as stream:
        if format_of(path) == ".json" and stream.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            rows: Iterable[tuple[int, Any]] = _json_list(stream, path)
        else:
            rows = ((number, _parse(line, path, number)) for number, line in enumerate(stream, 1) if line.strip())
        for number, row in rows:
            if not isinstance(row, dict):
                raise UserError(f'{place(path, number)} is not a JSON object; write each row as {{"text": ...}}')
            try:
                yield number, [row[name] for name, _ in columns]
            except KeyError:
                name, option = next(column for column in columns if column[0] not in row)
                raise missing_column(place(path, number), name, row, option) from None


def _json_list(stream: io.BufferedReader, path: Path) -> Iterator[tuple[int, Any]]:
    content = stream.read(_LIST_LIMIT + 1)
    if len(content) > _LIST_LIMIT:
        raise UserError(f"{path} is one list of more than {_LIST_LIMIT >> 20} MiB; rewrite it with one row per line")
    yield from enumerate(_parse(content, path, 1), 1)


def _parse(line: bytes, path: Path, number: int) -> Any:
    text = decode(line, path, number).rstrip()
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        row = number + getattr(error, "lineno", 1) - 1
        raise UserError(
            f"{place(path, row)} is not valid JSON ({getattr(error, 'msg', error)}); fix or remove this line"
        ) from error


def _csv_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    with open_bytes(path) as stream:
        mark = "\t" if format_of(path) == ".tsv" else ","
        reader = csv.reader((decode(line, path, number) for number, line in enumerate(stream, 1)), delimiter=mark)
        header = next(reader, None)
        if header is None:
            return
        for name, option in columns:
            if name not in header:
                raise missing_column(str(path), name, header, option)
        places = [header.index(name) for name, _ in columns]
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{place(path, reader.line_num)} has {len(row)} columns where the header has {len(header)}; "
                    "quote texts that contain commas"
                )
            if row:
                yield reader.line_num, [row[index] for index in places]


def _parquet_rows(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    with tempfile.TemporaryFile() as unpacked:
        source: Any = path
        if path.suffix.lower() in COMPRESSIONS:
            # Parquet is read from its end, which a compressed stream only reaches by unpacking everything.
            with open_bytes(path) as stream:
                shutil.copyfileobj(stream, unpacked, _BUFFER)
            unpacked.seek(0)
            source = unpacked
        elif path.stat().st_size == 0:
            return
        with pq.ParquetFile(source) as table:
            for name, option in columns:
                if name not in table.schema_arrow.names:
                    raise missing_column(str(path), name, table.schema_arrow.names, option)
            start = 1
            for batch in table.iter_batches(batch_size=512, columns=[name for name, _ in columns]):
                values = [batch.column(name).to_pylist() for name, _ in columns]
                yield from enumerate(map(list, zip(*values, strict=True)), start)
                start += batch.num_rows
