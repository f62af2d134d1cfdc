"""The n-gram baselines: three classical text classifiers, each a scikit-learn pipeline from texts to probabilities.

They are strong ones: the last comes within three points of BERT-base on IMDB and trains in a minute, so that a small
BERT has to earn its cost. Tokens, cut-offs and C were chosen on a fifth of IMDB's train part and never on test. All
three work for any number of classes. Where spaces do not part words, as in Chinese or Thai, n-grams of characters
take the place of n-grams of words.
"""

from __future__ import annotations

import time
import unicodedata
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


_CHARACTERS = {"analyzer": "char", "ngram_range": (1, 3)}
"""Options of scikit-learn's vectorizers that count characters in place of words."""


def naive_bayes(characters: bool = False) -> Pipeline:
    """Multinomial naive Bayes on counts of single words, or of 1 to 3 characters."""
    counts = CountVectorizer(**_CHARACTERS) if characters else CountVectorizer()
    return Pipeline([("counts", counts), ("classifier", MultinomialNB())])


def logistic_regression(characters: bool = False) -> Pipeline:
    """Logistic regression on TF-IDF of words and word pairs, or of 1 to 3 characters, with logarithmic counts."""
    own: dict[str, Any] = _CHARACTERS if characters else {"ngram_range": (1, 2), "token_pattern": _ALL_WORDS}
    features = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32, **own)
    return Pipeline([("features", features), ("classifier", LogisticRegression(C=10.0, max_iter=1000))])


def nb_logistic_regression(characters: bool = False) -> Pipeline:
    """Logistic regression on the presence of 1- to 3-grams of words, or of characters, weighted by naive Bayes.

    Beyond two classes it is one-vs-rest.
    """
    own: dict[str, Any] = _CHARACTERS if characters else {"ngram_range": (1, 3), "token_pattern": _ALL_WORDS}
    presence = CountVectorizer(binary=True, min_df=2, dtype=np.float32, **own)
    one = Pipeline([("weights", LogCountRatio()), ("classifier", LogisticRegression(C=1.0, max_iter=1000))])
    return Pipeline([("presence", presence), ("classifier", OneVsRestClassifier(one))])


_WITHOUT_SPACES = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "YI ",
    "TAI ",
    "JAVANESE",
)
"""How the Unicode names of letters begin whose scripts put no spaces between words."""

_SAMPLE = 200_000
"""Characters that tell a corpus's scripts."""


def splits_words(texts: Iterable[str]) -> bool:
    """Whether a word of these texts is a run of letters between other characters, as the word n-grams want it.

    It is not where a fifth of the characters are letters of scripts that put no spaces between words, or marks, such as
    the vowel signs of Hindi, at which Python's regular expressions end a word.
    """
    letters = others = 0
    for text in texts:
        for character in text[:2000]:
            if character.isascii():
                letters += character.isalnum()
                continue
            kind = unicodedata.category(character)[0]
            letters += kind in "LMN"
            others += kind == "M" or (kind in "LN" and unicodedata.name(character, "").startswith(_WITHOUT_SPACES))
        if letters > _SAMPLE:
            break
    return others <= 0.2 * letters


SYSTEMS: dict[str, Callable[..., Pipeline]] = {
    "naive_bayes": naive_bayes,
    "logistic_regression": logistic_regression,
    "nb_logistic_regression": nb_logistic_regression,
}


def fit_and_predict(
    train_texts: Sequence[str],
    train_labels: ArrayLike,
    test_texts: Sequence[str],
    progress: Callable[[str], None] | None = None,
) -> dict[str, NDArray[np.float32] | str]:
    """Train every baseline and predict the test texts.

    Args:
        train_texts: texts to train on.
        train_labels: their classes, integers from 0; every class occurs.
        test_texts: texts to predict.
        progress: called with one sentence when a system is done.

    Returns:
        For each of `SYSTEMS`, probabilities (test texts, classes), columns in the order of the classes; or the reason
        why it cannot learn from the texts. Where n-grams are of characters, `_characters` ends a system's name.
    """
    classes = np.unique(np.asarray(train_labels))
    if not np.array_equal(classes, np.arange(len(classes))) or len(classes) < 2:
        raise ValueError(f"train labels must be 0, 1, ... with at least two classes, each present; got {classes}")
    characters = not splits_words(train_texts)
    predictions: dict[str, NDArray[np.float32] | str] = {}
    for system, build in SYSTEMS.items():
        start = time.perf_counter()
        name = f"{system}_characters" if characters else system
        # Each pipeline is dropped before the next is built: a 3-gram vocabulary takes over a gigabyte while it grows.
        pipeline = build(characters)
        try:
            features = pipeline[0].fit_transform(train_texts)
        except ValueError as error:  # scikit-learn's for a vocabulary without a word
            if not any(words in str(error) for words in ("empty vocabulary", "no terms remain")):
                raise
            predictions[name] = "no two of the labelled texts share a word, so it has nothing to learn from"
            told = f"left out, for {predictions[name]}"
        else:
            pipeline[1].fit(features, train_labels)
            predictions[name] = pipeline.predict_proba(test_texts).astype(np.float32)
            told = f"trained, and predicted {len(test_texts):,} texts in {time.perf_counter() - start:.0f} s"
        if progress is not None:
            progress(f"{name}: {told}")
    return predictions
