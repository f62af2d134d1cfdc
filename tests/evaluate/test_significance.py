"""Metrics agree with plain loops on any labels; intervals behave as bootstrap intervals must, for any task."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

import interval_coverage
from bertwright.errors import UserError
from bertwright.evaluate.calibration import reliability
from bertwright.evaluate.evaluation import units_of
from bertwright.evaluate.significance import difference, mean_and_spread, scores
from bertwright.tasks.resampling import Units, parts_by_class, resample_rows, run_length
from bertwright.tasks.sequence import Classification
from bertwright.tasks.task import Task
from bertwright.text.records import Record

TASK = Classification()


@st.composite
def predicted_rows(draw, classes=None):
    """Coarse probabilities (so that ties are common) and labels, any balance, any number of classes."""
    classes = classes or draw(st.integers(2, 4))
    rows = draw(st.integers(1, 40))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    cells = draw(st.lists(st.integers(0, 5), min_size=rows * classes, max_size=rows * classes))
    return np.array(cells, dtype=float).reshape(rows, classes) / 5, np.array(labels)


def brute_force_metrics(probabilities, labels):
    """Accuracy, precision, recall, F1, area under the ROC curve, and the confusion matrix, row by row."""
    classes = probabilities.shape[1]
    predicted = [max(range(classes), key=lambda k: (row[k], -k)) for row in probabilities]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    confusion = [[pairs.count((true, said)) for said in range(classes)] for true in range(classes)]
    ratios, areas = [], []
    for k in [1] if classes == 2 else range(classes):
        hits = pairs.count((k, k))
        said, true = predicted.count(k), labels.tolist().count(k)
        precision, recall = hits / said if said else 0, hits / true if true else 0
        if classes == 2 or said + true:  # a class that nobody names is in no mean
            ratios.append((precision, recall, 2 * hits / (said + true) if said + true else 0))
        positives, negatives = probabilities[labels == k, k], probabilities[labels != k, k]
        # Of all pairs of a positive and a negative, those in which the positive ranks higher; ties count one half.
        above = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
        if len(positives) and len(negatives):
            areas.append(above / (len(positives) * len(negatives)))
    names = dict(zip(("precision", "recall", "f1"), np.mean(ratios, axis=0).tolist(), strict=True))
    if classes == 2:
        present = [k for k in range(2) if predicted.count(k) + labels.tolist().count(k)]
        f1 = [2 * pairs.count((k, k)) / (predicted.count(k) + labels.tolist().count(k)) for k in present]
        names["macro_f1"] = sum(f1) / len(f1)
    accuracy = sum(true == said for true, said in pairs) / len(pairs)
    # Matthews' correlation, as that of the rows' indicators of true and predicted class, summed over classes.
    count = len(pairs)
    together, apart = 0.0, [0.0, 0.0]
    for k in range(classes):
        true, said = labels.tolist().count(k) / count, predicted.count(k) / count
        together += sum((a == k) * (b == k) for a, b in pairs) / count - true * said
        apart = [apart[0] + true * (1 - true), apart[1] + said * (1 - said)]
    names["matthews"] = together / (apart[0] * apart[1]) ** 0.5 if min(apart) > 1e-12 else 0.0
    return {"accuracy": accuracy, **names, **({"roc_auc": float(np.mean(areas))} if areas else {})}, confusion


@pytest.mark.slow
@given(predicted_rows())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_metrics_equal_those_of_plain_loops_also_with_ties_and_absent_classes(rows):
    expected, confusion = brute_force_metrics(*rows)
    found = scores(TASK, *rows, samples=0)
    assert (found.pop("confusion"), found.pop("count")) == (confusion, len(rows[1]))
    assert found == pytest.approx(expected)


@pytest.mark.slow
@given(predicted_rows())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_score_is_valid_json_and_every_interval_lies_in_zero_to_one(rows):
    found = scores(TASK, *rows, samples=20)
    json.dumps(found, allow_nan=False)
    for name in ("accuracy", "f1", "roc_auc"):
        if f"{name}_low" in found:
            assert 0 <= found[f"{name}_low"] <= found[f"{name}_high"] <= 1


def noisy(rows, seed, sharpness=1.0, classes=2):
    """Probabilities and labels of a system that is right more often than by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + sharpness * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


