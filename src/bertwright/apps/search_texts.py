"""The texts of files with their vectors, as `bertwright search` puts them into an index."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import bertwright
from bertwright.apps.file_answers import Skipped, answered, open_rows, trained_columns
from bertwright.apps.search_index import Built, Entry, Part
from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.files import user_path
from bertwright.recipe import Source
from bertwright.text import decoding, formats
from bertwright.text.sources import Files, as_local, locate, meant


def text_vectors(encoder: bertwright.Model, texts: Sequence[str], dimensions: int | None = None) -> tuple[Floats, Ints]:
    """The vectors of texts, as an index holds them.

    Args:
        encoder: computes them.
        texts: of a longer one than the model reads, the beginning counts.
        dimensions: how many numbers of a vector are kept, as for `Model.encode`.

    Returns:
        The vectors, each of length 1, float32 (texts, dimensions), and how many tokens were left out of each, (texts,).

    Raises:
        UserError: if a text has no word, the model's numbers are not finite, or its vectors have fewer.
    """
    found, left_out = encoder.text_encoder().encode(texts, dimensions)
    if not np.isfinite(found).all():
        raise UserError(f"{encoder.name} gives vectors that are not finite; its weights are damaged")
    unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit, left_out


def text_files(texts: str) -> list[Path]:
    """The files that hold texts.

    Args:
        texts: a file, a folder, or a pattern.

    Raises:
        UserError: if there is none.
    """
    if not user_path(texts).exists() and not glob.has_magic(texts):
        raise UserError(
            f"{texts} does not exist{meant(user_path(texts))}; give a file, a folder, or a pattern in quotes"
        )
    found = locate(Source(path=as_local(texts)))
    if not isinstance(found, Files):
        raise UserError(f"{texts} is no text file and no folder of such; give files of {' '.join(formats.FORMATS)}")
    return list(found.paths)


class TextReader:
    """The texts of files with their vectors; it counts what is left out and what is too long.

    Args:
        paths: the files.
        text_column: of the files that have columns.
        encoder: computes vectors.
        model: its name, for the column that it was trained on.
        built: of the index: how many numbers of a vector are kept, and from where files are named.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        text_column: str | None,
        encoder: bertwright.Model,
        model: str,
        built: Built,
    ) -> None:
        usual = trained_columns(model)
        self._encoder = encoder
        self._dimensions, self._base = built.dimensions, built.base
        self._skipped, self._long = Skipped(), 0
        several = len(paths) > 1
        columns = [None if several and formats.format_of(path) == ".txt" else text_column for path in paths]
        self._tables = [open_rows(path, column, usual) for path, column in zip(paths, columns, strict=True)]

    def parts(self) -> Iterator[Part]:
        """Some texts after others. A row that has none, or no word, is left out."""
        for rows in self._tables:
            rows.skipped = self._skipped
            for chunk in rows.chunks():
                found = answered(rows, chunk, self._vectors)
                there = [(row, text, *one) for (row, text), one in zip(chunk, found, strict=True) if one is not None]
                self._long += sum(left_out > 0 for *_, left_out in there)
                if there:
                    name = _name(rows.table.path, self._base)
                    entries = [Entry(name, row.number, text, decoding.unit(row.number)) for row, text, _, _ in there]
                    yield entries, np.stack([vector for _, _, vector, _ in there])

    def _vectors(self, texts: list[str]) -> list[tuple[Floats, int]]:
        return list(zip(*text_vectors(self._encoder, texts, self._dimensions), strict=True))

    def report(self) -> None:
        """Say on stderr what is not in the index."""
        self._skipped.report(sum(one.rows for one in self._tables), "are left out")
        if self._long:
            print(
                f"bertwright: {self._long:,} texts are longer than the model reads; their beginnings are searched",
                file=sys.stderr,
            )


def _name(path: Path, base: str) -> str:
    """A file as it was named, or, if that began in another folder than `base`, as it is seen from there."""
    return str(path) if path.is_absolute() or Path.cwd() == Path(base) else os.path.relpath(Path.cwd() / path, base)
