"""The figures of the benchmark on retrieval, against scikit-learn and plain loops."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import ndcg_score

import retrieval
from bertwright.tasks.resampling import Units

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((40, 30))
RIGHT = RNG.integers(0, 30, 40)
RANKINGS = [np.argsort(-row, kind="stable") for row in SCORES]


def test_ndcg_is_scikit_learn_s():
    found = retrieval.measures(RANKINGS, RIGHT)["ndcg_10"]
    relevant = np.eye(30)[RIGHT]
    assert found.mean() == pytest.approx(ndcg_score(relevant, SCORES, k=10))
    for row in range(40):
        assert found[row] == pytest.approx(ndcg_score(relevant[row : row + 1], SCORES[row : row + 1], k=10))


@pytest.mark.parametrize(("name", "k"), [("recall_1", 1), ("recall_10", 10)])
def test_recall_is_whether_the_paragraph_is_among_the_first(name, k):
    expected = [
        float(right in sorted(range(30), key=lambda n: -row[n])[:k]) for row, right in zip(SCORES, RIGHT, strict=True)
    ]
    assert retrieval.measures(RANKINGS, RIGHT)[name].tolist() == expected
    assert 0 < sum(expected) < 40


def test_a_paragraph_that_shares_no_word_is_not_found():
    _, rankings = retrieval.by_words(["a boat", "nothing known"], ["Bread.", "The boat.", "Rain."])
    assert [ranking.tolist() for ranking in rankings] == [[1], []]
    found = retrieval.measures(rankings, np.array([1, 0]))
    assert {name: values.tolist() for name, values in found.items()} == {name: [1.0, 0.0] for name in found}


def test_equal_questions_and_paragraphs_are_told_apart_by_their_numbers():
    rows = [{"question": q, "context": c, "title": t} for q, c, t in ("aPx", "bQx", "aPx", "cRy")]
    questions, paragraphs, right, articles = retrieval.questions_of(rows)
    assert (questions, paragraphs) == (["a", "b", "a", "c"], ["P", "Q", "R"])
    assert (right.tolist(), articles.tolist()) == ([0, 1, 0, 2], [0, 0, 0, 1])


def test_intervals_draw_whole_articles_and_hold_the_mean():
    values = {"recall_1": np.repeat(RNG.integers(0, 2, 12).astype(float), 5)}
    by_article = retrieval.measured(values, Units(60, np.repeat(np.arange(12), 5)))["recall_1"]
    by_question = retrieval.measured(values, Units(60))["recall_1"]
    assert by_article["mean"] == pytest.approx(values["recall_1"].mean())
    assert by_article["low"] < by_question["low"] < by_article["mean"] < by_question["high"] < by_article["high"]


def test_a_difference_to_itself_is_nothing_and_a_constant_one_is_sure():
    values = {"recall_1": RNG.integers(0, 2, 60).astype(float)}
    groups = Units(60, np.arange(60) % 10)
    assert retrieval.measured(values, groups, values)["recall_1"] == {"mean": 0, "low": 0, "high": 0}
    more = {"recall_1": values["recall_1"] + 0.25}
    found = retrieval.measured(more, groups, values)["recall_1"]
    assert [found[key] for key in ("low", "mean", "high")] == pytest.approx([0.25] * 3)


def test_the_rank_correlation_is_that_of_ranks():
    first, second = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in RNG.standard_normal((2, 25, 4)))
    rows = [{"label": float(label)} for label in RNG.integers(0, 6, 25)]
    cosines = [float(a @ b) for a, b in zip(first, second, strict=True)]
    expected = np.corrcoef(rankdata(cosines), rankdata([row["label"] for row in rows]))[0, 1]
    assert retrieval.spearman(first, second, rows) == pytest.approx(expected)


def test_the_table_says_what_was_measured():
    systems = {
        "bm25": {"stsb_spearman": None, "ndcg_10": 0.5, "recall_1": 0.4, "recall_10": 0.6, "encode_ratio": None},
        "mine": {"stsb_spearman": 0.7, "ndcg_10": 0.6, "recall_1": 0.5, "recall_10": 0.7, "encode_ratio": 2.0},
    }
    above = {"mine": {"ndcg_10": {"mean": 0.1, "low": 0.05, "high": 0.15}}}
    assert retrieval.table(systems, above).splitlines()[2:] == [
        "| mine | 0.600 | 0.500 | 0.700 | +0.100 (+0.050 to +0.150) | 0.700 |",
        "| bm25 | 0.500 | 0.400 | 0.600 |  |  |",
    ]