# Computed with the functions of version 0.1 on `noisy(500, classes, classes=classes)`, seed 1: published figures must
# not move, and intervals of single rows only by the chance of another thousand resamples.
PINNED = {
    2: {
        "accuracy": 0.766, "f1": 0.7664670658682635, "roc_auc": 0.8480724897540983,
        "accuracy_low": 0.728, "accuracy_high": 0.804,
        "f1_low": 0.7229424190267564, "f1_high": 0.8077688939653531,
        "roc_auc_low": 0.8128494012551231, "roc_auc_high": 0.8800894338094428,
    },
    3: {
        "accuracy": 0.628, "f1": 0.6266290254980312, "roc_auc": 0.8233169729028996,
        "accuracy_low": 0.584, "accuracy_high": 0.66805,
        "f1_low": 0.5815430068532053, "f1_high": 0.66726525894992,
        "roc_auc_low": 0.7958259261470378, "roc_auc_high": 0.8506877489020834,
    },
    5: {
        "accuracy": 0.488, "f1": 0.48772059462330974, "roc_auc": 0.7915975508777462,
        "accuracy_low": 0.444, "accuracy_high": 0.534,
        "f1_low": 0.44189954757614813, "f1_high": 0.5308816046101187,
        "roc_auc_low": 0.7649048282123821, "roc_auc_high": 0.8159373931345898,
    },
}  # fmt: skip
PINNED_DIFFERENCE = {
    2: {"difference": 0.08363878303998074, "low": 0.058718082950061416, "high": 0.11074238855595782},
    3: {"difference": 0.10291311644286194, "low": 0.0770519602836267, "high": 0.13124986634310185},
    5: {"difference": 0.12655183231593758, "low": 0.09858195645127371, "high": 0.1551881808354333},
}


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("classes", PINNED)
def test_figures_are_those_of_the_first_version_and_intervals_are_up_to_the_chance_of_resampling(classes, kind):
    probabilities, labels = noisy(500, classes, classes=classes)
    found = scores(TASK, probabilities.astype(kind), labels, seed=1)
    for name, value in PINNED[classes].items():
        # Areas as such come from scikit-learn now, and sum in another order.
        assert found[name] == pytest.approx(value, abs=0.008 if name.endswith(("_low", "_high")) else 1e-14), name


