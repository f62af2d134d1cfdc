"""Pairs, regression and multi-label: heads, folders and pipelines against `transformers`, and runs from files."""

import json

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

import bertwright
from bertwright.errors import UserError, WrongTypeError
from bertwright.files import read_json
from bertwright.models.checkpoints import find_model, new_encoder, save_model
from bertwright.models.heads import SequenceHead, TaskModel
from bertwright.models.sequence_heads import MultiLabelHead, RegressionHead
from bertwright.recipe import FinetuneConfig, Recipe, Source
from bertwright.tasks.finetune import new_task_model, read_split
from bertwright.tasks.multi_label import LabelsPrediction, MultiLabel, with_thresholds
from bertwright.tasks.prediction import window_logits
from bertwright.tasks.registry import find_task, load_task_model
from bertwright.tasks.regression import NumberPrediction, Regression
from bertwright.text.records import Record, read_records
from small_models import SHAPE, relative, shaken

PAIR = {"text": "the cat sat on a mat", "text_pair": "nobody came to look for it while rain was falling"}
TEXT = "rain was falling over old roofs"
NAMES = ["cat", "mat", "rain"]


def make(kind, small_tokenizer, folder, notes):
    torch.manual_seed(0)
    head, names = {
        "classification": (SequenceHead(48, 3, 0.1), NAMES),
        "regression": (RegressionHead(48, 0.1, mean=40.0, deviation=9.0), ["score"]),
        "multi-label": (MultiLabelHead(48, 3, 0.1, log_odds=(-3.0, 0.0, 1.0)), NAMES),
    }[kind]
    model = shaken(TaskModel(new_encoder(SHAPE, small_tokenizer.vocab_size), head, names, kind), 0.2).eval()
    model.notes = notes
    save_model(model, small_tokenizer, folder, max_length=64)
    return model


