"""The baseline of regression: ridge regression on TF-IDF of words and word pairs, of pairs with their overlap."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from bertwright.arrays import Ints
from bertwright.tasks.baselines import splits_words
from bertwright.tasks.baselines_pairs import Overlap, crossed, pairs_of
from bertwright.tasks.task import Progress
from bertwright.text.records import Record


def fit_and_predict(
    train: Sequence[Record], labels: Ints, test: Sequence[Record], pair: bool, progress: Progress
) -> dict[str, NDArray[np.float32] | str]:
    """Train ridge regression, and predict the test texts.

    Args:
        train: texts or pairs to train on.
        labels: their numbers.
        test: texts or pairs to predict.
        pair: whether they are pairs.
        progress: called with one sentence when it is done.

    Returns:
        By its name, numbers (test texts,), none beyond those of train; or the reason why it cannot learn.
    """
    start = time.perf_counter()
    characters = not splits_words(text for record in train for text in (record.text, record.text_pair or ""))
    name = "overlap_ridge" if pair else "ridge"
    pairs, tested = pairs_of(train), pairs_of(test)
    options = {"sublinear_tf": True, "min_df": 2, "dtype": np.float64}
    if pair:
        features = TfidfVectorizer(analyzer=lambda one: crossed(one, characters), **options)
    else:
        own = {"analyzer": "char", "ngram_range": (1, 3)} if characters else {"ngram_range": (1, 2)}
        features = TfidfVectorizer(
            preprocessor=lambda one: one[0].lower(), token_pattern=r"(?u)\b\w+\b", **own, **options
        )
    try:
        columns = [features.fit_transform(pairs)]
    except ValueError as error:  # scikit-learn's for a vocabulary without a word
        if not any(words in str(error) for words in ("empty vocabulary", "no terms remain")):
            raise
        return {name: "no two of the labelled texts share a word, so it has nothing to learn from"}
    others = [features.transform(tested)]
    if pair:
        overlap, scale = Overlap(pairs, characters), StandardScaler()
        columns.append(sparse.csr_array(scale.fit_transform(overlap(pairs))))
        others.append(sparse.csr_array(scale.transform(overlap(tested))))
    model = Ridge(alpha=1.0).fit(sparse.hstack(columns).tocsr(), labels)
    predicted = np.clip(model.predict(sparse.hstack(others).tocsr()), np.min(labels), np.max(labels))
    progress(f"{name}: trained, and predicted {len(test):,} texts in {time.perf_counter() - start:.0f} s")
    return {name: predicted.astype(np.float32)}
