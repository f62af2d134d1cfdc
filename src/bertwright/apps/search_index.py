"""An index of texts: a folder with their vectors, for exact search by cosine, and if asked for with their words (BM25).

    index.json           the model, by a digest of its files; a digest of each file of the index, itself included
    texts.arrow          file, line, text, unit of the line, and vector of length 1 of each text
    bm25/                of a hybrid index, its words
    neighbours.usearch   of an approximate index, the graph of near neighbours

The folder is written as a whole, and read through memory maps: vectors cost no memory of the process.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertwright.apps import bm25, neighbours
from bertwright.apps.bm25 import WordIndex
from bertwright.apps.neighbours import NeighbourGraph
from bertwright.apps.ranking import Ranking, best_first, fuse
from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.files import atomic_path, digests, recover, write_json
from bertwright.recipe import fingerprint
from bertwright.text import formats
from bertwright.text.decoding import RowNumber

_FORMAT = "bertwright search index 5"
_SETTINGS, _TEXTS, _WORDS, _GRAPH = "index.json", "texts.arrow", "bm25", "neighbours.usearch"

_TRIES = 3
_PAUSE = 0.1
"""How often an index is read that another command replaces meanwhile, and seconds in between."""

_CANDIDATES = 1_000
"""Texts that an approximate index compares exactly with a query, or as many as are asked for: those that its graph
finds, and in a hybrid ranking as many by words."""


@dataclass(frozen=True)
class Entry:
    """A text of an index.

    Args:
        file: as it was named when the index was built, or as seen from the folder where that was.
        line: where the text stands in it, from 1: its line, or its row where that is no line.
        text: the text.
        unit: what `line` counts: line, or row (of Parquet, and of a list in JSON).
    """

    file: str
    line: int
    text: str
    unit: str = "line"

    @property
    def place(self) -> str:
        """The text's place, for a person."""
        return formats.place(Path(self.file), RowNumber(self.line, self.unit))


_ENTRY = [each.name for each in fields(Entry)]


@dataclass(frozen=True)
class Hit:
    """A text that was found.

    Args:
        score: the cosine of its vector and the query's, -1 to 1; its BM25 score; or the fused one. Larger is nearer.
        entry: the text and its place.
    """

    score: float
    entry: Entry


Part = tuple[Sequence[Entry], Floats]
"""Some texts with their unit vectors, (texts, dimension)."""


@dataclass(frozen=True)
class Built:
    """How an index was built.

    Args:
        model: bundled, or the model's folder.
        digest: of the model, from `sentence_folder.model_digest`.
        hybrid: whether it also holds words.
        base: the folder that relative names of files start from: where the index was built.
        approximate: whether it also holds a graph of near neighbours, by which it is searched.
        dimensions: how many numbers of the model's vectors it holds, from the first; None is all.
    """

    model: str
    digest: str
    hybrid: bool
    base: str = "."
    approximate: bool = False
    dimensions: int | None = None


def require_index(folder: Path) -> None:
    """See that a folder is an index; whether all of it is as it was written, `SearchIndex` sees.

    Raises:
        UserError: if not.
    """
    if (folder / _SETTINGS).is_file():
        return
    if (folder / _TEXTS).exists():
        raise UserError(f"{folder} is damaged (it has no {_SETTINGS}); delete it, and build it again")
    if folder.exists():
        raise UserError(f"{folder} exists and is no index; give the folder of one, or for a new one another name")
    command = f"bertwright search build TEXTS {shlex.quote(str(folder))}"
    raise UserError(f"{folder} is no index; build one: {command}")


