"""Metrics of rankings, against scikit-learn and plain loops, and their intervals."""

import math

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from bertwright.evaluate.retrieval import METRICS, metrics, with_intervals
from bertwright.tasks.resampling import Units

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((40, 30))
RANKINGS = [np.argsort(-row, kind="stable") for row in SCORES]
ONE = [RNG.integers(0, 30, 1) for _ in range(40)]
SEVERAL = [RNG.choice(30, count, replace=False) for count in [*range(1, 21), *range(1, 21)]]


def relevant(right):
    """1 for each right text of a question, (questions, 30)."""
    return np.array([[float(text in own) for text in range(30)] for own in right])


@pytest.mark.parametrize("right", [ONE, SEVERAL], ids=["one", "several"])
def test_ndcg_is_scikit_learn_s(right):
    found = metrics(RANKINGS, right)["ndcg_10"]
    assert found.mean() == pytest.approx(ndcg_score(relevant(right), SCORES, k=10))
    for row in range(40):
        only = slice(row, row + 1)
        assert found[row] == pytest.approx(ndcg_score(relevant(right)[only], SCORES[only], k=10))


@pytest.mark.parametrize("right", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize(("name", "k"), [("recall_1", 1), ("recall_10", 10)])
def test_recall_is_the_fraction_of_the_right_texts_among_the_first(right, name, k):
    expected = [
        len(set(own.tolist()) & set(sorted(range(30), key=lambda n: -row[n])[:k])) / len(own)
        for row, own in zip(SCORES, right, strict=True)
    ]
    assert metrics(RANKINGS, right)[name].tolist() == pytest.approx(expected)
    assert 0 < sum(expected) < 40


def test_the_reciprocal_rank_is_that_of_the_first_right_text_up_to_ten():
    expected = []
    for ranking, own in zip(RANKINGS, SEVERAL, strict=True):
        places = [place for place, text in enumerate(ranking[:10], 1) if text in own]
        expected.append(1 / places[0] if places else 0)
    assert metrics(RANKINGS, SEVERAL)["mrr_10"].tolist() == expected
    # With one right text, and without a limit of ten, scikit-learn has it under another name.
    within = [(scores, own) for scores, own in zip(SCORES, ONE, strict=True) if (scores > scores[own]).sum() < 10]
    scores, right = np.array([one for one, _ in within]), [own for _, own in within]
    mean = metrics([np.argsort(-row) for row in scores], right)["mrr_10"].mean()
    assert mean == pytest.approx(label_ranking_average_precision_score(relevant(right), scores))


def test_a_ranking_may_be_short_and_a_text_that_is_missing_is_not_found():
    found = metrics([np.array([7, 3]), np.array([], int)], [np.array([3]), np.array([3])])
    expected = {"ndcg_10": 1 / math.log2(3), "recall_1": 0, "recall_10": 1, "mrr_10": 0.5}
    assert {name: values.tolist() for name, values in found.items()} == {
        name: pytest.approx([value, 0]) for name, value in expected.items()
    }
    assert found.keys() == METRICS.keys()


def test_intervals_draw_whole_groups_and_hold_the_mean():
    values = {"recall_1": np.repeat(RNG.integers(0, 2, 12).astype(float), 5)}
    by_group = with_intervals(values, Units(60, np.repeat(np.arange(12), 5)))["recall_1"]
    by_question = with_intervals(values, Units(60))["recall_1"]
    assert by_group["mean"] == pytest.approx(values["recall_1"].mean())
    assert by_group["low"] < by_question["low"] < by_group["mean"] < by_question["high"] < by_group["high"]


def test_a_difference_to_itself_is_nothing_and_a_constant_one_is_sure():
    values = {"recall_1": RNG.integers(0, 2, 60).astype(float)}
    groups = Units(60, np.arange(60) % 10)
    assert with_intervals(values, groups, values)["recall_1"] == {"mean": 0, "low": 0, "high": 0}
    more = {"recall_1": values["recall_1"] + 0.25}
    found = with_intervals(more, groups, values)["recall_1"]
    assert [found[key] for key in ("low", "mean", "high")] == pytest.approx([0.25] * 3)
