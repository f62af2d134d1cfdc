"""Corpora whose every token is a different number: what a sequence holds tells where it comes from."""

from pathlib import Path

import numpy as np
import pytest

from bertwright.files import write_json
from bertwright.text.store import CorpusWriter, PreparedCorpus, TokenizedDocuments

FIRST_TOKEN = 100
"""Smaller ids are left to special tokens."""


def write_corpus(path: Path, documents: list[list[int]], sources: list[str] | None = None) -> PreparedCorpus:
    """A corpus of documents, each given by the lengths of its sentences; the token at position p is FIRST_TOKEN + p."""
    write_json(path.with_name("manifest.json"), {"fingerprint": "test"})
    position = FIRST_TOKEN
    with CorpusWriter(path, 2**17, "test") as writer:
        for number, lengths in enumerate(documents):
            tokens = np.arange(position, position + sum(lengths), dtype=np.int32)
            position += len(tokens)
            writer.write(
                sources[number] if sources else "books",
                TokenizedDocuments(tokens, np.array(lengths, np.int32), np.array([len(lengths)], np.int32)),
            )
    return PreparedCorpus(path, "test")


@pytest.fixture
def corpus_of(tmp_path):
    """Builds a corpus from the lengths of its documents' sentences."""
    return lambda documents, sources=None: write_corpus(tmp_path / "corpus.arrow", documents, sources)


@pytest.fixture(scope="session")
def varied_lengths() -> list[list[int]]:
    """200 documents: single tokens, single sentences, long ones, sentences longer than a sequence."""
    rng = np.random.default_rng(0)
    documents = [[1], [1, 1], [2], [300], [5], [700, 3, 1, 90]]
    for _ in range(194):
        sentences = int(rng.choice([1, 2, 3, 12, 60, 500], p=[0.1, 0.1, 0.2, 0.4, 0.15, 0.05]))
        documents.append([int(n) for n in rng.integers(1, 45, sentences)])
    return documents