def _version(folder: Path) -> tuple[int, int] | None:
    """What differs between an index and the one that takes its place; None while there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(folder: Path) -> tuple[Built, pa.Table]:
    """How an index was built, and its texts with their vectors.

    Raises:
        UserError: if there is none, it is damaged, or another version of Bertwright wrote it.
    """
    require_index(folder)
    try:
        said = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        if said["format"] != _FORMAT:
            raise UserError(f"{folder} is an index of another version of Bertwright; delete it, and build it again")
        if said.pop("fingerprint") != fingerprint(said):
            raise ValueError(f"{_SETTINGS} is not as it was written")
        names = [name for name, _ in said["files"]]
        if _TEXTS not in names or digests([folder / name for name in names]) != said["files"]:
            raise ValueError("a file is not as it was written")
        with pa.memory_map(str(folder / _TEXTS)) as source:
            table = pa.ipc.open_file(source).read_all()
        return Built(**{each.name: said[each.name] for each in fields(Built)}), table
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is damaged ({error}); delete it, and build it again") from error


class SearchIndex:
    """An index that is there, to be searched; `write_index` makes one.

    Args:
        folder: of the index.

    Raises:
        UserError: if there is none, it is damaged, or another version of Bertwright wrote it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            recover(folder)  # a process may have been killed between two renames
        self.folder = folder
        for tries in range(_TRIES):
            self._version = _version(folder)
            try:
                self.built, self._table = _read(folder)
                break
            except UserError:
                time.sleep(_PAUSE)
                if tries == _TRIES - 1 or _version(folder) == self._version:
                    raise
        self.texts: int = self._table.num_rows
        self.files = set(self._table.column("file").unique().to_pylist())

    def _require_same(self) -> None:
        """See that the files that were just read belong to the texts that were read before."""
        if _version(self.folder) != self._version:
            raise UserError(f"{self.folder} was written anew while it was read; run the command again")

    @cached_property
    def words(self) -> WordIndex:
        """The words of a hybrid index.

        Raises:
            UserError: if the index is not hybrid, or bm25s is missing.
        """
        if not self.built.hybrid:
            raise UserError(f"{self.folder} holds vectors alone; build it with --hybrid to rank by words, too")
        found = WordIndex.load(self.folder / _WORDS)
        self._require_same()
        return found

    def parts(self) -> Iterator[Part]:
        """All texts with their vectors, in order."""
        for batch in self._table.to_batches():
            rows = zip(*(batch.column(name).to_pylist() for name in _ENTRY), strict=True)
            yield [Entry(*row) for row in rows], _vectors(batch.column("vector"))

    @cached_property
    def _graph(self) -> NeighbourGraph:
        found = NeighbourGraph.load(self.folder / _GRAPH)
        self._require_same()
        return found

    def cosines(self, vector: Floats, rows: Ints | None) -> Floats:
        """The cosine of each text, or of those in some rows, with a unit vector (dimension,): (texts or rows,)."""
        column = self._table.column("vector")
        if rows is not None:
            return _vectors(column.take(rows).combine_chunks()) @ vector
        return np.concatenate([_vectors(chunk) @ vector for chunk in column.chunks])

    def rank(self, query: str, vector: Floats | None, top: int, by: Ranking) -> list[Hit]:
        """The texts that are nearest to a query, the nearest first.

        Args:
            query: for its words.
            vector: of the query, of length 1, (dimension,); not needed by bm25.
            top: the most texts, 1 or more. A ranking by words has only those that share one with the query.
            by: vectors: cosine. bm25: words. hybrid: both, `fuse`.

        Raises:
            UserError: if words are asked for, and the index has none.
        """
        scores: npt.NDArray[Any]
        words = None if by == "vectors" else self.words.scores(query)
        rows: Ints | None = None  # all
        if by == "bm25":
            assert words is not None
            scores, top = words, min(top, int(np.count_nonzero(words > 0)))
        else:
            assert vector is not None
            count = max(top, _CANDIDATES)
            if self.built.approximate and count < self.texts:
                rows = self._candidates(vector, words, count)
            scores = self.cosines(vector, rows)
            if words is not None:
                scores = fuse(words if rows is None else words[rows], scores)
        best = best_first(scores, top)
        return [Hit(float(scores[n]), self.entry(int(n if rows is None else rows[n]))) for n in best]

    def _candidates(self, vector: Floats, words: Floats | None, count: int) -> Ints:
        """Numbers of the texts among which the best ones are sought, in order.

        Some that are drawn evenly from all texts stand for the rest: the worst of all texts, by which scores are fused,
        is about as bad as the worst of these.
        """
        found = [self._graph.nearest(vector, count)]
        if words is not None:
            found += [best_first(words, count), np.linspace(0, self.texts - 1, count).astype(np.int64)]
        return np.unique(np.concatenate(found))

    def entry(self, row: int) -> Entry:
        """A text without its vector, by its place from 0 on."""
        return Entry(**self._table.select(_ENTRY).slice(row, 1).to_pylist()[0])


def _vectors(column: pa.FixedSizeListArray) -> Floats:
    """A column of vectors as (texts, dimension), which lies where the file is mapped."""
    values: Floats = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(len(column), -1)


def write_index(folder: Path, built: Built, parts: Iterable[Part]) -> int:
    """Write an index, which appears when it is whole; an existing one is replaced. Call it within `search.changing`.

    Args:
        folder: of the index.
        built: with which model, and whether it is hybrid and approximate.
        parts: its texts, one part after another in memory.

    Returns:
        How many texts it has.

    Raises:
        UserError: if there is none, or bm25s or usearch is missing.
    """
    # What is missing is said before the texts are encoded, which may take hours.
    if built.hybrid:
        bm25.library()
    if built.approximate:
        neighbours.library()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        texts = _write_texts(temporary / _TEXTS, parts)
        if built.hybrid:
            columns = _columns(temporary / _TEXTS, "text")
            WordIndex.build(text for column in columns for text in column.to_pylist()).save(temporary / _WORDS)
        if built.approximate:
            vectors = map(_vectors, _columns(temporary / _TEXTS, "vector"))
            NeighbourGraph.build(vectors).save(temporary / _GRAPH)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        said = {"format": _FORMAT, **asdict(built), "files": digests(files)}
        write_json(temporary / _SETTINGS, {**said, "fingerprint": fingerprint(said)})
    return texts


def _columns(path: Path, name: str) -> Iterator[Any]:
    """A column of an Arrow file, batch after batch."""
    with pa.memory_map(str(path)) as source:
        batches = pa.ipc.open_file(source)
        for number in range(batches.num_record_batches):
            yield batches.get_batch(number).column(name)


def _write_texts(path: Path, parts: Iterable[Part]) -> int:
    writer, texts = None, 0
    with path.open("wb") as file:
        for entries, vectors in parts:
            if not entries:
                continue
            columns = {
                "file": pa.array([entry.file for entry in entries], pa.string()),
                "line": pa.array([entry.line for entry in entries], pa.int64()),
                "text": pa.array([entry.text for entry in entries], pa.large_string()),
                "unit": pa.array([entry.unit for entry in entries], pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
            }
            batch = pa.RecordBatch.from_pydict(columns)
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
            texts += batch.num_rows
        if writer is None:
            raise UserError("an index holds one text or more, and there is none")
        writer.close()
    return texts