@pytest.mark.parametrize("classes", PINNED_DIFFERENCE)
def test_paired_intervals_are_those_of_the_first_version_up_to_the_chance_of_resampling(classes):
    first, labels = noisy(500, classes, classes=classes)
    second, _ = noisy(500, classes, 0.7, classes=classes)
    assert difference(TASK, labels, first, second, seed=1) == pytest.approx(PINNED_DIFFERENCE[classes], abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_equal_those_of_a_plain_bootstrap_over_rows(classes):
    probabilities, labels = noisy(400, 1, classes=classes)
    ours = scores(TASK, probabilities, labels, samples=4000, seed=2)
    plain = resample_rows(TASK.metrics, probabilities, labels, Units(len(labels)), samples=600, seed=3)
    for name in ("accuracy", "f1", "roc_auc"):
        low, high = np.percentile(plain[name], [2.5, 97.5])
        width = high - low
        assert ours[f"{name}_low"] == pytest.approx(low, abs=0.15 * width)
        assert ours[f"{name}_high"] == pytest.approx(high, abs=0.15 * width)


@pytest.mark.slow
def test_paired_intervals_equal_those_of_a_plain_paired_bootstrap_over_rows():
    first, labels = noisy(300, 5, sharpness=1.2)
    second, _ = noisy(300, 5, sharpness=1.0)
    ours = difference(TASK, labels, first, second, samples=4000)
    one, other = (
        resample_rows(TASK.metrics, system, labels, Units(len(labels)), samples=200, seed=6)
        for system in (first, second)
    )
    low, high = np.percentile(one["f1"] - other["f1"], [2.5, 97.5])
    assert (ours["low"], ours["high"]) == pytest.approx((low, high), abs=0.2 * (high - low))


@pytest.mark.slow
def test_intervals_cover_the_true_accuracy_about_95_times_in_100():
    truth = TASK.metrics(*noisy(400_000, 99))["accuracy"]
    hits = 0
    for seed in range(200):
        found = scores(TASK, *noisy(300, seed), samples=200, seed=seed)
        hits += found["accuracy_low"] <= truth <= found["accuracy_high"]
    assert 0.89 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_intervals_and_another_seed_gives_others():
    rows = noisy(500, 0)
    first, again, other = (scores(TASK, *rows, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first["f1_low"] != other["f1_low"]
    assert first["f1"] == other["f1"]


@pytest.mark.slow
def test_twenty_five_thousand_rows_take_less_than_five_seconds():
    rows = noisy(25_000, 0)
    TASK.metrics(*noisy(10, 0))  # loads scikit-learn
    start = time.process_time()
    scores(TASK, *rows)
    assert time.process_time() - start < 5


def test_a_test_set_with_one_class_has_no_roc_auc_rather_than_a_nan():
    found = scores(TASK, np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7]]), np.array([1, 1, 1]))
    assert "roc_auc" not in found
    assert "roc_auc_low" not in found
    assert found["accuracy"] == pytest.approx(2 / 3)


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
def test_arrays_that_have_no_metrics_are_refused(labels, probabilities):
    with pytest.raises(ValueError, match=r"labels|probabilities"):
        scores(TASK, np.array(probabilities), np.array(labels, np.int64))


def test_systems_of_different_rows_are_not_compared():
    first, labels = noisy(20, 0)
    with pytest.raises(ValueError, match="20 labels, and a system has predictions of 10 rows"):
        difference(TASK, labels, first, first[:10])


def test_the_paired_difference_is_the_difference_of_the_two_f1_scores():
    first, labels = noisy(2000, 0, sharpness=2.0)
    second, _ = noisy(2000, 0, sharpness=1.0)
    paired = difference(TASK, labels, first, second)
    f1 = [TASK.metrics(system, labels)["f1"] for system in (first, second)]
    assert paired["difference"] == pytest.approx(f1[0] - f1[1])
    assert 0 < paired["low"] < paired["difference"] < paired["high"]
    mirrored = difference(TASK, labels, second, first)
    assert mirrored["difference"] == pytest.approx(-paired["difference"])
    assert mirrored["high"] < 0