@pytest.fixture(scope="module", params=["classification", "regression", "multi-label"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def saved(kind, small_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind) / "model"
    return make(kind, small_tokenizer, folder, {"text_pair": True}), folder


def in_float32(model, given):
    """Predictions without the rounding of bfloat16."""
    records = model.records(given)
    parts = [model.windows(one) for one in model.inputs(records)]
    logits = window_logits(model.classifier, [part for own in parts for part in own], 2_048)
    return model.answers(logits, parts, records)


@pytest.mark.parametrize("from_transformers", [False, True])
def test_the_pipeline_of_transformers_gives_the_same_answers(saved, kind, from_transformers, tmp_path):
    _, folder = saved
    if from_transformers:
        theirs = BertForSequenceClassification.from_pretrained(folder)
        for key in ("finetuning_task", "text_pair"):
            delattr(theirs.config, key)
        theirs.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
        folder = tmp_path
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    model = bertwright.load(folder)
    assert model.task.name == kind
    for given in (PAIR, TEXT) if from_transformers else (PAIR,):
        expected = {one["label"]: one["score"] for one in classify(given, top_k=None)}
        (answer,) = in_float32(model, [given])
        found = {"score": answer.score} if kind == "regression" else answer.probabilities
        assert found == pytest.approx(expected, rel=1e-4)


def test_logits_and_losses_are_those_of_transformers(saved, kind):
    model, folder = saved
    theirs = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.randint(5, 60, (6, 20))
    segments, mask = (torch.arange(20) > 9).long().expand(6, 20), torch.ones(6, 20)
    task = find_task(kind)
    rng = np.random.default_rng(0)
    labels, given = {
        "classification": lambda: (y := rng.integers(0, 3, 6), torch.tensor(y)),
        "regression": lambda: (y := rng.normal(40, 9, 6), torch.tensor(y, dtype=torch.float32)),
        "multi-label": lambda: (y := rng.integers(0, 2, (6, 3)), torch.tensor(y, dtype=torch.float32)),
    }[kind]()
    with torch.no_grad():
        expected = theirs(ids, mask, segments, labels=given)
        logits = model(ids, segments, mask.bool())
        loss = model.head.loss(logits, torch.from_numpy(task.targets(labels, model.label_names)))
    assert relative(logits, expected.logits) < 1e-5
    unit = 81.0 if kind == "regression" else 1.0  # ours is in the labels' deviations
    assert (loss.total / loss.count * unit).item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert loss.count == 6
    predictions = task.predictions(list(logits), [[None]] * 6)
    assert task.loss(predictions, labels) == pytest.approx(expected.loss.item(), rel=1e-5)


def test_rows_of_zeros_are_not_scored(saved, kind):
    model, _ = saved
    task = find_task(kind)
    labels = {"classification": np.array([1]), "regression": np.array([0.0]), "multi-label": np.array([[0, 0, 0]])}
    target = torch.from_numpy(task.targets(labels[kind], model.label_names))
    logits = torch.randn(2, len(model.label_names))
    both = torch.cat([target, torch.zeros_like(target)])
    alone, padded = model.head.loss(logits[:1], target), model.head.loss(logits, both)
    assert padded.total == pytest.approx(alone.total.item(), rel=1e-6)
    assert padded.count == alone.count == model.head.scored(both) == 1


def test_a_regression_head_learns_at_the_same_rate_whatever_the_unit(small_tokenizer):
    losses = []
    for scale in (1.0, 1_000.0):
        labels = np.array([1.0, 2.0, 3.0, 4.0]) * scale
        task = Regression().fitted(labels)
        torch.manual_seed(0)
        head = task.head(new_encoder(SHAPE, 60), ["score"], 0.0)
        optimizer = torch.optim.Adam(head.parameters(), 0.05)
        hidden = torch.randn(4, 3, 48, generator=torch.Generator().manual_seed(1))
        for _ in range(20):
            optimizer.zero_grad()
            loss = head.loss(head(hidden, None), torch.from_numpy(task.targets(labels, ["score"])))
            (loss.total / loss.count).backward()
            optimizer.step()
        losses.append((loss.total / loss.count).item())
    assert losses[0] < 0.2
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_fresh_head_of_labels_starts_from_how_frequent_each_is():
    labels = np.array([[1, 0, 1]] * 3 + [[0, 0, 1]] * 6)
    task = MultiLabel().fitted(labels)
    encoder = new_encoder(SHAPE, 60)
    model = TaskModel(encoder, task.head(encoder, NAMES, 0.0), NAMES, "multi-label").eval()
    logits = model(torch.tensor([[2, 7, 3]]), torch.zeros(1, 3, dtype=torch.long))
    expected = torch.tensor([3.5 / 10, 0.5 / 10, 9.5 / 10])
    assert torch.allclose(logits.sigmoid()[0], expected, atol=0.05)


def test_a_head_of_labels_is_taken_over_as_it_answered(small_tokenizer, tmp_path):
    given = make("multi-label", small_tokenizer, tmp_path, {"text_pair": False})
    task = MultiLabel().fitted(np.array([[1, 0, 0]] * 30 + [[0, 1, 1]]))  # other frequencies than the folder's
    model = new_task_model(task, tmp_path, FinetuneConfig(data="x"), NAMES, print).eval()
    ids = torch.randint(5, 60, (4, 20))
    with torch.no_grad():
        expected, found = given(ids, torch.zeros_like(ids)), model(ids, torch.zeros_like(ids))
    assert relative(found, expected) < 1e-6


def test_numbers_are_not_rounded_to_those_of_bfloat16(small_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("bertwright.tasks.prediction.has_bf16", lambda: True)
    monkeypatch.setattr("bertwright.tasks.prediction.pack", lambda _: None)  # which needs a processor with bfloat16
    torch.manual_seed(0)
    head = RegressionHead(48, 0.1, mean=2005.0, deviation=8.0)
    model = shaken(TaskModel(new_encoder(SHAPE, small_tokenizer.vocab_size), head, ["year"], "regression"), 0.2).eval()
    save_model(model, small_tokenizer, tmp_path, max_length=64)
    loaded = bertwright.load(tmp_path)
    texts = [f"{TEXT} {word}" for word in ("cat", "mat", "rain", "nobody", "roofs")]
    expected = [one.score for one in in_float32(loaded, texts)]
    found = [one.score for one in loaded.predict(texts)]
    assert found == pytest.approx(expected, abs=0.5), "bfloat16 would have steps of eight"
    saved, inputs = load_task_model(tmp_path).eval(), loaded.inputs(loaded.records(texts))
    with torch.autocast("cpu", torch.bfloat16):
        logits = window_logits(saved, inputs, 256)
    assert [float(one) for one in logits] == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (TEXT, "is one text, and the model reads pairs"),
        ({"text": TEXT}, "is one text, and the model reads pairs"),
        ([(TEXT, 5)], "it must be a pair"),
        ([(TEXT, TEXT, TEXT)], "it must be a pair"),
        ({"text": TEXT, "other": TEXT}, "it must be a pair"),
        ([(TEXT, " ")], "one text is empty"),
    ],
)
def test_what_is_no_pair_is_refused(saved, given, words):
    with pytest.raises(WrongTypeError, match=words):
        bertwright.load(saved[1]).predict(given)


def test_a_tuple_is_the_same_pair_as_a_dict_and_segments_tell_the_texts_apart(saved):
    model = bertwright.load(saved[1])
    found = in_float32(model, [(PAIR["text"], PAIR["text_pair"]), PAIR, (PAIR["text_pair"], PAIR["text"])])
    assert found[0] == found[1] != found[2]
    (encoded,) = model.inputs(model.records([PAIR]))
    assert set(encoded.token_type_ids.tolist()) == {0, 1}


def test_a_model_of_single_texts_refuses_pairs(kind, small_tokenizer, tmp_path):
    make(kind, small_tokenizer, tmp_path / "model", {})
    model = bertwright.load(tmp_path / "model")
    with pytest.raises(WrongTypeError, match="is a pair, and the model reads single texts"):
        model.predict(PAIR)
    assert in_float32(model, [{"text": TEXT}]) == in_float32(model, [TEXT])


def test_thresholds_are_saved_with_the_model_and_decide_its_labels(small_tokenizer, tmp_path):
    make("multi-label", small_tokenizer, tmp_path / "model", {"text_pair": False})
    (plain,) = bertwright.load(tmp_path / "model").predict([TEXT])
    assert plain.labels == sorted(
        (n for n in NAMES if plain.probabilities[n] >= 0.5), key=lambda n: -plain.probabilities[n]
    )
    cut = [0.0, 1.0, plain.probabilities["rain"]]
    make("multi-label", small_tokenizer, tmp_path / "other", {"text_pair": False, "label_thresholds": cut})
    model = bertwright.load(tmp_path / "other")
    (answer,) = model.predict([TEXT])
    assert set(answer.labels) >= {"cat"}
    assert "mat" not in answer.labels
    assert answer == LabelsPrediction(answer.labels, plain.probabilities)
    assert model.task.thresholds == pytest.approx(cut)


WORDS = {"boats": "boat", "gardens": "flower", "kitchens": "bread", "castles": "tower"}


def rows_of(kind, count, seed):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        topics = [t for t in WORDS if rng.random() < 0.4]
        text = (
            f"Today {' and '.join(f'a {WORDS[t]} was there' for t in topics) or 'it was quiet'}, number {number % 9}."
        )
        if kind == "multi-label":
            found.append({"text": text, "labels": topics})
        else:
            other = [t for t in WORDS if rng.random() < 0.4]
            second = f"Then {' and '.join(f'a {WORDS[t]} came' for t in other) or 'nobody came'}."
            shared = len(set(topics) & set(other)) > 0
            label = {"label": "same" if shared else "other"} if kind == "pairs" else {"label": 10.0 * len(topics) + 100}
            found.append({"a": text, "b": second, **label} if kind == "pairs" else {"text": text, **label})
    return found


@pytest.fixture(scope="module")
def bundled_run(tmp_path_factory):
    """Runs a task on generated rows with dev as the evaluated split."""

    def run(kind, source, task, **settings):
        folder = tmp_path_factory.mktemp(kind)
        (folder / "data").mkdir()
        for split, count, seed in (("train", 240, 0), ("dev", 60, 1)):
            rows = "".join(json.dumps(row) + "\n" for row in rows_of(kind, count, seed))
            (folder / "data" / f"{split}.jsonl").write_text(rows)
        recipe = {
            "name": kind,
            "system": {"precision": "fp32", "compile": "off"},
            "data": {"own": {"path": str(folder / "data"), **source}},
            "finetune": {
                "data": "own", "task": task, "encoder": "bundled", "test_split": "dev", "averaging_block": True,
                "epochs": 4, "batch_size": 16, "max_length": 64, "optimizer": {"learning_rate": 3e-4}, **settings,
            },
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return bertwright.run(folder / "recipe.yaml", out=str(folder / "run"))

    return run


@pytest.mark.slow
def test_numbers_are_learnt_from_files_evaluated_and_predicted(bundled_run):
    run = bundled_run("numbers", {}, "regression")
    scores = run.results["scores"]
    assert run.results["primary_metric"] == "spearman"
    assert scores["bert"]["spearman"] > 0.8
    assert 0 < scores["bert"]["rmse_low"] < scores["bert"]["rmse"] < scores["bert"]["rmse_high"]
    assert scores["bert"]["rmse"] < scores["mean"]["rmse"]
    assert scores["mean"]["pearson"] == 0
    assert scores["ridge"]["spearman"] > 0.8
    answer = bertwright.load(run.path).predict("Today a boat was there and a tower was there, number 3.")
    assert isinstance(answer, NumberPrediction)
    assert 105 < answer.score < 135
    page = (run.path / "report.html").read_text()
    assert "Spearman correlation: BERT on 60 test texts" in page
    assert list(run.results["splits"]) == ["train", "validation"]


@pytest.mark.slow
def test_pairs_are_learnt_from_files_and_predicted_as_pairs(bundled_run):
    source = {"text_column": "a", "text_pair_column": "b"}
    run = bundled_run("pairs", source, "classification", positive_label="same", epochs=1)
    scores = run.results["scores"]
    assert {"bert", "most_frequent", "overlap_logistic_regression", "crossed_nb_logistic_regression"} == set(scores)
    assert -1 < scores["bert"]["matthews_low"] <= scores["bert"]["matthews"] <= scores["bert"]["matthews_high"] < 1
    assert scores["crossed_nb_logistic_regression"]["accuracy"] > 0.8
    assert read_json(run.path / "finetune" / "seed-0" / "model" / "config.json")["text_pair"] is True
    model = bertwright.load(run.path)
    with pytest.raises(WrongTypeError, match="reads pairs"):
        model.predict("one text")
    assert model.predict({"text": "Today a boat was there.", "text_pair": "Then a boat came."}).label in (
        "same",
        "other",
    )


@pytest.mark.slow
def test_labels_are_learnt_from_lists_with_thresholds_of_the_validation_set(bundled_run):
    run = bundled_run("multi-label", {"label_column": "labels"}, "multi-label")
    scores = run.results["scores"]
    assert scores["bert"]["macro_f1"] > 0.9
    assert scores["nb_logistic_regression"]["micro_f1"] > 0.9
    assert 0 < scores["label_frequencies"]["average_precision"] < 0.7
    stored = read_json(run.path / "finetune" / "seed-0" / "model" / "config.json")
    assert stored["problem_type"] == "multi_label_classification"
    assert scores["bert"]["thresholds"] == pytest.approx(stored["label_thresholds"], abs=1e-5)
    answer = bertwright.load(run.path).predict("Today a boat was there and a tower was there, number 3.")
    assert sorted(answer.labels) == ["boats", "castles"]


def test_labels_of_which_there_is_one_text_each_are_trained_on(tmp_path):
    rows = [{"text": f"text {n}", "labels": ["a"] if n % 2 else ["b"]} for n in range(60)]
    rows += [{"text": f"rare {n}", "labels": [f"rare {n}"]} for n in range(20)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path=str(tmp_path / "all.jsonl"), label_column="labels", test_ratio=0.25)
    train, test = (read_records(source, split, ("text", "labels")) for split in ("train", "test"))
    known = {label for one in train for label in one.labels}
    assert len(known) == 22
    assert 8 <= len(test) <= 20
    for one in rows[:60]:
        one["labels"] = [one["text"]]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="no text is left for test"):
        read_records(source, "test", ("text", "labels"))


@pytest.mark.parametrize(("test_split", "training", "validation"), [("test", 4, 2), ("dev", 3, 1)])
def test_what_the_report_evaluates_on_chooses_no_checkpoint(tmp_path, test_split, training, validation):
    for split, rows in (("train", 4), ("dev", 2), ("test", 3)):
        lines = [json.dumps({"text": f"{split} {n}", "label": float(n)}) for n in range(rows)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    config = FinetuneConfig(
        data="x", task="regression", encoder="bundled", test_split=test_split, validation_ratio=0.25, max_length=32
    )
    recipe = Recipe(name="x", data={"x": str(tmp_path)}, finetune=config)
    split = read_split(recipe, find_model("bundled", "encoder"), lambda _: None)
    assert (len(split.training), len(split.validation.labels)) == (training, validation)
    assert all(
        record.text.startswith(("train", "dev") if test_split == "test" else "train") for record in split.records
    )


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("classification", {"truncation": "windows"}, "truncation is windows, and a pair"),
        ("classification", {"unlabelled": "x"}, "not for pairs of texts"),
        ("regression", {"unlabelled": "x"}, "not for pairs of texts"),
        ("regression", {"positive_label": "a"}, "positive_label is for two classes, not for regression"),
        ("multi-label", {"positive_label": "a"}, "positive_label is for two classes, not for multi-label"),
    ],
)
def test_settings_that_a_task_does_not_have_are_refused(name, settings, words):
    task = find_task(name).on(Source(path="x", text_pair_column="b"))
    assert task.columns[:2] == ("text", "text_pair")
    with pytest.raises(UserError, match=words):
        task.check(FinetuneConfig(data="x", **settings))


