"""Vectors of a file's texts, written as Parquet or as a NumPy array: in chunks, in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.apps.file_answers import TextRows, answered, check_out
from bertwright.errors import UserError
from bertwright.files import atomic_path
from bertwright.text import formats
from bertwright.text.tables import Row, Table, cell
from bertwright.vectors import TextEncoder, Vectors

Write = Callable[[list[Row], Vectors, list[bool]], None]

OUTPUTS = (".parquet", ".npy")


def embed_into(rows: TextRows, out: Path, encoder: TextEncoder, dimensions: int | None = None) -> None:
    """Write a vector for each row of a file; the file appears when it is whole.

    Parquet has all columns of the input and behind them `vector`, a list of float32, null in a row without text; where
    the input has a column of that name, ours is `embedded_vector`. Columns of .jsonl files are written as text. A NumPy
    array is float32 (rows, hidden or dimensions), NaN in a row without text.

    Args:
        rows: of the input.
        out: a .parquet or .npy file; an existing one is replaced.
        encoder: computes the vectors.
        dimensions: how many numbers of a vector are kept, as for `TextEncoder.encode`.

    Raises:
        UserError: if the output's name says no format, it is a folder or the input, the input cannot be read, or the
            model's vectors have fewer numbers.
    """
    if out.suffix.lower() not in OUTPUTS:
        raise UserError(f"{out}: vectors are written as {' or '.join(OUTPUTS)}; give such a name, as vectors.parquet")
    check_out(out, rows)
    cut, width = 0, encoder.width(dimensions)
    writer = _array_writer if out.suffix.lower() == ".npy" else _parquet_writer

    def answer(texts: list[Any]) -> list[tuple[Vectors, int]]:
        return list(zip(*encoder.encode(texts, dimensions), strict=True))

    with atomic_path(out) as temporary, writer(temporary, rows.table, width) as write:
        for chunk in rows.chunks():
            vectors = np.full((len(chunk), width), np.nan, np.float32)
            found = answered(rows, chunk, answer)
            for number, one in enumerate(found):
                if one is not None:
                    vectors[number] = one[0]
                    cut += one[1] > 0
            write([row for row, _ in chunk], vectors, [one is None for one in found])
    print(f"{rows.rows:,} rows written to {out}, with vectors of {width} numbers")
    if cut:
        print(
            f"bertwright: {cut:,} of {rows.rows:,} texts are longer than the {encoder.max_length} tokens that the "
            "model reads; their vectors are those of their beginnings",
            file=sys.stderr,
        )
    rows.skipped.report(rows.rows, "have no vector")


@contextmanager
def _array_writer(path: Path, table: Table, width: int) -> Iterator[Write]:
    """Rows of a .npy file, whose header is written again when their number is known."""
    count = 0

    def write(rows: list[Row], vectors: Vectors, missing: list[bool]) -> None:
        nonlocal count
        stream.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        count += len(rows)

    def header() -> None:
        # NumPy leaves space in a header for the first dimension to grow: its length is the same for any.
        described = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(stream, described)

    with path.open("wb") as stream:
        header()
        begin = stream.tell()
        yield write
        stream.seek(0)
        header()
        assert stream.tell() == begin


@contextmanager
def _parquet_writer(path: Path, table: Table, width: int) -> Iterator[Write]:
    """Rows of a Parquet file with the input's columns."""
    fields = _fields(table)
    name = "vector"
    while name in table.columns:
        name = f"embedded_{name}"
    schema = pa.schema([*fields, pa.field(name, pa.list_(pa.float32()))])

    def write(rows: list[Row], vectors: Vectors, missing: list[bool]) -> None:
        columns: Sequence[Sequence[Any]] = list(zip(*(row.values for row in rows), strict=True))
        arrays = [
            pa.array([_value(one, field.type) for one in column], field.type)
            for column, field in zip(columns, fields, strict=True)
        ]
        starts = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * width)
        lists = pa.ListArray.from_arrays(starts, pa.array(vectors.ravel()), mask=pa.array(missing))
        writer.write_table(pa.Table.from_arrays([*arrays, lists], schema=schema))

    with pq.ParquetWriter(path, schema) as writer:
        yield write


def _fields(table: Table) -> list[pa.Field]:
    """The input's columns: with their types in Parquet, as text in formats that have none or several in a column."""
    if formats.format_of(table.path) == ".parquet":
        with formats.open_parquet(table.path) as file:
            return [file.schema_arrow.field(number).remove_metadata() for number in range(len(table.columns))]
    return [pa.field(name, pa.string()) for name in table.columns]


def _value(value: Any, kind: pa.DataType) -> Any:
    return cell(value) if pa.types.is_string(kind) and value is not None else value