def test_the_paired_interval_of_a_system_with_itself_is_zero():
    system, labels = noisy(300, 4)
    assert difference(TASK, labels, system, system) == {"difference": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.slow
def test_the_paired_interval_is_tighter_than_the_two_separate_ones_for_systems_that_mostly_agree():
    first, labels = noisy(4000, 7, sharpness=1.0)
    second = first.copy()
    second[:80] = second[:80, ::-1]
    paired = difference(TASK, labels, first, second)
    alone = scores(TASK, first, labels)
    assert paired["high"] - paired["low"] < 0.5 * (alone["f1_high"] - alone["f1_low"])


class Regression(Task):
    """A task of another kind: labels are numbers, and so are predictions."""

    name = "regression"
    columns = ("text", "label")
    primary_metric = "negative_error"

    def metrics(self, predictions, labels):
        """Minus the mean absolute error, and the correlation."""
        return {
            "negative_error": -float(np.abs(predictions - labels).mean()),
            "correlation": float(np.corrcoef(predictions, labels)[0, 1]),
        }


def test_a_task_that_brings_only_metrics_has_intervals_and_paired_differences():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=200)
    errors = generator.normal(size=200)
    near, far = labels + 0.3 * errors, labels + 0.5 * errors
    task = Regression()
    found = scores(task, near, labels)
    assert found.keys() == {
        "negative_error", "negative_error_low", "negative_error_high", "correlation", "correlation_low",
        "correlation_high", "count",
    }  # fmt: skip
    # The mean's normal approximation is an independent reference.
    spread = 1.96 * np.abs(near - labels).std() / np.sqrt(200)
    expected = (found["negative_error"] - spread, found["negative_error"] + spread)
    assert (found["negative_error_low"], found["negative_error_high"]) == pytest.approx(expected, abs=0.1 * spread)
    paired = difference(task, labels, near, far)
    assert paired["difference"] == pytest.approx(0.2 * np.abs(errors).mean())
    assert 0 < paired["low"] < paired["difference"] < paired["high"]


class Positive(Regression):
    """A task with a metric that some predictions do not define."""

    def metrics(self, predictions, labels):
        """The mean, and that of positive predictions where there are any."""
        above = predictions[predictions > 0]
        return {"negative_error": float(predictions.mean())} | ({"above": float(above.mean())} if len(above) else {})


@pytest.mark.parametrize("order", [1, -1])
def test_a_metric_that_one_of_several_seeds_does_not_define_is_left_out(order):
    runs = [np.linspace(0.5, 1, 30), np.linspace(-1, -0.5, 30)][::order]
    found = scores(Positive(), runs, np.zeros(30), samples=20)
    assert "above" not in found
    assert found["negative_error"] == pytest.approx(0)
    assert found["negative_error_low"] < 0 < found["negative_error_high"]


def test_mean_and_spread_is_the_sample_mean_and_standard_deviation():
    assert mean_and_spread([0.9, 0.92, 0.94]) == pytest.approx({"mean": 0.92, "std": 0.02, "n": 3})
    assert mean_and_spread([0.9]) == {"mean": 0.9, "std": 0.0, "n": 1}
    with pytest.raises(ValueError, match="at least one"):
        mean_and_spread([])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_perfect_system_has_intervals_of_one_to_one_though_resamples_lack_a_class(classes):
    labels = np.array([0] * 40 + [1] * 2 + [2] * 2 * (classes - 2))
    found = scores(TASK, np.eye(classes)[labels], labels)
    for name in ("f1", "macro_f1", "accuracy") if classes == 2 else ("f1", "accuracy"):
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == (1, 1, 1), name


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 0, 1, 1, 1], [0, 1, 1, 0, 1]),
        ([0, 0, 0], [0, 0, 1]),
        ([1, 1, 1], [1, 1, 1]),
        ([0, 1, 1], [1, 1, 1]),
    ],
    ids=["both classes", "labels of one class", "one class in all", "a class never predicted"],
)
@pytest.mark.parametrize("positive", [0, 1])
def test_metrics_of_either_class_are_those_of_scikit_learn(labels, predicted, positive):
    labels, predicted = np.array(labels), np.array(predicted)
    task = TASK.about(("ham", "spam")[positive], ["ham", "spam"])
    found = task.metrics(np.eye(2)[predicted], labels)
    options = {"pos_label": positive, "zero_division": 0.0}
    assert found["precision"] == metrics.precision_score(labels, predicted, **options)
    assert found["recall"] == metrics.recall_score(labels, predicted, **options)
    assert found["f1"] == metrics.f1_score(labels, predicted, **options)
    assert found["macro_f1"] == metrics.f1_score(labels, predicted, average="macro", zero_division=0.0)


