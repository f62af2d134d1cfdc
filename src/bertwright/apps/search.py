"""`bertwright search`: build an index of texts, search it, add texts and remove them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

import bertwright
from bertwright.apps.printing import print_json, shortened
from bertwright.apps.ranking import Ranking
from bertwright.apps.search_index import (
    Built,
    Hit,
    Part,
    SearchIndex,
    require_index,
    write_index,
)
from bertwright.apps.search_texts import TextReader, text_files, text_vectors
from bertwright.errors import UserError
from bertwright.files import user_path
from bertwright.models.sentence_folder import model_digest
from bertwright.text import formats


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Keep other commands from writing an index for the duration of the block; they may read it.

    Raises:
        UserError: if another command is writing it, its place cannot be written, or it is the folder that the command
            is called in.
    """
    place = folder.resolve()  # `.` has no name beside which to write
    if Path.cwd().is_relative_to(place):  # which would be gone, for the shell and for all commands after this one
        raise UserError(f"{place} is replaced as a whole, and you are in it; change to another folder first, with cd")
    lock = FileLock(place.parent / f".{place.name}.lock", blocking=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"another bertwright command is writing {folder}; wait for it, and try again") from error
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}); give another place") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink()  # filelock sees that a lock has lost its name
        lock.release()


def build(
    texts: str,
    index: str,
    model: str = "bundled",
    hybrid: bool = False,
    approximate: bool = False,
    text_column: str | None = None,
    dimensions: int | None = None,
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
        dimensions: how many first numbers of a vector are kept, for a smaller and faster index; the default is all.

    Raises:
        UserError: if the index exists, there is no text, the model or a file cannot be read, or the model's vectors
            have fewer numbers.
    """
    folder, paths = Path(index), text_files(texts)
    if folder.exists():
        require_index(folder)
        raise UserError(f"{folder} is an index already; add to it with bertwright search add, or give another folder")
    encoder = bertwright.load(model)
    width = encoder.text_encoder().width(dimensions)
    place = model if model == "bundled" else str(user_path(model).resolve())
    built = Built(place, _digest(encoder), hybrid, str(Path.cwd()), approximate, width)
    with changing(folder):
        reader = TextReader(paths, text_column, encoder, model, built)
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
    folder, paths = Path(index), text_files(texts)
    with changing(folder):
        there = SearchIndex(folder)
        names = names_by_place(there)
        if twice := next((path for path in paths if path.resolve() in names), None):
            command = shlex.join(["bertwright", "search", "remove", str(twice), str(folder)])
            raise UserError(f"{twice} is in {folder} already; remove it first: {command}")
        encoder = model_of(there, model)
        reader = TextReader(paths, text_column, encoder, model or there.built.model, there.built)

        def both() -> Iterator[Part]:
            yield from there.parts()
            yield from reader.parts()

        number = write_index(folder, there.built, both())
    reader.report()
    print(f"{number - there.texts:,} texts were added; {number:,} are in {folder}")


def remove(file: str, index: str, line: int | None = None) -> None:
    """Remove the texts of a file from an index.

    Args:
        file: where it lies; or, if it is no longer there, its name in results.
        index: its folder.
        line: of the file; the default is all its lines.

    Raises:
        UserError: if the index has no such text, or no other.
    """
    folder = Path(index)
    with changing(folder):
        there = SearchIndex(folder)
        name = name_of(there, file)
        if name is None:
            listed = ", ".join(sorted(there.files)[:10])
            seen = "" if there.built.base == str(Path.cwd()) else f", as seen from {there.built.base}"
            more = _more(len(there.files) - 10)
            raise UserError(f"{folder} has no text of {file}; it has texts of {listed}{more}{seen}")

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


def name_of(index: SearchIndex, file: str, places: Mapping[Path, str] | None = None) -> str | None:
    """The name that an index has for a file; None where it has no text of it.

    Args:
        index: of texts.
        file: where it lies, by any of its names; or, if there is no such file, its name in results.
        places: of the index's files, from `names_by_place`, for many calls.

    Raises:
        UserError: if it begins with ~, and there is no such home folder.
    """
    place = user_path(file).resolve()
    found = (names_by_place(index) if places is None else places).get(place)
    # In another folder than the index was built in, a file of that name may be another one.
    return file if found is None and file in index.files and not place.exists() else found


def names_by_place(index: SearchIndex) -> dict[Path, str]:
    """The files of an index by where they lie, each with the name that the index has for it."""
    places = {}
    for name in sorted(index.files):
        place = Path(index.built.base, name)
        # Texts and index may have been moved together.
        places[(Path(name) if not place.exists() and Path(name).exists() else place).resolve()] = name
    return places


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
        rank: vectors, by the cosine of vectors; bm25, by shared words; hybrid, by 0.6 of bm25 and 0.4 of the
            cosine, each from 0 for the worst text to 1 for the best. The default is hybrid for an index that was built
            so, and vectors for others.
        model: where the model that built the index has been moved to; the default is where it was.
        format: a table to read, or JSON lines.

    Raises:
        UserError: if the index is damaged or of another model, or the query is blank or longer than the model reads.
    """
    searcher = open_searcher(Path(index), rank, model)
    hits = searcher.find(formats.repaired(text), top)
    if not hits:  # vectors find some always
        print("bertwright: no text shares a word with the query", file=sys.stderr)
    for hit in hits:
        if format == "jsonl":
            print_json({"score": hit.score, **asdict(hit.entry)})
        else:
            print(f"{hit.score:7.4f}  {hit.entry.place}: {shortened(hit.entry.text, 120)}")


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
            UserError: if `top` is not positive, or the query is blank or longer than the model reads.
        """
        if top < 1:
            raise UserError(f"top is {top}; it must be a whole number from 1 on")
        if not text.strip():
            raise UserError("the query is empty; write a word")
        vector = None
        if self.encoder is not None:
            (vector,), (left_out,) = text_vectors(self.encoder, [text], self.index.built.dimensions)
            if left_out:
                raise UserError(f"the query has {left_out:,} tokens more than the model reads; shorten it")
        return self.index.rank(text, vector, top, self.by)

    def examples(self) -> list[str]:
        """Queries to begin with: the first words of up to two texts."""
        rows = range(min(self.index.texts, 1_000))  # read one by one, until there are two
        beginnings = (" ".join(self.index.entry(row).text.split()[:8])[:60].strip() for row in rows)
        return list(islice(dict.fromkeys(filter(None, beginnings)), 2))


def open_searcher(
    folder: Path, rank: Ranking | None = None, model: str | None = None, loaded: bertwright.Model | None = None
) -> Searcher:
    """An index, ready to be searched.

    Args:
        folder: of the index.
        rank: as for `query`.
        model: where the model that built the index has been moved to; the default is where it was.
        loaded: the model that is served, which is used if it built the index and no other is named.

    Raises:
        UserError: if the index is damaged or of another model, or has no words where they are asked for.
    """
    index = SearchIndex(folder)
    by: Ranking = rank or ("hybrid" if index.built.hybrid else "vectors")
    if by != "vectors":
        _ = index.words  # says what is missing before a model is loaded
    if by == "bm25":
        return Searcher(index, by, None)
    if model is None and loaded is not None and _has_built(index, loaded):
        return Searcher(index, by, loaded)
    # --model of `serve` is the model that is served.
    return Searcher(index, by, model_of(index, model, "--model" if loaded is None else "--index-model"))


def model_of(index: SearchIndex, model: str | None = None, option: str = "--model") -> bertwright.Model:
    """The model that built an index, loaded.

    Args:
        index: says which.
        model: where it is now; the default is where it was.
        option: of the command at hand that says where it is, for a message.

    Raises:
        UserError: if there is no model, or another one.
    """
    name = model or index.built.model
    try:
        encoder = bertwright.load(name)
    except UserError as error:
        hint = "" if model else f"; if the model that built {index.folder} was moved, say where with {option}"
        raise UserError(f"{error}{hint}") from error
    if _digest(encoder) != index.built.digest:
        raise UserError(
            f"{name} is not the model that built {index.folder}, and vectors of two models cannot be compared; give "
            f"that model with {option}, or build the index again"
        )
    return encoder


def _has_built(index: SearchIndex, encoder: bertwright.Model) -> bool:
    try:
        return _digest(encoder) == index.built.digest
    except UserError:  # it makes vectors in a way that we do not compute, and so no index
        return False


def _digest(encoder: bertwright.Model) -> str:
    return model_digest(encoder.text_encoder().folder)
