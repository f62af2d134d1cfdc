"""Entities and their metrics against seqeval, and resamples against a loop over rows."""

import time

import numpy as np
import pytest
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from bertwright.tasks.entities import scheme_of, spans
from bertwright.tasks.resampling import Units, resample_rows
from bertwright.tasks.tokens import TokenClassification

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-X-Y", "I-X-Y"]
TASK = TokenClassification().about(None, NAMES)


def random_case(seed, rows=30, most=15, noise=0.4):
    """Probabilities and labels whose tags are often right, in any order, valid BIO or not."""
    rng = np.random.default_rng(seed)
    labels = np.empty(rows, object)
    predictions = np.full((rows, most, len(NAMES)), np.nan, np.float32)
    for row in range(rows):
        words = int(rng.integers(1, most + 1))
        labels[row] = rng.choice(len(NAMES), words, p=[0.4, *[0.1] * 6])
        tags = np.where(rng.random(words) < noise, rng.integers(0, len(NAMES), words), labels[row])
        values = rng.random((words, len(NAMES))).astype(np.float32)
        values[np.arange(words), tags] += 2
        predictions[row, :words] = values / values.sum(axis=1, keepdims=True)
    return predictions, labels


def by_name(predictions, labels):
    predicted = [
        [NAMES[i] for i in row[: len(tags)].argmax(axis=1)] for row, tags in zip(predictions, labels, strict=True)
    ]
    return [[NAMES[i] for i in tags] for tags in labels], predicted


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_seqeval(seed):
    predictions, labels = random_case(seed)
    true, predicted = by_name(predictions, labels)
    found = TASK.metrics(predictions, labels)
    assert found == pytest.approx(
        {
            "entity_f1": f1_score(true, predicted),
            "entity_precision": precision_score(true, predicted),
            "entity_recall": recall_score(true, predicted),
            "accuracy": accuracy_score(true, predicted),
        }
    )
    report = classification_report(true, predicted, output_dict=True)
    for kind, one in TASK.details(predictions, labels)["by_type"].items():
        assert one["true"] == report[kind]["support"]
        assert one["right"] / one["predicted"] == pytest.approx(report[kind]["precision"])


def test_a_model_of_another_tool_may_answer_in_bmes():
    names = ["O", "B-NAME", "M-NAME", "E-NAME", "S-NAME"]
    tags = np.array([1, 2, 2, 3, 0, 4, 4, 1, 3])
    found = spans(tags, np.arange(9) == 0, scheme_of(names))
    assert [one.tolist() for one in found] == [[0, 5, 6, 7], [4, 6, 7, 9], [0, 0, 0, 0]]


def test_classes_of_words_with_m_are_types_of_their_own():
    assert scheme_of(["M-SG", "F-SG"]).types == ("M-SG", "F-SG")


def test_entities_of_any_tags_are_those_of_seqeval():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(NAMES), rng.integers(1, 10)) for _ in range(300)]
    first = np.concatenate([np.arange(len(row)) == 0 for row in rows])
    scheme = scheme_of(NAMES)
    found = zip(*spans(np.concatenate(rows), first, scheme), strict=True)
    begins = np.cumsum([0, *map(len, rows)])
    expected = [
        (begin + start, begin + end + 1, scheme.types.index(kind))
        for begin, row in zip(begins, rows, strict=False)
        for kind, start, end in get_entities([NAMES[i] for i in row])
    ]
    assert [tuple(map(int, one)) for one in found] == expected


def test_nothing_predicted_and_nothing_true_are_zero_as_in_seqeval():
    labels = np.empty(2, object)
    labels[:] = [np.zeros(3, np.int64), np.zeros(1, np.int64)]
    predictions = np.zeros((2, 3, len(NAMES)), np.float32)
    predictions[..., 0] = 1
    assert TASK.metrics(predictions, labels) == {
        "entity_f1": 0.0,
        "entity_precision": 0.0,
        "entity_recall": 0.0,
        "accuracy": 1.0,
    }
    resampled = TASK.resampled(predictions, labels, Units(2), 10, 0)
    assert np.isnan(resampled["entity_f1"]).all()
    assert (resampled["accuracy"] == 1).all()


@pytest.mark.parametrize(
    "units", [Units(30), Units(30, np.arange(30) // 3), Units(30, length=4)], ids=lambda one: one.kind
)
def test_resamples_equal_metrics_of_the_drawn_rows(units):
    predictions, labels = random_case(1)
    fast = TASK.resampled(predictions, labels, units, 25, 3)
    slow = resample_rows(TASK.metrics, predictions, labels, units, 25, 3)
    assert fast.keys() == slow.keys()
    for name in slow:
        assert fast[name] == pytest.approx(slow[name], abs=1e-6)
    assert TASK.resampled(predictions, labels, units, 25, 3, only="entity_f1").keys() == {"entity_f1"}


def test_the_scores_of_rows_add_up_to_nothing_and_are_higher_where_more_is_right():
    predictions, labels = random_case(2)
    scores = TASK.row_scores(predictions, labels)
    assert scores.sum() == pytest.approx(0, abs=1e-9)
    right, _ = random_case(2, noise=0.0)
    better = predictions.copy()
    better[0] = right[0]
    assert TASK.row_scores(better, labels)[0] >= scores[0]


def test_loss_and_chance_are_those_of_a_loop():
    predictions, labels = random_case(3)
    losses = [-np.log(predictions[i, j, tag]) for i, row in enumerate(labels) for j, tag in enumerate(row)]
    assert TASK.loss(predictions, labels) == pytest.approx(np.mean(losses), rel=1e-6)
    frequent = np.bincount(np.concatenate(list(labels)), minlength=len(NAMES)) / sum(map(len, labels))
    chance = np.mean([-np.log(frequent[tag]) for row in labels for tag in row])
    assert TASK.chance_loss(labels, labels) == pytest.approx(chance)


def test_tags_of_words_have_accuracy_and_no_entities():
    task = TokenClassification().about(None, ["DET", "NOUN"])
    assert task.primary_metric == "accuracy"
    labels = np.empty(1, object)
    labels[0] = np.array([0, 1, 1])
    predictions = np.array([[[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]], np.float32)
    assert task.metrics(predictions, labels) == {"accuracy": pytest.approx(2 / 3)}
    assert task.details(predictions, labels)["by_type"] == {
        "DET": {"right": 1, "predicted": 2, "true": 1},
        "NOUN": {"right": 1, "predicted": 1, "true": 2},
    }
    assert set(task.resampled(predictions, labels, Units(1), 5, 0)) == {"accuracy"}


def test_a_thousand_resamples_of_three_thousand_sentences_take_seconds():
    predictions, labels = random_case(4, rows=3000, most=30)
    start = time.perf_counter()
    TASK.resampled(predictions, labels, Units(3000), 1000, 0)
    assert time.perf_counter() - start < 5
