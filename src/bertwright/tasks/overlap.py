"""Baselines that read nothing but which words two texts share: for answers in a context, and for choices."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertwright.text.records import Record
from bertwright.text.word_runs import word_pattern

Floats64 = NDArray[np.float64]

_REACH = 10
"""Words on either side within which a word of the question speaks for a place."""


def rarities(texts: Iterable[str]) -> dict[str, float]:
    """The inverse document frequency of each word: log((1 + texts) / (1 + texts with it)) + 1."""
    counts: Counter[str] = Counter()
    number = 0
    for text in texts:
        number += 1
        counts.update(set(_words(text)))
    return {word: float(np.log((1 + number) / (1 + count)) + 1) for word, count in counts.items()}


def _words(text: str) -> list[str]:
    return word_pattern().findall(text.lower())


def sliding_window(train: Sequence[Record], test: Sequence[Record]) -> tuple[Floats64, Floats64]:
    """The span of each context in whose neighbourhood the rarest words of its question stand.

    All spans of a context have the number of words that is the median of train's answers. A place's score is the sum of
    the rarities (IDF) of the question's words near to it, each divided by the distance; a word of the question itself
    answers nothing.

    Returns:
        Of train and of test, float64 (records, 3): first character, the place after the last, and the margin of no
        answer, which is less the higher the score is as a fraction of the question's rarities.
    """
    known = rarities(dict.fromkeys(record.text for record in train))
    unknown = max(known.values(), default=1.0)
    lengths = [len(_words(record.answers[0][0])) for record in train if record.answers]
    size = max(1, round(float(np.median(lengths)))) if lengths else 1
    weights = 1.0 / np.maximum(np.abs(np.arange(-_REACH, _REACH + 1)), 1)

    def best(record: Record) -> tuple[float, float, float]:
        places = list(word_pattern().finditer(record.text))
        if not places:
            return 0.0, 0.0, np.inf
        asked = dict.fromkeys(_words(record.text_pair or ""))
        worth = {word: known.get(word, unknown) for word in asked}
        near = np.array([worth.get(place.group().lower(), 0.0) for place in places])
        score = np.convolve(near, weights)[_REACH:-_REACH]
        score[near > 0] -= sum(worth.values())
        width = min(size, len(places))
        sums = np.convolve(score, np.ones(width), "valid") / width
        first = int(sums.argmax())
        return (
            float(places[first].start()),
            float(places[first + width - 1].end()),
            -float(sums[first]) / max(sum(worth.values()), 1e-9),
        )

    own, found = ([best(record) for record in records] for records in (train, test))
    return np.array(own).reshape(-1, 3), np.array(found).reshape(-1, 3)


def shared_words(train: Sequence[Record], test: Sequence[Record]) -> list[Floats64]:
    """For each record how much of each choice stands in the context, in [0, 1]: words and pairs of them, by rarity.

    Args:
        train: whose contexts and choices say how rare a word is.
        test: with contexts and choices.
    """
    known = rarities(text for record in train for text in (record.text, *(record.choices or ())))
    unknown = max(known.values(), default=1.0)

    def worth(gram: Any) -> float:
        return sum(known.get(word, unknown) for word in gram)

    found = []
    for record in test:
        context = _grams(record.text)
        scores = []
        for choice in record.choices or ():
            grams = _grams(choice)
            scores.append(sum(map(worth, grams & context)) / max(sum(map(worth, grams)), 1e-9))
        found.append(np.array(scores))
    return found


def _grams(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {*((word,) for word in words), *itertools.pairwise(words)}
