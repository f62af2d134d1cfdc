"""A corpus that is a single text, cut into documents.

Next-sentence prediction and held-out text need several documents, and people bring one big file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bertwright.recipe import Recipe
from bertwright.text import formats
from bertwright.text.corpus import Document, parse_corpus_name
from bertwright.text.sentences import split_sentences
from bertwright.text.sources import Files, locate, rows_are

_PARTS = 20
_SHORTEST, _LONGEST = 1_000, 10_000
"""Characters of a document: a twentieth of the text, within these bounds."""

HOW = "at ends of paragraphs (or lines, or sentences), about a twentieth of it, 1,000 to 10,000 characters, in each"


def is_one_file(recipe: Recipe) -> bool:
    """Whether the corpora of a recipe are one file of plain text whose rows are not declared to be sentences.

    Raises:
        UserError: if a source does not exist.
    """
    sources = [recipe.source(parse_corpus_name(name)[0]) for name in recipe.prepare.corpora]
    if len(sources) != 1 or rows_are(sources[0]) == "sentences":
        return False
    place = locate(sources[0])
    return isinstance(place, Files) and [formats.format_of(path) for path in place.paths] == [".txt"]


def cut(documents: Iterable[Document], html_line_breaks: bool) -> Iterator[Document]:
    """Each document in several, cut where paragraphs end, or lines or sentences where paragraphs are long.

    Args:
        documents: all those of a corpus.
        html_line_breaks: whether a <br /> ends a line.
    """
    for document in documents:
        size = min(_LONGEST, max(_SHORTEST, len(document.text) // _PARTS))
        if len(document.text) < 2 * size:
            size = len(document.text) // 2
        text: list[str] = []
        length = 0
        for piece in _pieces(document, size, html_line_breaks):
            if not piece.strip():
                continue
            if length and length + len(piece) // 2 > size:
                yield Document("\n".join(text), document.presplit, document.where)
                text, length = [], 0
            text.append(piece)
            length += len(piece)
        yield Document("\n".join(text), document.presplit, document.where)


def _pieces(document: Document, size: int, html_line_breaks: bool) -> Iterator[str]:
    if document.presplit:
        yield from document.text.split("\n")
        return
    for paragraph in re.split(r"\n[ \t\r]*\n", document.text):
        for line in [paragraph] if len(paragraph) <= size else paragraph.split("\n"):
            yield from [line] if len(line) <= size else split_sentences(line, html_line_breaks)