def test_the_area_of_the_first_class_is_that_of_scikit_learn_with_ties():
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    labels = np.array([0, 1, 0, 1])
    task = TASK.about("ham", ["ham", "spam"])
    expected = metrics.roc_auc_score(labels == 0, probabilities[:, 0])
    assert task.metrics(probabilities, labels)["roc_auc"] == expected
    assert scores(task, probabilities, labels)["roc_auc_high"] <= 1


def test_a_positive_label_that_is_no_class_or_one_of_three_is_refused():
    with pytest.raises(UserError, match=r"`Spam`; the classes are ham, spam"):
        TASK.about("Spam", ["ham", "spam"])
    with pytest.raises(UserError, match="have 3"):
        TASK.about("a", ["a", "b", "c"])


def test_whole_groups_and_whole_runs_are_drawn():
    groups = np.array([0, 0, 1, 2, 2, 2])
    for times in np.concatenate(list(Units(6, groups).resamples(50, 0))):
        assert times[0] == times[1]
        assert times[3] == times[4] == times[5]
        assert times[0] + times[2] + times[3] == 3
    drawn = np.concatenate(list(Units(40, length=4).resamples(2000, 0)))
    assert (drawn.sum(axis=1) == 40).all()
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert Units(40, length=4).count == 10


def test_runs_of_a_file_that_is_sorted_by_class_stay_within_a_class():
    labels = np.repeat([1, 0, 2], [50, 30, 20])
    parts = parts_by_class(labels)
    assert parts == (50, 30, 20)
    for times in np.concatenate(list(Units(100, length=10, parts=parts).resamples(50, 0))):
        assert [times[labels == label].sum() for label in (1, 0, 2)] == [50, 30, 20]
    kept = Units(100, length=10, parts=parts).kept(np.arange(100) >= 40)
    assert (kept.rows, kept.parts) == (60, (10, 30, 20))
    assert parts_by_class(np.random.default_rng(0).permutation(labels)) == ()
    assert parts_by_class(np.zeros(10, int)) == ()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[40] * 77, [1, 2, 5, 400, 3, 30, 1, 500, 9] * 3], ids=["of 40", "of 1 to 500"])
def test_intervals_of_small_classes_in_a_file_sorted_by_class_are_about_those_of_single_rows(sizes):
    generator = np.random.default_rng(0)
    classes, labels = len(sizes), np.repeat(np.arange(len(sizes)), sizes)
    easy = np.repeat(generator.uniform(0.4, 1.0, len(labels)), 4)[: len(labels)]  # alike in fours: neighbours are
    systems = []
    for worse in (0.0, 0.02):
        predicted = np.where(generator.random(len(labels)) < easy - worse, labels, generator.permutation(labels))
        systems.append(np.eye(classes, dtype=np.float32)[predicted])
    records = [Record(str(row), "text") for row in range(len(labels))]
    units = units_of(TASK, records, {"bert": systems[0]}, labels)
    assert units.length > 1
    assert units.parts
    widths = {}
    for name, drawn in (("runs", units), ("rows", Units(len(labels)))):
        apart = difference(TASK, labels, *systems, drawn, samples=300)
        alone = TASK.resampled(systems[0], labels, drawn, 300, 0, only="f1")["f1"]
        widths[name] = [apart["high"] - apart["low"], np.nanstd(alone)]
    assert all(0.75 < ours / theirs < 2 for ours, theirs in zip(*widths.values(), strict=True)), widths
    # No row is drawn the same number of times in each resample, also where rows of the test set were left out.
    rest = generator.random(len(labels)) < 0.1
    for drawn in (units, units.kept(rest), Units(len(labels), length=units.length).kept(rest)):
        assert (np.concatenate(list(drawn.resamples(300, 0))).std(axis=0) > 0).all()


