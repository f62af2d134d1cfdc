"""The bytes of a file as text: compression, encodings that can be told for certain, and the ends of lines.

A text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Nothing else is tried: the same bytes mean something in
many encodings, and a wrong one changes letters in silence. A file in another encoding is refused with a command that
converts it. Rows of JSON that are no lines are counted here, too.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from bertwright.errors import UserError

COMPRESSIONS = (".gz", ".xz", ".zst")
BUFFER = 1 << 20
_LINES = 10_000
_MARKED = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and what they say; the longer ones first, for one begins as a shorter one does."""

_LETTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_BEYOND = re.compile(rb"[\x80-\xff]+")
_ENOUGH_BYTES = 100_000
"""Bytes beyond ASCII that tell the encoding of a file."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""What most texts do not have, so that they are not searched by `_ESCAPED`, which takes as long as JSON itself."""

_ESCAPED = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
"""What a backslash begins in JSON: a surrogate pair, half of one, or another character."""

_UNPACK = {".gz": "gzip -dc", ".xz": "xz -dc", ".zst": "zstd -dc"}


def open_bytes(path: Path) -> io.BufferedReader:
    """A file's bytes, decompressed as they are read; those of a text with a byte order mark come as UTF-8."""
    stream = open_stored(path)
    encoding = _marked(stream.peek(4)[:4])
    return stream if encoding is None else io.BufferedReader(_AsUtf8(stream, encoding, path), BUFFER)


