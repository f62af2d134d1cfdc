"""Features of pairs of texts, and the classical systems on them: how much two texts share, and which words meet.

The crossed features are those of the lexicalized classifier of Bowman et al. 2015, "A large annotated corpus for
learning natural language inference", section 3.2, without parts of speech.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from bertwright.arrays import Ints
from bertwright.tasks.baselines import LogCountRatio, splits_words
from bertwright.tasks.task import Progress
from bertwright.text.records import Record

Pair = tuple[str, str]

_WORD = re.compile(r"(?u)\b\w+\b")
_CROSSED = 20
"""Words of a text that are crossed with those of the other: the number of products stays bounded for long texts."""


def pairs_of(records: Sequence[Record]) -> list[Pair]:
    """The texts of each record."""
    return [(record.text, record.text_pair or "") for record in records]


def crossed(pair: Pair, characters: bool = False) -> list[str]:
    """Names of a pair's features: n-grams of each text, words of both, words of one alone, and products of those.

    Args:
        pair: two texts.
        characters: whether to take n-grams of 1 to 3 characters in place of words, as for Chinese.
    """
    units = [_units(text, characters) for text in pair]
    found = [f"{side} {gram}" for side, own in enumerate(units, 1) for gram in _grams(own)]
    first, second = (dict.fromkeys(own) for own in units)
    found += [f"both {unit}" for unit in first if unit in second]
    alone = [[unit for unit in own if unit not in other] for own, other in ((first, second), (second, first))]
    found += [f"only{side} {unit}" for side, own in enumerate(alone, 1) for unit in own]
    return found + [f"{a} | {b}" for a in alone[0][:_CROSSED] for b in alone[1][:_CROSSED]]


def _units(text: str, characters: bool) -> list[str]:
    return list("".join(text.lower().split())) if characters else _WORD.findall(text.lower())


def _grams(units: Sequence[str]) -> list[str]:
    return [" ".join(units[i : i + n]) for n in (1, 2, 3) for i in range(len(units) - n + 1)]


class Overlap:
    """How much two texts share, as numbers: words, pairs of words, digits, length, and the cosine of TF-IDF.

    Args:
        train: pairs that word frequencies are counted in.
        characters: whether words are characters.
    """

    def __init__(self, train: Sequence[Pair], characters: bool = False) -> None:
        self.characters = characters
        self.tfidf = TfidfVectorizer(analyzer=lambda text: _units(text, characters), sublinear_tf=True)
        self.tfidf.fit([text for pair in train for text in pair])

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """The features of pairs, (pairs, 9)."""
        first, second = (self.tfidf.transform([pair[side] for pair in pairs]) for side in (0, 1))
        cosine = np.asarray(first.multiply(second).sum(axis=1)).ravel()
        rows = [self._row(pair) for pair in pairs]
        return np.column_stack([cosine, np.array(rows, np.float64).reshape(len(pairs), -1)])

    def _row(self, pair: Pair) -> list[float]:
        a, b = (_units(text, self.characters) for text in pair)
        row = []
        for one, other in ((set(a), set(b)), (set(pairwise(a)), set(pairwise(b)))):
            shared: int = len(one & other)
            row += [shared / max(1, len(one)), shared / max(1, len(other)), shared / max(1, len(one | other))]
        digits = [{word for word in own if any(map(str.isdigit, word))} for own in (a, b)]
        return [*row, len(digits[0] ^ digits[1]), abs(np.log((1 + len(a)) / (1 + len(b))))]


def overlap_regression(train: Sequence[Pair], characters: bool) -> tuple[Overlap, Pipeline]:
    """Features of overlap, and a logistic regression on them, not yet trained."""
    classifier = LogisticRegression(C=1.0, max_iter=1000)
    return Overlap(train, characters), Pipeline([("scale", StandardScaler()), ("classifier", classifier)])


def crossed_counts(characters: bool) -> CountVectorizer:
    """Which crossed features a pair has; those of a single pair are left out."""
    return CountVectorizer(analyzer=lambda pair: crossed(pair, characters), binary=True, min_df=2, dtype=np.float32)


def fit_and_predict_pairs(
    train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
) -> dict[str, NDArray[np.float32] | str]:
    """Train both classical systems on pairs, and predict.

    Args:
        train: pairs to train on.
        labels: their classes, integers from 0; every class occurs.
        test: pairs to predict.
        progress: called with one sentence when a system is done.

    Returns:
        For each system, probabilities (test pairs, classes); or the reason why it cannot learn.
    """
    pairs, tested = pairs_of(train), pairs_of(test)
    characters = not splits_words(text for pair in pairs for text in pair)
    found: dict[str, NDArray[np.float32] | str] = {}

    def told(name: str, predicted: Any, start: float) -> None:
        found[name] = predicted.astype(np.float32)
        progress(f"{name}: trained, and predicted {len(tested):,} pairs in {time.perf_counter() - start:.0f} s")

    start = time.perf_counter()
    overlap, pipeline = overlap_regression(pairs, characters)
    told("overlap_logistic_regression", pipeline.fit(overlap(pairs), labels).predict_proba(overlap(tested)), start)
    start, counts = time.perf_counter(), crossed_counts(characters)
    try:
        features = counts.fit_transform(pairs)
    except ValueError as error:  # scikit-learn's for a vocabulary without a word
        if not any(words in str(error) for words in ("empty vocabulary", "no terms remain")):
            raise
        found["crossed_nb_logistic_regression"] = "no two of the pairs share a word, so it has nothing to learn from"
        return found
    one = Pipeline([("weights", LogCountRatio()), ("classifier", LogisticRegression(C=1.0, max_iter=1000))])
    classifier = OneVsRestClassifier(one).fit(features, labels)
    told("crossed_nb_logistic_regression", classifier.predict_proba(counts.transform(tested)), start)
    return found