def test_groups_that_are_right_or_wrong_as_one_have_the_interval_of_their_number():
    generator = np.random.default_rng(0)
    right = np.repeat(generator.random(100) < 0.8, 10)
    labels = generator.integers(0, 2, 1000)
    values = np.eye(2)[np.where(right, labels, 1 - labels)]
    alone, grouped = (scores(TASK, values, labels, units) for units in (None, Units(1000, np.arange(1000) // 10)))
    widths = [one["accuracy_high"] - one["accuracy_low"] for one in (alone, grouped)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(10), rel=0.12)


def test_the_run_length_follows_the_likeness_of_neighbours():
    generator = np.random.default_rng(0)
    alone = [run_length(generator.random(4000)) for _ in range(20)]
    assert sorted(alone)[13] == 1
    alike = [run_length(np.repeat(generator.random(400), 10)) for _ in range(5)]
    assert alike == [4000 // 60] * 5
    assert run_length(np.zeros(1000)) == run_length(generator.random(20)) == 1


@pytest.mark.slow
def test_intervals_over_seeds_hold_their_spread():
    first, labels = noisy(2000, 0)
    other, _ = noisy(2000, 0, sharpness=1.4)
    one, two = scores(TASK, first, labels), scores(TASK, [first, other], labels)
    assert two["f1"] == pytest.approx((one["f1"] + scores(TASK, other, labels, samples=0)["f1"]) / 2)
    assert two["f1_high"] - two["f1_low"] > 2 * (one["f1_high"] - one["f1_low"])
    paired = difference(TASK, labels, [first, other], first)
    assert paired["low"] < 0 < paired["high"], "two seeds that differ by this much settle nothing"


@pytest.mark.parametrize("order", ["by class", "mixed"])
def test_the_order_of_texts_that_are_claimed_alike_does_not_change_the_calibration(order):
    labels = np.repeat([0, 1], [600, 400])
    if order == "mixed":
        np.random.default_rng(0).shuffle(labels)
    found = reliability(np.tile(np.float32([0.6, 0.4]), (1000, 1)), labels)
    assert found["ece"] == pytest.approx(0, abs=1e-6)


def test_calibration_equals_a_plain_loop():
    probabilities, labels = noisy(1000, 3, classes=3)
    found = reliability(probabilities, labels)
    order = sorted(range(1000), key=lambda i: probabilities[i].max())
    sizes = [67] * 10 + [66] * 5  # 15 bins, the first ones larger by one
    error, start = 0.0, 0
    for size, one in zip(sizes, found["bins"], strict=True):
        rows = order[start : start + size]
        start += size
        claimed = sum(probabilities[i].max() for i in rows) / size
        right = sum(probabilities[i].argmax() == labels[i] for i in rows) / size
        assert (one["confidence"], one["accuracy"], one["count"]) == (
            pytest.approx(claimed),
            pytest.approx(right),
            size,
        )
        error += size / 1000 * abs(claimed - right)
    assert found["ece"] == pytest.approx(error)


def test_a_model_that_predicts_one_class_is_said_to():
    labels = np.array([0] * 150 + [1] * 50)
    never = np.eye(2)[np.zeros(200, int)]
    first, second = TASK.warnings(never, labels, ["ham", "fraud"])
    assert first == "predicts `ham` for 200 of 200 texts, though only 150 have this label"
    assert second == "never predicts `fraud`, the label of 50 of 200 texts"
    assert TASK.warnings(np.eye(2)[labels], labels, ["ham", "fraud"]) == []
    rare = np.array([0] * 196 + [1] * 4)
    assert TASK.warnings(np.eye(2)[rare], rare, ["ham", "fraud"]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["single rows", "25 groups", "unknown groups of neighbours", "3 seeds", "difference, 3 seeds"]
)
def test_intervals_hold_the_truth_of_simulated_studies(case):
    # A smaller version of the benchmark: of 200 studies, 95 % cover within 3 standard deviations of 1.5 points.
    found = interval_coverage.coverage(interval_coverage.CASES[case], studies=200, seed=0)
    for name, one in found.items():
        assert 0.9 <= one["coverage"] <= 0.995, name
