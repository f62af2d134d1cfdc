"""The classical systems learn, are ordinary scikit-learn estimators, and reproduce the published table on IMDB."""

import json
import lzma
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone

from bertwright.tasks.baselines import SYSTEMS, LogCountRatio, fit_and_predict, splits_words
from bertwright.tasks.sequence import Classification

IMDB = os.environ.get("BERTWRIGHT_IMDB")

OPENINGS = ["The film", "This picture", "Her second feature", "The whole thing", "What we get here", "The ending"]
PRAISE = [
    "is wonderful and moving",
    "was a joy from start to finish",
    "is superb, with great acting",
    "is not bad at all",
]
BLAME = ["is dreadful and dull", "was a waste of two hours", "is awful, with wooden acting", "is not good at all"]
SHRUG = ["is about average", "was fine for a rainy evening", "is neither fish nor fowl", "is an ordinary affair"]


def reviews(*kinds):
    texts = [f"{opening} {ending}." for endings in kinds for ending in endings for opening in OPENINGS]
    labels = [label for label, endings in enumerate(kinds) for _ in range(len(endings) * len(OPENINGS))]
    return texts, labels


def brute_force_ratios(rows, labels, alpha):
    """Wang and Manning's formula, feature by feature, with plain Python numbers."""
    features = len(rows[0])
    p = [alpha + sum(row[j] for row, label in zip(rows, labels, strict=True) if label == 1) for j in range(features)]
    q = [alpha + sum(row[j] for row, label in zip(rows, labels, strict=True) if label == 0) for j in range(features)]
    return [math.log((p[j] / sum(p)) / (q[j] / sum(q))) for j in range(features)]


@given(
    st.integers(1, 6).flatmap(
        lambda width: st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=2, max_size=8)
    ),
    st.sampled_from([0.1, 1.0, 2.5]),
)
@settings(max_examples=80, deadline=None, derandomize=True)
@pytest.mark.slow
def test_the_weights_are_wang_and_mannings_log_count_ratios(rows, alpha):
    labels = [index % 2 for index in range(len(rows))]
    expected = brute_force_ratios(rows, labels, alpha)
    dense = np.array(rows, dtype=float)
    weights = LogCountRatio(alpha=alpha).fit(sparse.csr_array(dense), labels)
    assert weights.ratio_ == pytest.approx(expected)
    assert weights.transform(sparse.csr_array(dense)).toarray() == pytest.approx(dense * np.array(expected))
    assert LogCountRatio(alpha=alpha).fit_transform(dense, labels) == pytest.approx(dense * np.array(expected))


def test_a_word_of_good_reviews_weighs_up_and_a_word_of_bad_ones_down():
    texts, labels = reviews(BLAME, PRAISE)
    pipeline = SYSTEMS["nb_logistic_regression"]().fit(texts, labels)
    words = pipeline.named_steps["presence"].vocabulary_
    ratio = pipeline.named_steps["classifier"].estimators_[0].named_steps["weights"].ratio_
    assert ratio[words["wonderful"]] > 0.5
    assert ratio[words["dreadful"]] < -0.5
    assert abs(ratio[words["film"]]) < 0.1
    # The pair carries what neither of its words does alone.
    assert ratio[words["not good"]] < -0.5 < 0.5 < ratio[words["not bad"]]


def test_weights_are_an_ordinary_estimator_that_clones_and_changes_parameters():
    weights = LogCountRatio(alpha=0.5)
    assert weights.get_params() == {"alpha": 0.5}
    assert vars(weights) == {"alpha": 0.5}
    copy = clone(weights).set_params(alpha=2.0)
    assert copy.alpha == 2.0
    assert weights.alpha == 0.5
    assert weights.fit(np.eye(2), [0, 1]) is weights
    assert not hasattr(clone(weights), "ratio_")


def test_weights_keep_single_precision_and_sparsity():
    counts = sparse.csr_array(np.eye(3, dtype=np.float32))
    scaled = LogCountRatio().fit(counts, [0, 1, 1]).transform(counts)
    assert sparse.issparse(scaled)
    assert scaled.dtype == np.float32


def test_weights_refuse_three_classes_and_other_features_than_they_were_fitted_on():
    with pytest.raises(ValueError, match="two classes"):
        LogCountRatio().fit(np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="features"):
        LogCountRatio().fit(np.eye(2), [0, 1]).transform(np.eye(3))


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_builds_anew_each_time_and_clones(name):
    assert SYSTEMS[name]() is not SYSTEMS[name]()
    assert str(clone(SYSTEMS[name]())) == str(SYSTEMS[name]())


