"""A task that is defined here and not in src: the same code trains, evaluates, reports and loads it."""

import json

import numpy as np
import pytest
import torch

import bertwright
from bertwright.errors import UserError
from bertwright.files import read_json
from bertwright.models.heads import SequenceHead
from bertwright.tasks.registry import TASKS
from bertwright.tasks.task import Prediction, Task
from bertwright.text.records import Record

ORDERS = ["forward", "backward"]
DAYS = ["dawn", "morning", "noon", "afternoon", "evening", "midnight"]


class SentenceOrder(Task):
    """Whether two sentences stand in the order in which the text had them.

    As for ALBERT (Lan et al. 2020, section 3.1). Predictions are the probability of `backward`, float32 (records,).
    """

    name = "sentence-order"
    columns = ("text", "text_pair", "label")
    primary_metric = "pairs_in_order"

    def label_names(self, records, given, where):
        return list(given or ORDERS)

    def labels(self, records, names, known, where):
        for record in records:
            if record.label not in ORDERS:
                raise UserError(f"{where}: text {record.id} has label {record.label!r}; write forward or backward")
        return np.array([ORDERS.index(record.label) for record in records], np.int64)

    def targets(self, labels, names):
        return np.eye(2, dtype=np.float32)[labels]

    def head(self, encoder, names, dropout):
        return SequenceHead(encoder.config.hidden_size, len(names), dropout, encoder.causal)

    def predictions(self, logits, parts):
        assert {len(own) for own in parts} <= {1}, "a pair is one window"
        return torch.stack(list(logits)).softmax(-1)[:, 1].numpy()

    def loss(self, predictions, labels):
        right = np.where(labels == 1, predictions, 1 - predictions)
        return float(-np.log(right.clip(1e-12)).mean())

    def metrics(self, predictions, labels):
        return {"pairs_in_order": float(((predictions > 0.5) == labels).mean())}

    def baselines(self, train, labels, test, progress):
        progress("shorter sentence first")
        return {"shorter_first": np.array([len(r.text) > len(r.text_pair) for r in test], np.float32)}

    def record(self, number, given):
        return Record(str(number), *given)

    def answers(self, predictions, names, records):
        found = []
        for p in map(float, predictions):
            probabilities = dict(zip(names, (1 - p, p), strict=True))
            label = max(probabilities, key=probabilities.get)
            found.append(Prediction(label, probabilities[label], probabilities))
        return found


def write_pairs(folder, split, count, seed):
    """Pairs of sentences on the times of a day; the earlier one is the first in the text."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        early, late = sorted(rng.choice(len(DAYS), 2, replace=False))
        sentences = [f"At {DAYS[early]} we saw boat {number % 7}.", f"At {DAYS[late]} we saw a river."]
        label = ORDERS[number % 2]
        first, second = sentences if label == "forward" else sentences[::-1]
        rows.append(json.dumps({"text": first, "text_pair": second, "label": label}))
    (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_a_task_from_outside_is_trained_evaluated_reported_and_loaded(recipe_file, monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "sentence-order", SentenceOrder())
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    write_pairs(pairs, "train", 400, 0)
    write_pairs(pairs, "test", 80, 1)
    run = bertwright.run(
        recipe_file,
        out=str(tmp_path / "run"),
        data={"pairs": str(pairs)},
        prepare={"corpora": ["books", "reviews:train", "pairs:train"]},
        finetune={"data": "pairs", "task": "sentence-order", "label_names": ORDERS, "seeds": [0], "epochs": 4},
    )

    results = read_json(run.path / "results.json")
    assert run.results == results
    assert (results["task"], results["data"], results["label_names"]) == ("sentence-order", "pairs", ORDERS)
    assert results["primary_metric"] == "pairs_in_order"
    bert, baseline = results["scores"]["bert"], results["scores"]["shorter_first"]
    assert bert["pairs_in_order"] > 0.8, "chance is 0.5"
    assert bert["pairs_in_order_low"] <= bert["pairs_in_order"] <= bert["pairs_in_order_high"]
    assert bert["count"] == 80
    assert baseline["pairs_in_order"] < bert["pairs_in_order"]

    page = (run.path / "report.html").read_text()
    assert "pairs in order: BERT on 80 test texts" in page
    assert f"{bert['pairs_in_order']:.4f}" in page
    assert "shorter_first" in page
    assert "the best baseline, shorter_first (pairs in order" in page
    assert "labelled <b>forward</b>" in page

    model = bertwright.load(run.path)
    assert model.task.name == "sentence-order"
    assert model.classifier.label_names == ORDERS
    early, late = "At dawn we saw boat 3.", "At midnight we saw a river."
    assert [answer.label for answer in model.predict([(early, late), (late, early)])] == ORDERS


def test_an_unknown_task_is_refused_with_the_names_of_those_there_are(recipe_file, tmp_path):
    with pytest.raises(UserError, match=r"finetune\.task is sentence-order; Bertwright has: classification"):
        bertwright.run(recipe_file, out=str(tmp_path / "run"), finetune={"task": "sentence-order"})
