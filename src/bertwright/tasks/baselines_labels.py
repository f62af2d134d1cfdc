"""The baseline of multi-label classification: NB-weighted logistic regression for each label, against the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from bertwright.arrays import Ints
from bertwright.tasks.baselines import LogCountRatio, splits_words
from bertwright.tasks.baselines_pairs import crossed_counts, pairs_of
from bertwright.tasks.task import Progress
from bertwright.tasks.thresholds import best_thresholds
from bertwright.text.records import Record

_HELD_OUT = 5
"""One text of so many is predicted by a model that was not trained on it, to choose thresholds by."""


def fit_and_predict(
    train: Sequence[Record], labels: Ints, test: Sequence[Record], pair: bool, progress: Progress
) -> dict[str, NDArray[np.float32] | str]:
    """Train a logistic regression for each label, and predict the test texts.

    Thresholds are chosen on a fifth of train, by models of the rest; then all of train is trained on.

    Args:
        train: texts or pairs to train on.
        labels: theirs, (texts, K).
        test: texts or pairs to predict.
        pair: whether they are pairs.
        progress: called with one sentence when it is done.

    Returns:
        By its name, predictions (test texts, 2, K); or the reason why it cannot learn.
    """
    start, name = time.perf_counter(), "nb_logistic_regression"
    name = f"crossed_{name}" if pair else name
    characters = not splits_words(text for record in train for text in (record.text, record.text_pair or ""))
    counts = crossed_counts(characters) if pair else _presence(characters)
    given: list[list[Any]] = [list(pairs_of(part)) if pair else [one.text for one in part] for part in (train, test)]
    try:
        features = counts.fit_transform(given[0])
    except ValueError as error:  # scikit-learn's for a vocabulary without a word
        if not any(words in str(error) for words in ("empty vocabulary", "no terms remain")):
            raise
        return {name: "no two of the labelled texts share a word, so it has nothing to learn from"}
    held = np.random.default_rng(0).permutation(len(train)) % _HELD_OUT == 0
    thresholds = best_thresholds(_predicted(features[~held], labels[~held], features[held]), labels[held])
    probabilities = _predicted(features, labels, counts.transform(given[1]))
    progress(f"{name}: trained, and predicted {len(test):,} texts in {time.perf_counter() - start:.0f} s")
    return {name: np.stack([probabilities, np.broadcast_to(thresholds, probabilities.shape)], axis=1)}


def _presence(characters: bool) -> CountVectorizer:
    own: dict[str, Any] = {"analyzer": "char"} if characters else {"token_pattern": r"(?u)\b\w+\b"}
    return CountVectorizer(binary=True, min_df=2, dtype=np.float32, ngram_range=(1, 3), **own)


def _predicted(features: Any, labels: Ints, others: Any) -> NDArray[np.float32]:
    """The probability of each label for other texts; of one that all texts have, or none, how many have it."""
    found = np.empty((others.shape[0], labels.shape[1]), np.float32)
    for k in range(labels.shape[1]):
        own = labels[:, k]
        if own.min() == own.max():
            found[:, k] = own[0]
            continue
        one = Pipeline([("weights", LogCountRatio()), ("classifier", LogisticRegression(C=1.0, max_iter=1000))])
        found[:, k] = one.fit(features, own).predict_proba(others)[:, 1]
    return found
