"""`bertwright search`: build an index of texts, search it, add texts and remove them."""

from __future__ import annotations

import glob
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import bertwright
from bertwright.apps.file_answers import Skipped, answered, open_rows, trained_columns
from bertwright.apps.printing import print_json, shortened
from bertwright.apps.search_index import (
    Built,
    Entry,
    Hit,
    Part,
    Ranking,
    SearchIndex,
    changing,
    model_digest,
    write_index,
)
from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.files import user_path
from bertwright.recipe import Source
from bertwright.text import formats
from bertwright.text.sources import Files, as_local, locate, meant


def build(
    texts: str,
    index: str,
    model: str = "bundled",
    hybrid: bool = False,
    approximate: bool = False,
    text_column: str | None = None,
) -> None:
    """Build an index of texts, to be searched by meaning.

    Args:
        texts: a .txt (a text a line), .csv, .tsv, .jsonl or .parquet file, also compressed; a folder of such files, or
            a pattern in quotes. Of a text that is too long for the model, the beginning is used, with a notice.
        index: the folder to write; it must not exist.
        model: computes the vectors: a model folder, the folder of a run, or bundled, the model that comes with
            Bertwright.
        hybrid: also count words (BM25), so that a query finds texts by meaning and by words.
        approximate: also build a graph of near neighbours, for a million texts and more: a query then looks at some
            thousand of them, and may miss one of the nearest.
        text_column: of the files; the default is the column that the model was trained on, text, or the only column.

    Raises:
        UserError: if the index exists, there is no text, or the model or a file cannot be read.
    """
    folder, paths = Path(index), _files(texts)
    if folder.exists():
        raise UserError(f"{folder} exists; add to an index with bertwright search add, or give another folder")
    encoder = bertwright.load(model)
    built = Built(
        model if model == "bundled" else str(user_path(model).resolve()), _digest(encoder), hybrid, approximate
    )
    with changing(folder):
        reader = _Reader(paths, text_column, encoder, model)
        number = write_index(folder, built, reader.parts())
    reader.report()
    print(f"{number:,} texts are in {folder}")


def add(texts: str, index: str, model: str | None = None, text_column: str | None = None) -> None:
    """Add texts to an index.

    Args:
        texts: a file, a folder or a pattern, as for build. No file may be in the index already.
        index: its folder.
        model: where the model that built the index has been moved to; the default is where it was.
        text_column: of the files, as for build.

    Raises:
        UserError: if a file is in the index already, the index is damaged or of another model, or a file cannot be
            read.
    """
    folder, paths = Path(index), _files(texts)
    with changing(folder):
        there = SearchIndex(folder)
        names = _names_by_place(there)
        if twice := next((names[path.resolve()] for path in paths if path.resolve() in names), None):
            command = shlex.join(["bertwright", "search", "remove", twice, str(folder)])
            raise UserError(f"{twice} is in {folder} already; remove it first: {command}")
        encoder = model_of(there, model)
        reader = _Reader(paths, text_column, encoder, model or there.built.model)

        def both() -> Iterator[Part]:
            yield from there.parts()
            yield from reader.parts()

        number = write_index(folder, there.built, both())
    reader.report()
    print(f"{number - there.texts:,} texts were added; {number:,} are in {folder}")


def remove(file: str, index: str, line: int | None = None) -> None:
    """Remove the texts of a file from an index.

    Args:
        file: as results name it, whether or not it is still there; or another name of a file that is.
        index: its folder.
        line: of the file; the default is all its lines.

    Raises:
        UserError: if the index has no such text, or no other.
    """
    folder = Path(index)
    with changing(folder):
        there = SearchIndex(folder)
        name = file if file in there.files else _names_by_place(there).get(user_path(file).resolve())
        if name is None:
            listed = ", ".join(sorted(there.files)[:10])
            raise UserError(f"{folder} has no text of {file}; it has texts of {listed}{_more(len(there.files) - 10)}")

        def kept() -> Iterator[Part]:
            for entries, vectors in there.parts():
                rows = [n for n, one in enumerate(entries) if one.file != name or line not in (None, one.line)]
                yield [entries[row] for row in rows], vectors[rows]

        number = sum(len(entries) for entries, _ in kept())
        if number == there.texts:
            raise UserError(f"{folder} has no text of {formats.place(Path(file), line or 0)}; look it up with a query")
        if number == 0:
            raise UserError(f"no text would be left in {folder}; delete the folder instead")
        write_index(folder, there.built, kept())
    print(f"{there.texts - number:,} texts were removed; {number:,} are in {folder}")


def _names_by_place(index: SearchIndex) -> dict[Path, str]:
    """The files of an index by where they lie, each with the name that the index has for it."""
    return {Path(name).resolve(): name for name in sorted(index.files)}


def _more(number: int) -> str:
    return f" and {number:,} more files" if number > 0 else ""