def open_stored(path: Path) -> io.BufferedReader:
    """A file's bytes, decompressed as they are read."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"), BUFFER)
    if suffix == ".xz":
        # Lines are some ten times slower to find in LZMAFile than in a buffer over it.
        return io.BufferedReader(lzma.open(path, "rb"), BUFFER)
    if suffix == ".zst":
        # Arrow, which we need anyway, spares a dependency on zstandard.
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), BUFFER)
    return io.BufferedReader(io.FileIO(path), BUFFER)


def _marked(start: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKED if start.startswith(mark)), None)


class _AsUtf8(io.RawIOBase):
    """A stream in another Unicode encoding, as UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str, path: Path) -> None:
        self._stream = stream
        self._text = io.TextIOWrapper(stream, encoding, newline="")
        self._encoding = encoding
        self._path = path
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            self._left = self._left or self._text.read(BUFFER // 4).encode("utf-8")
        except UnicodeError as error:
            raise UserError(
                f"{self._path} has the byte order mark of {self._encoding.upper()} but is not {self._encoding.upper()} "
                f"({error}); fetch it again, or save it as UTF-8"
            ) from error
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._text.close()
        super().close()


def read_lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Lines with their ends: of a file without a line feed those that carriage returns end, as old Macs write them."""
    if not _ends_lines_with_returns(stream):
        yield from stream
        return
    left = b""
    while block := stream.read(BUFFER):
        *whole, left = (left + block).split(b"\r")
        for line in whole:
            yield line + b"\n"
    if left:
        yield left


def line_blocks(stream: io.BufferedReader) -> Iterator[list[bytes]]:
    """The lines of `read_lines`, some 1 MiB at a time: many times faster where no line is looked at alone."""
    if _ends_lines_with_returns(stream):
        lines = read_lines(stream)
        while block := list(islice(lines, _LINES)):
            yield block
    while block := stream.readlines(BUFFER):
        yield block


def _ends_lines_with_returns(stream: io.BufferedReader) -> bool:
    start = stream.peek(BUFFER)
    return b"\n" not in start and b"\r" in start


def decode(line: bytes, path: Path, number: int) -> str:
    """UTF-8 bytes as text, without a byte order mark at the start of a file.

    Args:
        line: one or more lines.
        path: where they come from.
        number: the number of the first of them in its file, counted from 1.

    Raises:
        UserError: if they are not UTF-8, with the line and a command that converts the file.
    """
    try:
        encoding = _marked(line[:4]) if number == 1 else None
        return line.decode(encoding or ("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        start = error.start + len(line) - len(error.object)  # which lacks a byte order mark
        raise UserError(
            f"{path}, line {number + line[:start].count(10)} is not UTF-8 (byte 0x{line[start]:02x}); "
            + _how_to_convert(path)
        ) from error


def parse_json(text: str) -> Any:
    """A JSON value, in which half a surrogate pair is a question mark, as `formats.repaired` makes it of a text.

    Cut-off emoji leave such halves behind, in names of columns as well; no file could be written with them.

    Raises:
        JSONDecodeError: if it is not JSON.
        RecursionError: if it is nested too deeply.
    """
    if _SURROGATE.search(text):
        text = _ESCAPED.sub(lambda found: "?" if found["half"] else found[0], text)
    return json.loads(text)


class RowNumber(int):
    """The number of a row, from 1, that is no line of its file.

    Args:
        number: the number.
        unit: what is counted.
    """

    unit: str

    def __new__(cls, number: int, unit: str) -> Self:
        """The number, with what it counts."""
        found = super().__new__(cls, number)
        found.unit = unit
        return found

    def __reduce__(self) -> tuple[type[Self], tuple[int, str]]:
        """What makes a copy, also of a pickle."""
        return type(self), (int(self), self.unit)


def counted(rows: Iterable[Any], unit: str = "row") -> Iterator[tuple[int, Any]]:
    """The rows of one JSON value with their numbers, which say for messages that they are no lines.

    Args:
        rows: of a list, or of what holds one.
        unit: what is counted.
    """
    return ((RowNumber(number, unit), row) for number, row in enumerate(rows, 1))


def numbered(number: int, usual: str = "line") -> str:
    """What a row's number counts, and the number, as `line 3`.

    Args:
        number: of the row, from 1.
        usual: what a number counts that does not say it.
    """
    return f"{unit(number, usual)} {number}"


def unit(number: int, usual: str = "line") -> str:
    """What a row's number counts: line, row, question."""
    return str(getattr(number, "unit", usual))


def _is_mostly_utf8(path: Path) -> bool:
    """Whether most of a file's bytes beyond ASCII are letters in UTF-8: converting it would garble these."""
    whole = beyond = 0
    with open_stored(path) as stream:
        while beyond < _ENOUGH_BYTES and (block := stream.read(BUFFER)):
            whole += sum(map(len, _LETTER.findall(block)))
            beyond += sum(map(len, _BEYOND.findall(block)))
    return whole > 0.5 * beyond


def _how_to_convert(path: Path) -> str:
    """What to do about a text in an encoding of one byte a letter: the one that its bytes suggest, and a command."""
    if not path.is_file():  # within an archive
        return "save it as UTF-8 and pack the archive again"
    seen: set[int] = set()
    with open_stored(path) as stream:
        while block := stream.read(BUFFER):
            seen |= set(block)
    if 0 in seen:
        return "its bytes are not text, or UTF-16 without a byte order mark; save it as UTF-8"
    if _is_mostly_utf8(path):
        return "most of the file is UTF-8, so that this line is damaged; correct or remove it"
    # Latin-1 has control characters where Windows has quotation marks and dashes.
    windows = any(0x80 <= byte < 0xA0 for byte in seen) and not seen & {0x81, 0x8D, 0x8F, 0x90, 0x9D}
    name, encoding = ("Windows-1252", "WINDOWS-1252") if windows else ("Latin-1", "ISO-8859-1")
    unpack = _UNPACK.get(path.suffix.lower())
    plain = path.with_suffix("") if unpack else path
    old, new = shlex.quote(str(path)), shlex.quote(str(plain.with_name(f"{plain.stem}-utf8{plain.suffix}")))
    command = f"iconv -f {encoding} -t UTF-8"
    command = f"{unpack} {old} | {command} > {new}" if unpack else f"{command} {old} > {new}"
    return f"if it is {name}, convert it with `{command}`, and give the new file in its place"
