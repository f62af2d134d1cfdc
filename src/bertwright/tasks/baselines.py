"""The n-gram baselines: three classical text classifiers, each a scikit-learn pipeline from texts to probabilities.

They are strong ones: the last comes within three points of BERT-base on IMDB and trains in a minute, so that a small
BERT has to earn its cost. Tokens, cut-offs and C were chosen on a fifth of IMDB's train part and never on test. All
three work for any number of classes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from bertwright.errors import UserError

# scikit-learn's default drops words of one letter; "a", "i" and the "t" of "don't" matter inside 2- and 3-grams.
_ALL_WORDS = r"(?u)\b\w+\b"


class LogCountRatio(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Scales each feature by its naive Bayes log-count ratio (Wang and Manning 2012, "Baselines and Bigrams").

    The ratio of a feature is `log(p / |p|) - log(q / |q|)`, with p its sum over rows of the second class plus alpha, q
    the same for the first class, and `|.|` the sum over features. A linear classifier on features scaled in this way
    starts from what naive Bayes believes.

    Args:
        alpha: what is added to every count, so that a feature that one class lacks keeps a finite ratio.

    Attributes:
        ratio_: the log-count ratio, (features,).
        classes_: the two classes, sorted.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Compute the ratios from counts (rows, features), sparse or dense, and labels (rows,) of two classes."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise ValueError(f"LogCountRatio needs two classes and got {len(self.classes_)}; use one-vs-rest for more")
        second = np.asarray(y) == self.classes_[1]
        # Products with a 0/1 vector sum the rows of a class without copying them.
        p = self.alpha + X.T @ second.astype(np.float64)
        q = self.alpha + X.T @ (~second).astype(np.float64)
        self.ratio_ = np.log(p / p.sum()) - np.log(q / q.sum())
        return self

    def transform(self, X: Any) -> Any:
        """Scale (rows, features), sparse or dense, to the same shape and kind."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        ratio = self.ratio_.astype(X.dtype)
        return X @ sparse.diags_array(ratio, format="csr") if sparse.issparse(X) else X * ratio


def naive_bayes() -> Pipeline:
    """Multinomial naive Bayes on counts of single words."""
    return Pipeline([("counts", CountVectorizer()), ("classifier", MultinomialNB())])


def logistic_regression() -> Pipeline:
    """Logistic regression on TF-IDF of words and word pairs, with logarithmic term counts."""
    features = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=_ALL_WORDS, dtype=np.float32
    )
    return Pipeline([("features", features), ("classifier", LogisticRegression(C=10.0, max_iter=1000))])


def nb_logistic_regression() -> Pipeline:
    """Logistic regression on the presence of 1- to 3-grams, weighted by naive Bayes; one-vs-rest beyond two classes."""
    presence = CountVectorizer(ngram_range=(1, 3), binary=True, min_df=2, token_pattern=_ALL_WORDS, dtype=np.float32)
    one = Pipeline([("weights", LogCountRatio()), ("classifier", LogisticRegression(C=1.0, max_iter=1000))])
    return Pipeline([("presence", presence), ("classifier", OneVsRestClassifier(one))])


def check_words(texts: Iterable[str]) -> None:
    """See that texts have something to learn from: a word of two letters or more that two of them share.

    Raises:
        UserError: if there is none, and the baselines would have no feature.
    """
    seen: set[str] = set()
    for text in texts:
        words = set(re.findall(r"\w\w+", text.lower()))
        if words & seen:
            return
        seen |= words
    raise UserError("no two of the labelled texts share a word, so that nothing can be learnt from them; add texts")


SYSTEMS: dict[str, Callable[[], Pipeline]] = {
    "naive_bayes": naive_bayes,
    "logistic_regression": logistic_regression,
    "nb_logistic_regression": nb_logistic_regression,
}


def fit_and_predict(
    train_texts: Sequence[str],
    train_labels: ArrayLike,
    test_texts: Sequence[str],
    progress: Callable[[str], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Train every baseline and predict the test texts.

    Args:
        train_texts: texts to train on.
        train_labels: their classes, integers from 0; every class occurs.
        test_texts: texts to predict.
        progress: called with one sentence when a system is done.

    Returns:
        For each of `SYSTEMS`, probabilities (test texts, classes), columns in the order of the classes.
    """
    classes = np.unique(np.asarray(train_labels))
    if not np.array_equal(classes, np.arange(len(classes))) or len(classes) < 2:
        raise ValueError(f"train labels must be 0, 1, ... with at least two classes, each present; got {classes}")
    predictions = {}
    for name, build in SYSTEMS.items():
        start = time.perf_counter()
        # Each pipeline is dropped before the next is built: a 3-gram vocabulary takes over a gigabyte while it grows.
        predictions[name] = build().fit(train_texts, train_labels).predict_proba(test_texts).astype(np.float32)
        if progress is not None:
            progress(f"{name}: trained, and predicted {len(test_texts):,} texts in {time.perf_counter() - start:.0f} s")
    return predictions