def test_labels_that_teach_nothing_are_refused():
    numbers = [Record(str(i), "a", number=3.0) for i in range(4)]
    with pytest.raises(UserError, match="one label alone, 3"):
        Regression().label_names(numbers, None, "data.x")
    with pytest.raises(UserError, match="has 2 names, and a number has one"):
        Regression().label_names([*numbers, Record("4", "a", number=1.0)], ["a", "b"], "data.x")
    with pytest.raises(UserError, match="no text with a label"):
        MultiLabel().label_names([Record("0", "a", labels=())], None, "data.x")
    with pytest.raises(UserError, match="the same labels in every text, b, c"):
        MultiLabel().label_names([Record("0", "a", labels=("c", "b"))] * 2, None, "data.x")
    known = [Record("0", "a", labels=("c", "b")), Record("1", "b", labels=())]
    with pytest.raises(UserError, match="must name the labels of the data, in any order: b, c"):
        MultiLabel().label_names(known, ["b"], "data.x")
    names = MultiLabel().label_names(known, ["c", "b"], "data.x")
    assert MultiLabel().labels(known, names, known, "data.x").tolist() == [[1, 1], [0, 0]]
    with pytest.raises(UserError, match=r"text 2 has label d, which train does not have \(f, line 3\)"):
        MultiLabel().labels([Record("2", "a", labels=("d",), place="f, line 3")], names, known, "data.x")


def test_thresholds_stand_beside_probabilities():
    found = with_thresholds(np.array([[0.2, 0.4]], np.float32), [0.1, 0.9])
    assert found.tolist() == [[[pytest.approx(0.2), pytest.approx(0.4)], [pytest.approx(0.1), pytest.approx(0.9)]]]