def query(
    index: str,
    text: str,
    top: int = 10,
    rank: Ranking | None = None,
    model: str | None = None,
    format: Literal["table", "jsonl"] = "table",
) -> None:
    """Search an index: the texts nearest to a query, with their scores and places.

    Args:
        index: its folder.
        text: the query: a question, or what the texts should say.
        top: the most texts to print.
        rank: vectors, by the cosine of vectors; bm25, by shared words; hybrid, by the mean of both. The
            default is hybrid for an index that was built so, and vectors for others.
        model: where the model that built the index has been moved to; the default is where it was.
        format: a table to read, or JSON lines.

    Raises:
        UserError: if the index is damaged or of another model, or the query has no word.
    """
    searcher = open_searcher(Path(index), rank, model)
    for hit in searcher.find(formats.repaired(text), top):
        if format == "jsonl":
            print_json({"score": hit.score, **asdict(hit.entry)})
        else:
            where = formats.place(Path(hit.entry.file), hit.entry.line)
            print(f"{hit.score:7.4f}  {where}: {shortened(hit.entry.text, 120)}")


@dataclass(frozen=True)
class Searcher:
    """An index with what a query needs.

    Args:
        index: is searched.
        by: the ranking.
        encoder: the model that built the index; None where words alone are ranked.
    """

    index: SearchIndex
    by: Ranking
    encoder: bertwright.Model | None

    def find(self, text: str, top: int) -> list[Hit]:
        """The texts that are nearest to a query, as `SearchIndex.rank` gives them.

        Raises:
            UserError: if `top` is not positive, or the query has no word or more than the model reads.
        """
        if top < 1:
            raise UserError(f"top is {top}; it must be a whole number from 1 on")
        vector = None
        if self.encoder is not None:
            (vector,), (left_out,) = text_vectors(self.encoder, [text])
            if left_out:
                raise UserError(f"the query has {left_out:,} tokens more than the model reads; shorten it")
        return self.index.rank(text, vector, top, self.by)


def open_searcher(
    folder: Path, rank: Ranking | None = None, model: str | None = None, loaded: bertwright.Model | None = None
) -> Searcher:
    """An index, ready to be searched.

    Args:
        folder: of the index.
        rank: as for `query`.
        model: where the model that built the index has been moved to; the default is where it was.
        loaded: a model that is used if it built the index.

    Raises:
        UserError: if the index is damaged or of another model, or has no words where they are asked for.
    """
    index = SearchIndex(folder)
    by: Ranking = rank or ("hybrid" if index.built.hybrid else "vectors")
    if by != "vectors":
        _ = index.words  # says what is missing before a model is loaded
    if by == "bm25":
        return Searcher(index, by, None)
    if loaded is not None and _digest(loaded) == index.built.digest:
        return Searcher(index, by, loaded)
    return Searcher(index, by, model_of(index, model))


def text_vectors(encoder: bertwright.Model, texts: Sequence[str]) -> tuple[Floats, Ints]:
    """The vectors of texts, as an index holds them.

    Args:
        encoder: computes them.
        texts: of a longer one than the model reads, the beginning counts.

    Returns:
        The vectors, each of length 1, float32 (texts, hidden), and how many tokens were left out of each, (texts,).

    Raises:
        UserError: if a text has no word, or the model's numbers are not finite.
    """
    found, left_out = encoder.text_encoder().encode(texts)
    if not np.isfinite(found).all():
        raise UserError(f"{encoder.name} gives vectors that are not finite; its weights are damaged")
    unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit, left_out


def model_of(index: SearchIndex, model: str | None = None) -> bertwright.Model:
    """The model that built an index, loaded.

    Args:
        index: says which.
        model: where it is now; the default is where it was.

    Raises:
        UserError: if there is no model, or another one.
    """
    name = model or index.built.model
    try:
        encoder = bertwright.load(name)
    except UserError as error:
        hint = "" if model else f"; if the model that built {index.folder} was moved, say where with --model"
        raise UserError(f"{error}{hint}") from error
    if _digest(encoder) != index.built.digest:
        raise UserError(
            f"{name} is not the model that built {index.folder}, and vectors of two models cannot be compared; give "
            "that model with --model, or build the index again"
        )
    return encoder


def _digest(encoder: bertwright.Model) -> str:
    return model_digest(encoder.text_encoder().folder)


def _files(texts: str) -> list[Path]:
    """The files that hold texts.

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


class _Reader:
    """The texts of files with their vectors; it counts what is left out and what is too long.

    Args:
        paths: the files.
        text_column: of the files that have columns.
        encoder: computes vectors.
        model: its name, for the column that it was trained on.
    """

    def __init__(self, paths: Sequence[Path], text_column: str | None, encoder: bertwright.Model, model: str) -> None:
        usual = trained_columns(model)
        self._encoder = encoder
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
                    entries = [Entry(str(rows.table.path), row.number, text) for row, text, _, _ in there]
                    yield entries, np.stack([vector for _, _, vector, _ in there])

    def _vectors(self, texts: list[str]) -> list[tuple[Floats, int]]:
        return list(zip(*text_vectors(self._encoder, texts), strict=True))

    def report(self) -> None:
        """Say on stderr what is not in the index."""
        if self._skipped.count:
            rows = sum(one.rows for one in self._tables)
            left_out = f"{self._skipped.count:,} of {rows:,} rows are left out; the first: {self._skipped.first}"
            print(f"bertwright: {left_out}", file=sys.stderr)
        if self._long:
            print(
                f"bertwright: {self._long:,} texts are longer than the model reads; their beginnings are searched",
                file=sys.stderr,
            )
