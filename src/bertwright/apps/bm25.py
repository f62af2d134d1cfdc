"""BM25: texts ranked by the words that they share with a query.

Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", as Lucene computes it. The sparse
matrix of scores is that of the library bm25s.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bertwright.errors import UserError, extra
from bertwright.text.word_runs import word_pattern


def words(text: str) -> list[str]:
    """The words of a text for BM25 (`text/word_runs.py`), without case; no stop list and no stems."""
    return word_pattern().findall(unicodedata.normalize("NFKC", text).casefold())


class WordIndex:
    """The words of many texts.

    Args:
        inner: the library's index.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def build(cls, texts: Iterable[str]) -> Self:
        """An index of texts, which are read once; only the numbers of their words are held.

        Raises:
            UserError: if bm25s is missing, or no text has a word.
        """
        vocabulary: dict[str, int] = {}
        numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
        inner = library().BM25()
        if not vocabulary:
            raise UserError("no text has a letter or a digit, and BM25 counts words; leave out --hybrid")
        inner.index((numbers, vocabulary), create_empty_token=False, show_progress=False)
        return cls(inner)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """An index from a folder, memory-mapped.

        Raises:
            UserError: if bm25s is missing.
        """
        return cls(library().BM25.load(folder, mmap=True))

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        self._inner.save(folder, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """The BM25 score of each text, (texts,); 0 where it shares no word with the query."""
        known = [word for word in words(query) if word in self._inner.vocab_dict]
        if not known:
            return np.zeros(self._inner.scores["num_docs"], np.float32)
        found: npt.NDArray[np.float32] = self._inner.get_scores(known)
        return found


def library() -> Any:
    """The library bm25s.

    Raises:
        UserError: if it is missing.
    """
    with extra("search", "BM25"):
        import bm25s
    return bm25s
