"""The baseline of vectors: the cosine of TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from bertwright.arrays import Floats
from bertwright.finetune_settings import EmbeddingConfig
from bertwright.tasks.baselines import splits_words
from bertwright.tasks.crops import halves
from bertwright.tasks.ranks import compared
from bertwright.tasks.task import Progress
from bertwright.text.records import Record


def _pair(record: Record) -> tuple[str, str]:
    return halves(record.text) if record.text_pair is None else (record.text, record.text_pair)


def tfidf_cosines(
    train: Sequence[Record], test: Sequence[Record], settings: EmbeddingConfig, progress: Progress
) -> Mapping[str, Floats | str]:
    """Predictions as of the task `embedding`, from TF-IDF vectors of words, or of 1 to 3 characters without spaces.

    Args:
        train: counts in how many texts a word stands.
        test: pairs, or texts whose halves are compared.
        settings: temperature, and whether pairs have scores.
        progress: called when the system is done.
    """
    known = [text for record in train for text in _pair(record)]
    characters = not splits_words(known)
    options = {"analyzer": "char", "ngram_range": (1, 3)} if characters else {"token_pattern": r"(?u)\b\w+\b"}
    vectorizer = TfidfVectorizer(sublinear_tf=True, **options)
    name = "tfidf_cosine_characters" if characters else "tfidf_cosine"
    try:
        vectorizer.fit(known)
    except ValueError:  # scikit-learn's for a vocabulary without a word
        return {name: "the training texts have no word, so it has nothing to learn from"}
    pairs = [_pair(record) for record in test]
    first, second = (vectorizer.transform([pair[side] for pair in pairs]) for side in range(2))
    progress("cosine of TF-IDF vectors")
    if settings.scores:
        return {name: np.asarray(first.multiply(second).sum(axis=1), np.float32).ravel()}
    return {name: compared(first, second, pairs, settings.temperature)}
