"""Metrics of numbers, of lists of labels and of pairs against scikit-learn and scipy, on random inputs and at edges."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from bertwright.evaluate.significance import difference, interval, scores
from bertwright.tasks.baselines_pairs import Overlap, crossed
from bertwright.tasks.multi_label import MultiLabel, with_thresholds
from bertwright.tasks.regression import Regression
from bertwright.tasks.resampling import Units, resample_rows
from bertwright.tasks.sequence import Classification
from bertwright.tasks.thresholds import best_thresholds

REGRESSION, MULTI = Regression(), MultiLabel()


def numbers(seed, rows=80):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, rows) / rng.choice([1, 2])  # many are equal, as in STS-B
    return (labels + rng.normal(0, 1 + seed, rows)).astype(np.float32).round(1), labels.astype(np.float64)


def several(seed, rows=60, width=5):
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, width)) < rng.uniform(0.05, 0.6, width)).astype(np.int64)
    probabilities = np.clip(labels * 0.3 + rng.random((rows, width)) * 0.7, 0, 1).astype(np.float32).round(2)
    return with_thresholds(probabilities, rng.uniform(0.2, 0.8, width)), labels


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_numbers_are_those_of_scipy(seed):
    predictions, labels = numbers(seed)
    exact = predictions.astype(np.float64)
    assert REGRESSION.metrics(predictions, labels) == pytest.approx(
        {
            "spearman": stats.spearmanr(exact, labels).statistic,
            "pearson": stats.pearsonr(exact, labels).statistic,
            "rmse": reference.root_mean_squared_error(labels, exact),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_numbers_that_are_all_equal_have_no_correlation(value):
    labels = np.array([1.0, 2.0, 4.0])
    found = REGRESSION.metrics(np.full(3, value, np.float32), labels)
    assert (found["spearman"], found["pearson"]) == (0, 0)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        REGRESSION.metrics(np.array([np.nan, 1.0]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="one shape"):
        REGRESSION.metrics(np.ones((2, 1)), np.array([1.0, 2.0]))


@pytest.mark.parametrize("units", [Units(80), Units(80, np.arange(80) // 3)])
def test_resamples_of_numbers_are_their_metrics_anew(units):
    predictions, labels = numbers(1)
    fast = REGRESSION.resampled(predictions, labels, units, 20, 3)
    slow = resample_rows(REGRESSION.metrics, predictions, labels, units, 20, 3)
    assert fast.keys() == slow.keys()
    for name, values in slow.items():
        assert fast[name] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_labels_are_those_of_scikit_learn(seed):
    predictions, labels = several(seed)
    chosen = predictions[:, 0] >= predictions[:, 1]
    present = labels.any(axis=0)
    assert MULTI.metrics(predictions, labels) == pytest.approx(
        {
            "macro_f1": reference.f1_score(labels, chosen, average="macro", zero_division=np.nan),
            "micro_f1": reference.f1_score(labels, chosen, average="micro"),
            "average_precision": reference.average_precision_score(labels[:, present], predictions[:, 0][:, present]),
        },
        abs=1e-12,
    )


def test_a_label_that_nobody_has_is_left_out_of_means():
    predictions = with_thresholds(np.array([[0.9, 0.1], [0.2, 0.1]], np.float32), [0.5, 0.5])
    labels = np.array([[1, 0], [0, 0]])
    assert MULTI.metrics(predictions, labels) == {"macro_f1": 1, "micro_f1": 1, "average_precision": 1}
    assert MULTI.metrics(with_thresholds(predictions[:, 0], [1.0, 1.0]), np.zeros((2, 2), np.int64)) == {}


@pytest.mark.parametrize("only", [None, "macro_f1"])
def test_resamples_of_labels_are_their_metrics_anew(only):
    predictions, labels = several(2, rows=20)
    fast = MULTI.resampled(predictions, labels, Units(20), 20, 3, only)
    slow = resample_rows(MULTI.metrics, predictions, labels, Units(20), 20, 3)
    for name in fast:
        np.testing.assert_allclose(fast[name], slow[name], atol=1e-9)
    assert list(fast) == ([only] if only else list(slow))


@pytest.mark.parametrize("classes", [2, 4])
def test_matthews_and_its_resamples_are_those_of_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    probabilities, labels = rng.dirichlet(np.ones(classes), 50).astype(np.float32), rng.integers(0, classes, 50)
    expected = reference.matthews_corrcoef(labels, probabilities.argmax(axis=1))
    task = Classification()
    assert task.metrics(probabilities, labels)["matthews"] == pytest.approx(expected, abs=1e-12)
    fast = task.resampled(probabilities, labels, Units(50), 20, 0)["matthews"]
    slow = resample_rows(task.metrics, probabilities, labels, Units(50), 20, 0)["matthews"]
    assert fast == pytest.approx(slow, abs=1e-9)
    one = np.zeros(50, np.int64)
    assert task.metrics(probabilities, one)["matthews"] == 0


def test_intervals_keep_within_the_bounds_of_their_metric():
    predictions, labels = numbers(0, rows=12)
    found = scores(REGRESSION, predictions, labels)
    assert 0 < found["rmse_low"] < found["rmse"] < found["rmse_high"]
    assert -1 < found["spearman_low"] < found["spearman"] < found["spearman_high"] < 1
    low, high = interval(np.array([[0.0], [4.0]] * 50), np.array([1.0]), 5, (0.0, np.inf))
    assert low > 0
    assert low * high == pytest.approx(1)


def test_paired_differences_of_numbers_tell_a_better_system():
    predictions, labels = numbers(0)
    found = difference(REGRESSION, labels, predictions, np.zeros(len(labels), np.float32))
    assert found["difference"] == pytest.approx(REGRESSION.metrics(predictions, labels)["spearman"])
    assert found["low"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_are_the_best_of_all(seed):
    predictions, labels = several(seed)
    found = best_thresholds(predictions[:, 0], labels)

    def f1(threshold, scores, true):
        return reference.f1_score(true, scores >= threshold, zero_division=0.0)

    candidates = np.linspace(0, 1, 201, dtype=np.float32)
    for k in range(labels.shape[1]):
        own, true = predictions[:, 0, k], labels[:, k]
        if true.sum() >= 10:
            assert f1(found[k], own, true) == max(f1(one, own, true) for one in candidates)
    flat = predictions[:, 0].ravel(), labels.ravel()
    few = found[labels.sum(axis=0) < 10]
    best = max(f1(one, *flat) for one in candidates)
    assert all(f1(one, *flat) == pytest.approx(best) for one in few)


def test_without_labels_a_threshold_is_a_half():
    assert best_thresholds(np.random.default_rng(0).random((9, 2), np.float32), np.zeros((9, 2))).tolist() == [0.5, 0.5]


def test_the_task_takes_the_thresholds_of_the_validation_set():
    predictions, labels = several(1)
    task, tuned = MULTI.tuned(predictions, labels)
    assert task.thresholds == pytest.approx(best_thresholds(predictions[:, 0], labels))
    assert MULTI.metrics(tuned, labels)["macro_f1"] >= MULTI.metrics(predictions, labels)["macro_f1"]
    assert task.notes()["label_thresholds"] == list(task.thresholds)


def test_crossed_features_name_what_meets():
    found = crossed(("A man sleeps.", "A woman sleeps."))
    assert {"1 man", "2 woman", "1 a man", "both sleeps", "only1 man", "only2 woman", "man | woman"} <= set(found)
    assert "man | sleeps" not in found, "words of both are not crossed"
    assert "both 猫" in crossed(("猫", "猫が"), characters=True)


def test_overlap_is_that_of_plain_sets():
    train = [("a b c 1", "b c d 2"), ("x y", "x y")]
    overlap = Overlap(train)(train)
    assert overlap.shape == (2, 9)
    assert overlap[1] == pytest.approx([1] * 7 + [0, 0])
    assert overlap[0, 1:4] == pytest.approx([2 / 4, 2 / 4, 2 / 6])  # words
    assert overlap[0, 4:7] == pytest.approx([1 / 3, 1 / 3, 1 / 5])  # b c
    assert overlap[0, 7] == 2  # 1 and 2 differ
