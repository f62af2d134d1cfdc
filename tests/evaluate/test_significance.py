"""Scores agree with scikit-learn on any labels; intervals behave as bootstrap intervals must."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from bertwright.evaluate.significance import classification_scores, f1_difference, mean_and_spread


@st.composite
def judged_rows(draw, classes=None):
    """Labels and coarse probabilities (so that ties are common), any balance, any number of classes."""
    classes = classes or draw(st.integers(2, 4))
    rows = draw(st.integers(1, 40))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    cells = draw(st.lists(st.integers(0, 5), min_size=rows * classes, max_size=rows * classes))
    return np.array(labels), np.array(cells, dtype=float).reshape(rows, classes) / 5


@given(judged_rows())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_point_scores_equal_those_of_scikit_learn(rows):
    labels, probabilities = rows
    classes = probabilities.shape[1]
    ours = classification_scores(labels, probabilities, bootstrap_samples=0)
    predicted = probabilities.argmax(axis=1)
    how = {"average": "binary"} if classes == 2 else {"average": "macro", "labels": list(range(classes))}
    precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted, zero_division=0, **how)
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx((precision, recall, f1))
    expected = reference.confusion_matrix(labels, predicted, labels=range(classes))
    assert ours["confusion"] == expected.tolist()
    assert ours["count"] == len(labels)


@given(judged_rows())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_roc_auc_equals_that_of_scikit_learn_also_with_ties_and_absent_classes(rows):
    labels, probabilities = rows
    ours = classification_scores(labels, probabilities, bootstrap_samples=0)
    columns = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [
        reference.roc_auc_score(labels == column, probabilities[:, column])
        for column in columns
        if 0 < (labels == column).sum() < len(labels)
    ]
    assert ours.get("roc_auc") == (pytest.approx(np.mean(areas)) if areas else None)


@given(judged_rows())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_score_is_valid_json_and_every_interval_lies_in_zero_to_one(rows):
    scores = classification_scores(*rows, bootstrap_samples=20)
    json.dumps(scores, allow_nan=False)
    for name in ("accuracy", "f1", "roc_auc"):
        if f"{name}_low" in scores:
            assert 0 <= scores[f"{name}_low"] <= scores[f"{name}_high"] <= 1


def noisy(rows, seed, sharpness=1.0, classes=2):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + sharpness * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_equal_those_of_a_plain_bootstrap_over_rows(classes):
    labels, probabilities = noisy(400, 1, classes=classes)
    ours = classification_scores(labels, probabilities, bootstrap_samples=4000, seed=2)
    generator = np.random.default_rng(3)
    plain = {"accuracy": [], "f1": [], "roc_auc": []}
    for _ in range(600):
        rows = generator.integers(0, len(labels), len(labels))
        one = classification_scores(labels[rows], probabilities[rows], bootstrap_samples=0)
        for name, values in plain.items():
            values.append(one[name])
    for name, values in plain.items():
        low, high = np.percentile(values, [2.5, 97.5])
        width = high - low
        assert ours[f"{name}_low"] == pytest.approx(low, abs=0.15 * width)
        assert ours[f"{name}_high"] == pytest.approx(high, abs=0.15 * width)


def test_intervals_cover_the_true_accuracy_about_95_times_in_100():
    truth = classification_scores(*noisy(400_000, 99), bootstrap_samples=0)["accuracy"]
    hits = 0
    for seed in range(200):
        scores = classification_scores(*noisy(300, seed), bootstrap_samples=200, seed=seed)
        hits += scores["accuracy_low"] <= truth <= scores["accuracy_high"]
    assert 0.89 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_intervals_and_another_seed_gives_others():
    rows = noisy(500, 0)
    first, again, other = (classification_scores(*rows, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first["f1_low"] != other["f1_low"]
    assert first["f1"] == other["f1"]


def test_twenty_five_thousand_rows_take_less_than_three_seconds():
    labels, probabilities = noisy(25_000, 0)
    start = time.process_time()
    classification_scores(labels, probabilities)
    assert time.process_time() - start < 3


def test_a_test_set_with_one_class_has_no_roc_auc_rather_than_a_nan():
    scores = classification_scores([1, 1, 1], [[0.2, 0.8], [0.9, 0.1], [0.3, 0.7]])
    assert "roc_auc" not in scores
    assert "roc_auc_low" not in scores
    assert scores["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([], np.zeros((0, 2))),
        ([0, 1], [[0.1, 0.9]]),
        ([0, 2], [[0.1, 0.9], [0.5, 0.5]]),
        ([0, -1], [[0.1, 0.9], [0.5, 0.5]]),
        ([0, 1], [[float("nan"), 0.9], [0.5, 0.5]]),
        ([0, 1], [0.1, 0.9]),
        ([0], [[1.0]]),
    ],
)
def test_arrays_that_cannot_be_judged_are_refused(labels, probabilities):
    with pytest.raises(ValueError, match=r"labels|probabilities"):
        classification_scores(labels, probabilities)


def test_the_paired_difference_is_the_difference_of_the_two_f1_scores():
    labels, first = noisy(2000, 0, sharpness=2.0)
    _, second = noisy(2000, 0, sharpness=1.0)
    paired = f1_difference(labels, first, second)
    scores = [classification_scores(labels, system, bootstrap_samples=0)["f1"] for system in (first, second)]
    assert paired["difference"] == pytest.approx(scores[0] - scores[1])
    assert 0 < paired["low"] < paired["difference"] < paired["high"]
    mirrored = f1_difference(labels, second, first)
    assert mirrored["difference"] == pytest.approx(-paired["difference"])
    assert mirrored["high"] < 0


def test_the_paired_interval_of_a_system_with_itself_is_zero():
    labels, system = noisy(300, 4)
    assert f1_difference(labels, system, system) == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_the_paired_interval_is_tighter_than_the_two_separate_ones_for_systems_that_mostly_agree():
    labels, first = noisy(4000, 7, sharpness=1.0)
    second = first.copy()
    second[:80] = second[:80, ::-1]
    paired = f1_difference(labels, first, second)
    alone = classification_scores(labels, first)
    assert paired["high"] - paired["low"] < 0.5 * (alone["f1_high"] - alone["f1_low"])


def test_mean_and_spread_is_the_sample_mean_and_standard_deviation():
    assert mean_and_spread([0.9, 0.92, 0.94]) == pytest.approx({"mean": 0.92, "std": 0.02, "n": 3})
    assert mean_and_spread([0.9]) == {"mean": 0.9, "std": 0.0, "n": 1}
    with pytest.raises(ValueError, match="at least one score"):
        mean_and_spread([])