@pytest.mark.parametrize("kinds", [(BLAME, PRAISE), (BLAME, PRAISE, SHRUG)], ids=["two classes", "three classes"])
def test_every_system_learns_reviews_and_returns_one_probability_per_class(kinds):
    texts, labels = reviews(*kinds)
    told = []
    predictions = fit_and_predict(texts[::2], labels[::2], texts[1::2], progress=told.append)
    assert list(predictions) == list(SYSTEMS)
    assert [line.partition(":")[0] for line in told] == list(SYSTEMS)
    for probabilities in predictions.values():
        assert probabilities.shape == (len(texts) // 2, len(kinds))
        assert probabilities.dtype == np.float32
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert (probabilities.argmax(axis=1) == labels[1::2]).mean() > 0.9


CHINESE = [f"这部电影{word}，我{end}" for word in ("很好看", "太精彩了", "好得很") for end in ("喜欢", "推荐", "笑了")]
CHINESE_BAD = [
    f"这部电影{word}，我{end}" for word in ("很难看", "太糟糕了", "差得很") for end in ("睡着", "后悔", "走了")
]


def test_where_spaces_part_no_words_ngrams_are_of_characters_and_say_so():
    texts, labels = CHINESE + CHINESE_BAD, [1] * len(CHINESE) + [0] * len(CHINESE_BAD)
    predictions = fit_and_predict(texts, labels, texts)
    assert list(predictions) == [f"{name}_characters" for name in SYSTEMS]
    for probabilities in predictions.values():
        assert (probabilities.argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("The film was a joy.", True),
        ("L'été, le café était fermé; Straße, Übermut.", True),
        ("Фильм был скучный и длинный.", True),
        ("이 영화는 정말 재미있어요.", True),
        ("כל הסרט היה נהדר", True),
        ("这部电影很好看，我喜欢。", False),
        ("この映画はとても面白い。", False),
        ("ภาพยนตร์เรื่องนี้สนุกมาก", False),
        ("यह फ़िल्म बहुत अच्छी थी", False),
    ],
)
def test_which_scripts_part_their_words(text, splits):
    assert splits_words([text]) is splits


def test_a_system_that_finds_no_shared_word_leaves_itself_out_with_the_reason():
    told = []
    found = fit_and_predict(["alpha", "beta", "gamma", "delta"], [0, 1, 0, 1], ["alpha"], progress=told.append)
    assert found["naive_bayes"].shape == (1, 2)
    for name in ("logistic_regression", "nb_logistic_regression"):
        assert found[name] == "no two of the labelled texts share a word, so it has nothing to learn from"
    assert "left out" in told[-1]
    assert all(isinstance(why, str) for why in fit_and_predict(["!", "?"], [0, 1], ["!"]).values())


def test_the_same_texts_give_the_same_probabilities():
    texts, labels = reviews(BLAME, PRAISE)
    first, second = (fit_and_predict(texts, labels, texts) for _ in range(2))
    for name in SYSTEMS:
        assert np.array_equal(first[name], second[name])


@pytest.mark.parametrize("labels", [[0, 0], [1, 2], [0, 2]])
def test_labels_that_are_not_zero_one_and_so_on_are_refused(labels):
    with pytest.raises(ValueError, match="train labels"):
        fit_and_predict(["good film", "bad film"], labels, ["film"])


@pytest.mark.skipif(
    IMDB is None,
    reason="SKIPPED: IMDB's table is not reproduced; BERTWRIGHT_IMDB, a folder with its train.jsonl.xz and "
    "test.jsonl.xz, is not set",
)
def test_the_published_imdb_table_is_reproduced():
    published = {
        "naive_bayes": (0.8136, 0.8006),
        "logistic_regression": (0.9053, 0.9054),
        "nb_logistic_regression": (0.9182, 0.9186),
    }
    texts, labels = {}, {}
    for part in ("train", "test"):
        with lzma.open(Path(IMDB) / f"{part}.jsonl.xz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        texts[part], labels[part] = [row["text"] for row in rows], [row["label"] for row in rows]
    start = time.perf_counter()
    predictions = fit_and_predict(texts["train"], labels["train"], texts["test"])
    assert time.perf_counter() - start < 600
    for name, (accuracy, f1) in published.items():
        scores = Classification().metrics(predictions[name], np.array(labels["test"]))
        assert scores["accuracy"] == pytest.approx(accuracy, abs=0.005), name
        assert scores["f1"] == pytest.approx(f1, abs=0.005), name
