"""Documents to pre-train on, streamed from wherever a `Source` points; `records.py` reads labelled rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.files import digests
from bertwright.recipe import Source, fingerprint
from bertwright.text import formats, imdb, schema
from bertwright.text.sources import Files, Preset, Reviews, canonical, choose, locate, rows_are, undivided

# The most characters of one document; a longer one would hold up the workers that share the corpus.
LONGEST_DOCUMENT = 8 << 20
# Sentences to a document where a running text says nothing about where its documents end.
BLOCK_SENTENCES = 512
# Rows that are searched for a blank one before a running text is taken to have none.
_SEARCHED_ROWS = 100_000
# What `read_documents` counts: documents that are used, but not as they stand in the source.
CUT = "documents over 8 Mi characters, cut at a paragraph"
BLOCKS = f"documents made of {BLOCK_SENTENCES} consecutive sentences, since no row is blank"


@dataclass(frozen=True)
class Document:
    """A document to pre-train on.

    Args:
        text: the raw text.
        presplit: whether each line of the text is one sentence already.
        where: its place, for a message: the file, with the line where it begins if there are several in it.
    """

    text: str
    presplit: bool
    where: str = ""


@dataclass(frozen=True)
class Part:
    """A file, or a split of a hub data set.

    Args:
        name: the file, or data set and split.
        path: the file.
        rows: for each row its number, from 1, and the values of the columns.
        class_name: of plain text in a class folder.
        class_names: of a column, those that the data's schema has, in order; None where it has none.
    """

    name: str
    path: Path | None
    rows: Iterator[tuple[int, list[Any]]]
    class_name: str | None
    class_names: Callable[[str], list[str] | None]

    @property
    def is_plain(self) -> bool:
        """Whether it is plain text, which has no columns."""
        return self.path is not None and formats.format_of(self.path) == ".txt"

    def where(self, number: int) -> str:
        """The place of a row, for a message."""
        return formats.place(self.path, number) if self.path else f"{self.name}, row {number}"


def parse_corpus_name(name: str) -> tuple[str, list[str] | None]:
    """Takes an entry of `prepare.corpora` apart: `imdb:train+unsupervised` is imdb with two of its splits.

    Returns:
        The name of the source, and its splits; None means all of them.

    Raises:
        UserError: if a name or a split is missing.
    """
    source, colon, splits = name.partition(":")
    names = [split.strip() for split in splits.split("+")] if colon else None
    if not source.strip() or (names is not None and "" in names):
        raise UserError(f"the corpus `{name}` is not of the form NAME or NAME:SPLIT+SPLIT, such as imdb:train")
    return source.strip(), names


def read_documents(
    source: Source, splits: Sequence[str] | None, changed: Counter[str] | None = None
) -> Iterator[Document]:
    """Streams the documents of a source, in order: of its splits, of its files by name, of their rows.

    With `rows="sentences"`, a blank row ends a document, as does the end of a file. Where none of the first 100,000
    rows (or 8 Mi characters) of a file is blank, every 512 consecutive sentences make a document: BookCorpus on the
    hub is one sentence a row, in book order, without the borders of its books.

    Args:
        source: where the texts are.
        splits: the splits to read, in this order; None reads everything. `unsup` is `unsupervised`, `dev` and `valid`
            are `validation`. A file's split is in its folder's or its own name. The train split of a source that is
            divided by test_ratio is all of its rows: which of them are test is known when labels are read.
        changed: counts what was done to documents, under `CUT` and `BLOCKS`, for the data report.

    Returns:
        The documents; also empty ones, which the caller counts. One over 8 Mi characters comes in several, cut at a
        paragraph where there is one.

    Raises:
        UserError: at once if the source or a split does not exist; while reading, if a file or row is at fault.
    """
    counts = Counter[str]() if changed is None else changed
    place = locate(source)
    if source.test_ratio is not None and splits is not None and [canonical(split) for split in splits] == ["train"]:
        splits = undivided(source, parts_read(source, None).values())
    if isinstance(place, Reviews):
        wanted = choose(splits, imdb.SPLITS, source)
        return (
            Document(text, presplit=False, where=f"{place.path}, {name}")
            for name, _, text in imdb.read_reviews(place.path, wanted)
        )
    columns = [(source.text_column, "text_column")]
    return chain.from_iterable(
        part_documents(part, rows_are(source), counts) for part in open_parts(source, place, splits, columns)
    )


def parts_read(source: Source, splits: Sequence[str] | None) -> dict[Hashable, str | None]:
    """What is read for some splits of a source, so that two entries of a recipe can be told to share a part.

    Args:
        source: where the texts are.
        splits: as for `read_documents`.

    Returns:
        For each file, or for each split of a data set that is read by split, the split it belongs to; None for a file
        whose name says none.

    Raises:
        UserError: if the source or a split does not exist.
    """
    place = locate(source)
    parts: dict[Hashable, str | None]
    if isinstance(place, Files):
        parts = {path.resolve(): split for path, split in place.paths.items()}
    elif isinstance(place, Reviews):
        parts = {(place.path.resolve(), split): split for split in imdb.SPLITS}
    else:
        # `datasets` takes a second to import, which reading files should not cost.
        from bertwright.text import hub

        parts = {(place, split): split for split in hub.open_splits(place.repository, place.revision, place.subset)}
    wanted = choose(splits, parts.values(), source)
    return {part: split for part, split in parts.items() if splits is None or split in wanted}


def source_fingerprint(source: Source) -> str:
    """A short hash that changes when what the source holds has changed.

    Returns:
        A hash of the files' names and contents, or of a hub data set's id, subset and commit.

    Raises:
        UserError: if the source does not exist, or the hub cannot be reached.
    """
    place = locate(source)
    if isinstance(place, Preset):
        # `datasets` takes a second to import, which reading files should not cost.
        from bertwright.text import hub

        return fingerprint(place.repository, place.subset, hub.commit_of(place.repository, place.revision))
    if isinstance(place, Files):
        paths = list(place.paths)
    else:
        paths = [place.path] if place.path.is_file() else imdb.review_files(place.path)
    return fingerprint(digests(paths, remembered=True))


def describe(source: Source) -> str:
    """One sentence for people about how documents are made from a source.

    Raises:
        UserError: if the source does not exist.
    """
    place = locate(source)
    if isinstance(place, Reviews):
        return f"Each review of {source.path} is a document."
    if rows_are(source) == "sentences":
        return (
            f"Each row of {source.path} is a sentence; a blank row ends a document, and where no row is blank, "
            f"{BLOCK_SENTENCES} consecutive sentences make a document."
        )
    plain = isinstance(place, Files) and all(formats.format_of(path) == ".txt" for path in place.paths)
    return f"Each {'file' if plain else 'row'} of {source.path} is a document."


def open_parts(
    source: Source, place: Files | Preset, splits: Sequence[str] | None, columns: Sequence[tuple[str, str]]
) -> Iterator[Part]:
    """The files or hub splits to read, each with its rows. Places and splits are checked now, rows as they come."""
    if isinstance(place, Preset):
        # `datasets` takes a second to import, which reading files should not cost.
        from bertwright.text import hub

        streams = hub.open_splits(place.repository, place.revision, place.subset)
        titles = {split: f"{place.repository}, split {split}" for split in choose(splits, streams, source)}
        return (
            Part(
                name, None, hub.read_rows(name, streams[split], columns), None, partial(hub.class_names, streams[split])
            )
            for split, name in titles.items()
        )
    chosen: Iterable[Path] = place.paths
    if splits is not None:
        names = choose(splits, place.paths.values(), source)
        chosen = [path for name in names for path, split in place.paths.items() if split == name]
    alone = len(place.paths) == 1
    return (
        Part(
            str(path),
            path,
            _file_rows(path, columns, alone),
            place.classes.get(path),
            partial(schema.class_names, path),
        )
        for path in chosen
    )


def _file_rows(path: Path, columns: Sequence[tuple[str, str]], alone: bool) -> Iterator[tuple[int, list[Any]]]:
    """A file's rows; those of plain text are its pieces, for a text file may be larger than memory.

    A text file of which tags are asked is a CoNLL file.
    """
    if formats.format_of(path) != ".txt" or any(option == "tags_column" for _, option in columns):
        yield from formats.read_rows(path, columns)
        return
    number = 0
    for number, piece in enumerate(formats.read_text(path), 1):
        yield number, [piece]
    # Among many files, an empty one is an empty document; alone, it is a mistake.
    if number == 0 and alone:
        raise UserError(f"{path} is empty; give a file with text")


def part_documents(part: Part, rows: str, counts: Counter[str] | None = None) -> Iterator[Document]:
    """The documents of a file or of a hub split, of which the text alone is read.

    Args:
        part: from `open_parts`.
        rows: documents or sentences, from `rows_are`.
        counts: what was done to documents, as for `read_documents`.
    """
    counts = Counter[str]() if counts is None else counts
    texts = ((number, "" if row[0] is None else as_text(row[0], part.where(number))) for number, row in part.rows)
    if rows == "sentences":
        pieces = (text for _, text in texts)
        lines = (line for piece in pieces for line in piece.removesuffix("\n").split("\n"))
        yield from _running_text(part, enumerate(lines, 1) if part.is_plain else texts, counts)
    elif part.is_plain:
        yield from _cut_long((text for _, text in texts), part.name, counts)
    else:
        for number, text in texts:
            yield from _cut_long((text,), part.where(number), counts)


def _cut_long(pieces: Iterable[str], where: str, counts: Counter[str]) -> Iterator[Document]:
    """One document from its pieces, in several if it is too long, each ending where a paragraph does if possible."""
    text = ""
    cuts = 0
    for piece in pieces:
        text += piece
        while len(text) > LONGEST_DOCUMENT:
            ends = (text.rfind(mark, LONGEST_DOCUMENT // 2, LONGEST_DOCUMENT) for mark in ("\n\n", "\n", " "))
            end = next((end for end in ends if end >= 0), LONGEST_DOCUMENT)
            yield Document(text[:end], presplit=False, where=where)
            text = text[end:]
            cuts += 1
    if cuts:
        counts[CUT] += 1
    yield Document(text, presplit=False, where=where)


def _running_text(part: Part, rows: Iterable[tuple[int, str]], counts: Counter[str]) -> Iterator[Document]:
    """Documents from sentences in order: up to a blank row, or in blocks where no row is blank."""
    coming = ((number, " ".join(row.split())) for number, row in rows)
    first: list[tuple[int, str]] = []
    size = 0
    for number, row in coming:
        first.append((number, row))
        size += len(row)
        if len(first) == _SEARCHED_ROWS or size > LONGEST_DOCUMENT:
            break
    in_blocks = all(row for _, row in first)
    sentences: list[str] = []
    begin = size = 0
    for number, row in chain(first, coming, [(0, "")]):
        if row:
            begin = begin if sentences else number
            sentences.append(row)
            size += len(row)
        too_long = size > LONGEST_DOCUMENT
        if sentences and (not row or too_long or (in_blocks and len(sentences) == BLOCK_SENTENCES)):
            if in_blocks or too_long:
                counts[BLOCKS if in_blocks else CUT] += 1
            yield Document("\n".join(sentences), presplit=True, where=part.where(begin))
            sentences, size = [], 0


def as_text(value: Any, where: str) -> str:
    """A value that is text.

    Args:
        value: as it was read.
        where: its place, for a message.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(value, str):
        return value
    raise UserError(f"{where} has {type(value).__name__} where text is expected; set text_column to a column of text")
