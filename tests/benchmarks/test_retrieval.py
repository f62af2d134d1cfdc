"""What the benchmark on retrieval ranks, correlates and prints; its metrics are those of `evaluate/retrieval.py`."""

import numpy as np
import pytest
from scipy.stats import rankdata

import retrieval
from bertwright.evaluate.retrieval import METRICS, metrics

RNG = np.random.default_rng(0)


def test_a_paragraph_that_shares_no_word_is_not_found():
    _, rankings = retrieval.by_words(["a boat", "nothing known"], ["Bread.", "The boat.", "Rain."])
    assert [ranking.tolist() for ranking in rankings] == [[1], []]
    found = metrics(rankings, np.array([[1], [0]]))
    assert {name: values.tolist() for name, values in found.items()} == {name: [1.0, 0.0] for name in METRICS}


def test_equal_questions_and_paragraphs_are_told_apart_by_their_numbers():
    rows = [{"question": q, "context": c, "title": t} for q, c, t in ("aPx", "bQx", "aPx", "cRy")]
    questions, paragraphs, right, articles = retrieval.questions_of(rows)
    assert (questions, paragraphs) == (["a", "b", "a", "c"], ["P", "Q", "R"])
    assert (right.tolist(), articles.tolist()) == ([0, 1, 0, 2], [0, 0, 0, 1])


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
