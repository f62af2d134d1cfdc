"""Exact match and F1 of answers, as SQuAD's official scripts define them (Rajpurkar et al. 2016 and 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """An answer in lower case, without ASCII punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def answer_f1(predicted: str, gold: str) -> float:
    """The F1 of the words of two normalized answers; where one has no word, 1 if both have none, else 0."""
    own, true = predicted.split(), gold.split()
    if not own or not true:
        return float(own == true)
    shared = (Counter(own) & Counter(true)).total()
    return 2 * shared / (len(own) + len(true))


def answer_scores(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Exact match and F1 of each predicted answer, float64 (answers, 2): the best over its gold answers.

    Args:
        predicted: empty for no answer.
        gold: one answer or several each; none where there is no answer, which only an empty prediction matches. Gold
            answers of nothing but articles and punctuation count where there are no others, as an empty one.
    """
    found = np.zeros((len(predicted), 2))
    for row, (one, answers) in enumerate(zip(predicted, gold, strict=True)):
        own = normalized(one)
        true = [text for answer in answers if (text := normalized(answer))] or [""]
        found[row] = max(own == text for text in true), max(answer_f1(own, text) for text in true)
    return found


def best_threshold(margins: NDArray[np.float64], answered: NDArray[np.float64], empty: NDArray[np.float64]) -> float:
    """The threshold with the highest mean score: a question with a margin above it has no answer.

    Args:
        margins: how much higher no answer scores than the best one, (questions,).
        answered: the score of each question's best answer, (questions,).
        empty: the score of no answer, (questions,).
    """
    order = np.argsort(margins, kind="stable")
    sorted_margins = margins[order]
    # Of the first k questions the answer is given, of the others none.
    totals = np.concatenate([[0.0], np.cumsum(answered[order])]) + empty.sum()
    totals -= np.concatenate([[0.0], np.cumsum(empty[order])])
    possible = np.concatenate([[True], sorted_margins[1:] > sorted_margins[:-1], [True]])
    count = int(np.argmax(np.where(possible, totals, -np.inf)))
    finite = sorted_margins[np.isfinite(sorted_margins)]
    if not len(finite):
        return 0.0
    low = sorted_margins[count - 1] if count else finite[0] - 1.0
    high = sorted_margins[count] if count < len(order) else finite[-1] + 1.0
    return float((max(low, finite[0] - 1.0) + min(high, finite[-1] + 1.0)) / 2)
