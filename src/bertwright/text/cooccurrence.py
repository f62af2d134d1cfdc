"""PMI embeddings: token vectors from co-occurrence counts, in less than a minute.

A skip-gram network with negative sampling factors, without saying so, a matrix of pointwise mutual information between
words and the words around them (Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"). Here
the matrix is counted and factored directly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.utils.extmath import randomized_svd

from bertwright.arrays import Floats
from bertwright.text.store import PreparedCorpus

WINDOW = 16
"""A token's neighbours are those up to this many positions away, in its document."""

CONTEXTS = 4_096
"""Only so many of the most frequent tokens count as neighbours: they hold nearly all there is to count."""

SAMPLE_TOKENS = 24_000_000
"""Tokens that are counted: whole documents, spread evenly over the corpus."""


def sampled_documents(corpus: PreparedCorpus, sources: tuple[str, ...] | None) -> list[npt.NDArray[np.int64]]:
    """The token ids of documents, evenly spread, with about `SAMPLE_TOKENS` tokens in all.

    Args:
        corpus: the prepared corpus.
        sources: take these sources only; None takes all.
    """
    starts = corpus.document_starts
    chosen = np.flatnonzero(corpus.is_from(sources))
    lengths = np.diff(starts)[chosen]
    step = max(1, round(lengths.sum() / SAMPLE_TOKENS))
    return [ids.astype(np.int64) for ids in corpus.spans(starts[chosen[::step]], lengths[::step])]


def token_vectors(
    corpus: PreparedCorpus, vocab_size: int, width: int, sources: tuple[str, ...] | None
) -> tuple[Floats, Floats]:
    """What counting says of each token.

    Args:
        corpus: the prepared corpus.
        vocab_size: number of entries V of the vocabulary.
        width: of the vectors.
        sources: count in these sources only; None takes all.

    Returns:
        A unit vector per token from what stands around it, float32 (vocab_size, width), zeros for tokens never seen;
        and each token's fraction of the text, float32 (vocab_size,), as if each had been seen once more.
    """
    documents = sampled_documents(corpus, sources)
    ids = np.concatenate(documents)
    document = np.repeat(np.arange(len(documents), dtype=np.int32), [len(part) for part in documents])
    frequency = np.bincount(ids, minlength=vocab_size)
    contexts = np.argsort(-frequency, kind="stable")[:CONTEXTS]
    columns = len(contexts)
    column = np.full(vocab_size, -1)
    column[contexts] = np.arange(columns)
    counts = np.zeros(vocab_size * columns, np.float32)
    for distance in range(1, WINDOW + 1):
        together = document[:-distance] == document[distance:]
        first, second = ids[:-distance][together], ids[distance:][together]
        for token, neighbour in ((first, column[second]), (second, column[first])):
            known = neighbour >= 0
            counts += np.bincount(token[known] * columns + neighbour[known], minlength=len(counts))
    information = counts.reshape(vocab_size, columns)
    rows = information.sum(1, keepdims=True)
    # Frequent neighbours count for less than their share (Levy, Goldberg and Dagan 2015, "context distribution
    # smoothing"): otherwise rare ones dominate.
    smoothed = information.sum(0, keepdims=True) ** 0.75
    smoothed /= smoothed.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        np.log(information / (rows * smoothed), out=information)
    np.nan_to_num(information, copy=False, nan=0.0, neginf=0.0)
    np.maximum(information, 0.0, out=information)
    left, values, _ = randomized_svd(information, min(width, columns), n_iter=3, random_state=0)
    vectors = np.zeros((vocab_size, width), np.float32)
    vectors[:, : len(values)] = left * np.sqrt(values)
    vectors[rows[:, 0] == 0] = 0  # no neighbours: what stands there is rounding
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    shares: Floats = ((frequency + 1) / (frequency + 1).sum()).astype(np.float32)
    return vectors, shares
