"""Token vectors by counting, against a loop that counts and an exact factorisation."""

from itertools import pairwise

import numpy as np
import pytest

from bertwright.text import cooccurrence
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_prepared):
    return Tokenizer.load(small_prepared / "tokenizer")


@pytest.fixture(scope="module")
def corpus(small_prepared, tokenizer):
    return PreparedCorpus(small_prepared / "train.arrow", tokenizer.fingerprint)


def documents_of(corpus, sources=None):
    ends = np.concatenate([[0], np.cumsum(corpus.sentence_lengths.astype(np.int64))])[corpus.document_offsets]
    names = np.array(corpus.source_names)[corpus.document_sources]
    for number, (start, end) in enumerate(pairwise(ends)):
        if sources is None or names[number] in sources:
            yield corpus.spans(np.array([start]), np.array([end - start]))[0].tolist()


@pytest.mark.parametrize("sources", [None, ("books",)])
def test_vectors_factor_the_information_that_a_loop_counts(corpus, tokenizer, monkeypatch, sources):
    monkeypatch.setattr(cooccurrence, "WINDOW", 3)
    size = tokenizer.vocab_size
    found, shares = cooccurrence.token_vectors(corpus, size, size, sources)

    counts, seen = np.zeros((size, size)), np.ones(size)
    for document in documents_of(corpus, sources):
        for i, token in enumerate(document):
            seen[token] += 1
            for j in range(max(0, i - 3), min(len(document), i + 4)):
                counts[token, document[j]] += i != j
    smoothed = counts.sum(0) ** 0.75
    with np.errstate(all="ignore"):
        information = np.log(counts / (counts.sum(1, keepdims=True) * smoothed / smoothed.sum()))
    left, values, _ = np.linalg.svd(np.maximum(np.nan_to_num(information, nan=0, neginf=0), 0))
    expected = left * np.sqrt(values)
    met = counts.any(1)
    expected = expected[met] / np.linalg.norm(expected[met], axis=1, keepdims=True)

    # A factor is free to turn; what vectors say of each other is not.
    np.testing.assert_allclose(found[met] @ found[met].T, expected @ expected.T, atol=2e-3)
    assert not found[~met].any()
    assert not met.all()  # [MASK] never stands in a text
    np.testing.assert_allclose(shares, seen / seen.sum(), rtol=1e-5)


def test_a_large_corpus_is_sampled_in_whole_documents(corpus, monkeypatch):
    everything = [tuple(document) for document in documents_of(corpus)]
    assert [tuple(ids) for ids in cooccurrence.sampled_documents(corpus, None)] == everything
    monkeypatch.setattr(cooccurrence, "SAMPLE_TOKENS", corpus.num_tokens // 4)
    assert [tuple(ids) for ids in cooccurrence.sampled_documents(corpus, None)] == everything[::4]
