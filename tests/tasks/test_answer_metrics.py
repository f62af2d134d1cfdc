"""Exact match, F1 and the threshold of no answer, against hand-computed cases and a literal reading."""

import collections
import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.tasks.answer_metrics import answer_scores, best_threshold, normalized


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("U.S.A.", "usa"),  # punctuation goes, and leaves no space
        ("theatre", "theatre"),
        ("the", ""),
        ("l'État — c’est", "létat — c’est"),  # punctuation beyond ASCII stays
        ("A-the b", "athe b"),  # punctuation goes before articles
    ],
)
def test_answers_are_normalized_as_the_official_script_does_it(answer, expected):
    assert normalized(answer) == expected


@pytest.mark.parametrize(
    ("predicted", "gold", "exact", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos"], 1, 1),
        ("Denver", ["Denver Broncos", "Broncos"], 0, 2 / 3),
        ("Broncos of Denver", ["Denver Broncos", "Broncos"], 0, 0.8),
        ("a b b c", ["b c c"], 0, 2 * 2 / (3 + 3)),  # a is an article; a word counts as often as both have it
        ("", [], 1, 1),
        ("Denver", [], 0, 0),
        ("", ["Denver"], 0, 0),
        ("the", ["an"], 1, 1),  # nothing is left of either
        ("Denver", ["the", "Denver"], 1, 1),
    ],
)
def test_the_best_of_several_gold_answers_counts(predicted, gold, exact, f1):
    assert answer_scores([predicted], [gold])[0] == pytest.approx([exact, f1])


def plainly(predicted, gold):
    """A literal reading of the official definition."""

    def words(text):
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    answers = [one for one in gold if words(one)] or [""]
    exact = max(words(one) == words(predicted) for one in answers)
    scores = []
    for one in answers:
        own, true = words(predicted), words(one)
        same = sum((collections.Counter(own) & collections.Counter(true)).values())
        if not own or not true:
            scores.append(float(own == true))
        elif same == 0:
            scores.append(0.0)
        else:
            precision, recall = same / len(own), same / len(true)
            scores.append(2 * precision * recall / (precision + recall))
    return float(exact), max(scores)


words = st.lists(st.sampled_from(["a", "the", "The", "river", "River,", "stone", "é", "-", "boat."]), max_size=5)


@settings(max_examples=200, deadline=None)
@given(words.map(" ".join), st.lists(words.map(" ".join), max_size=3))
def test_scores_equal_a_literal_reading_of_the_definition(predicted, gold):
    assert answer_scores([predicted], [gold])[0] == pytest.approx(plainly(predicted, gold))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.4, 1.0]), st.booleans()), min_size=1, max_size=9))
def test_no_threshold_scores_higher_than_the_one_that_is_chosen(rows):
    margins = np.array([float(margin) for margin, _, _ in rows])
    empty = np.array([float(is_empty) for _, _, is_empty in rows])
    answered = np.array([0.0 if is_empty else score for _, score, is_empty in rows])

    def mean(threshold):
        return np.where(margins > threshold, empty, answered).mean()

    chosen = best_threshold(margins, answered, empty)
    assert np.isfinite(chosen)
    assert mean(chosen) == pytest.approx(max(mean(place) for place in np.arange(-5, 5, 0.25)))


def test_infinite_margins_have_a_finite_threshold():
    assert best_threshold(np.array([np.inf, np.inf]), np.zeros(2), np.ones(2)) == 0.0
    chosen = best_threshold(np.array([1.0, np.inf]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert 1.0 <= chosen < np.inf
