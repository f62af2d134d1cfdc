"""The prepared corpus as its readers see it, across record batches, and what reading it costs in memory."""

import re
from pathlib import Path

import numpy as np
import pytest

from bertwright.files import write_json
from bertwright.text import store
from bertwright.text.store import CorpusWriter, PreparedCorpus, TokenizedDocuments

SOURCES = ("books", "imdb:train", "books", "news", "imdb:train")


@pytest.fixture
def lengths_of_documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 30, rng.integers(1, 12)).astype(np.int32) for _ in range(60)]


@pytest.fixture
def corpus(tmp_path, monkeypatch, lengths_of_documents) -> PreparedCorpus:
    """60 documents in several record batches; the token at position p is p."""
    monkeypatch.setattr(store, "CHUNK_TOKENS", 700)
    write_json(tmp_path / "manifest.json", {"fingerprint": "test"})
    position = 0
    with CorpusWriter(tmp_path / "train.arrow", 2**17, "test") as writer:
        for number, lengths in enumerate(lengths_of_documents):
            tokens = np.arange(position, position + lengths.sum(), dtype=np.int32)
            position += len(tokens)
            documents = TokenizedDocuments(tokens, lengths, np.array([len(lengths)], np.int32))
            writer.write(SOURCES[number % 5], documents)
    corpus = PreparedCorpus(tmp_path / "train.arrow", "test")
    assert len(corpus._chunks) > 3
    return corpus


def test_sentences_and_documents_are_counted_and_placed(corpus, lengths_of_documents):
    lengths = np.concatenate(lengths_of_documents)
    counts = [len(part) for part in lengths_of_documents]
    sizes = [part.sum() for part in lengths_of_documents]
    assert (corpus.num_documents, corpus.num_sentences, corpus.num_tokens) == (60, len(lengths), lengths.sum())
    np.testing.assert_array_equal(corpus.sentence_lengths, lengths)
    np.testing.assert_array_equal(corpus.sentence_counts, counts)
    np.testing.assert_array_equal(corpus.sentence_starts, np.cumsum([0, *lengths]))
    np.testing.assert_array_equal(corpus.document_offsets, np.cumsum([0, *counts]))
    np.testing.assert_array_equal(corpus.document_starts, np.cumsum([0, *sizes]))


@pytest.mark.parametrize("chosen", [slice(None), slice(3, None, 7), slice(58, 60), slice(0, 0)])
def test_sentences_of_chosen_documents_are_those_of_each(corpus, lengths_of_documents, chosen):
    documents = np.arange(60, dtype=np.int32)[chosen]
    found = corpus.sentences(documents)
    np.testing.assert_array_equal(found.counts, [len(lengths_of_documents[number]) for number in documents])
    np.testing.assert_array_equal(found.starts, corpus.document_starts[documents])
    np.testing.assert_array_equal(
        found.lengths, np.concatenate([np.zeros(0), *(lengths_of_documents[number] for number in documents)])
    )


def test_sources_are_small_numbers_and_names(corpus):
    assert corpus.source_names == ("books", "imdb:train", "news")
    assert corpus.document_sources.tolist() == [0, 1, 0, 2, 1] * 12
    assert corpus.document_sources.itemsize == 2
    assert corpus.is_from(None).all()
    assert corpus.is_from(("news", "books", "absent")).tolist() == [True, False, True, True, False] * 12
    assert not corpus.is_from(("absent",)).any()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say which pages are resident")
def test_reading_sentences_leaves_no_page_of_the_file_in_memory(corpus, tmp_path):
    def resident() -> int:
        mapping = Path("/proc/self/smaps").read_text().partition(str(tmp_path / "train.arrow"))[2]
        found = re.search(r"^Rss: +(\d+) kB", mapping, re.MULTILINE)
        assert found is not None
        return int(found[1])

    corpus.sentences(np.arange(60))
    assert resident() == 0
    assert corpus.spans(np.array([5]), np.array([3]))[0].tolist() == [5, 6, 7]
    assert resident() > 0, "or this test shows nothing"
