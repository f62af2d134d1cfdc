"""`bertwright suite`: encoders on tasks, their page, and minimal pairs."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bertwright import shipped
from bertwright.apps.minimal_pairs import evaluate_minimal_pairs, read_pairs
from bertwright.apps.suite_runs import MINIMAL_PAIRS
from bertwright.cli import main
from bertwright.errors import UserError
from bertwright.evaluate.suite import read_suite, table, write_suite
from bertwright.models.checkpoints import find_model, new_encoder, save_model
from bertwright.models.heads import PretrainingModel
from bertwright.pretrained import PretrainedEncoder
from bertwright.recipe_file import change_recipe, load_recipe
from bertwright.tasks.registry import recipe_task
from bertwright.text.records import read_records
from conftest import ROOT
from small_models import SHAPE, save_tagger, shaken

SETTINGS = {
    "encoder": "bundled",
    "test_split": "dev",
    "epochs": 2,
    "batch_size": 8,
    "max_length": 32,
    "seeds": [0, 1],
    "optimizer": {"learning_rate": 3.0e-4},
}


@pytest.fixture
def write_suite_of_two(tmp_path):
    """A suite of two tasks, films (pairs) and scores (numbers), and the data of both."""
    recipes, data = tmp_path / "recipes", tmp_path / "data"
    recipes.mkdir()
    tasks = {
        "films": ({"text_pair_column": "text_pair"}, {"positive_label": "good", "metric_for_best_model": "accuracy"}),
        "scores": ({}, {"task": "regression", "metric_for_best_model": "pearson"}),
    }
    for name, (source, finetune) in tasks.items():
        content = {
            "name": name,
            "data": {name: {"path": f"data/{name}", **source}},
            "finetune": {"data": name, **SETTINGS, **finetune},
            "system": {"precision": "fp32", "compile": "off"},
        }
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(content))
        (data / name).mkdir(parents=True)
        for part, rows in (("train", 32), ("dev", 16)):
            lines = []
            for number in range(rows):
                good = number % 2 == 0
                row = {
                    "text": f"Film {number} of {part} is {'wonderful' if good else 'dreadful'}.",
                    "text_pair": "Is it?",
                }
                row["label"] = ("good" if good else "bad") if name == "films" else (4.5 if good else 1.0) + number / 100
                lines.append(json.dumps(row) + "\n")
            (data / name / f"{part}.jsonl").write_text("".join(lines))
    return recipes, data


def words(recipes, data, out, *more):
    return ["suite", *more, "--recipes", str(recipes), "--data", str(data), "--out", str(out)]


@pytest.mark.slow
def test_encoders_are_compared_on_the_same_rows_and_nothing_is_done_twice(write_suite_of_two, tmp_path, capsys):
    out, given = tmp_path / "out", (*write_suite_of_two, tmp_path / "out")
    assert main(words(*given, "bundled")) == 0
    assert main(words(*given, "random", "--tasks", "films")) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results) == ["random", "bundled"]
    assert {name: set(found) for name, found in results.items()} == {
        "random": {"films"},
        "bundled": {"films", "scores"},
    }
    films = results["bundled"]["films"]
    run = json.loads((out / "bundled" / "films" / "results.json").read_text())
    by_seed = [run["bert_seeds"][seed]["accuracy"] for seed in ("0", "1")]
    assert (films["metric"], films["seeds"], run["primary_metric"]) == ("accuracy", [0, 1], "accuracy")
    assert (films["mean"], films["sd"]) == pytest.approx((np.mean(by_seed), np.std(by_seed, ddof=1)))
    assert films["baseline"] == max(one["accuracy"] for name, one in run["scores"].items() if name != "bert")
    assert films["low"] <= films["mean"] <= films["high"]
    assert results["bundled"]["scores"]["metric"] == "pearson"

    (paired,) = json.loads((out / "differences.json").read_text())
    apart = films["mean"] - results["random"]["films"]["mean"]
    assert paired["difference"] == pytest.approx(abs(apart))
    assert paired["low"] <= paired["difference"] <= paired["high"]
    assert paired["first"] == ("bundled" if apart >= 0 else "random")

    page = (out / "suite.html").read_text()
    assert "<script" not in page
    assert "2 encoders" in page
    said = capsys.readouterr()
    row = next(line for line in said.out.splitlines()[::-1] if line.startswith("films")).split()
    assert row[:2] == ["films", "accuracy"]
    assert row[-3:] == [f"{100 * films['mean']:.1f}", "±", f"{100 * films['sd']:.1f}"]

    trained = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert main(words(*given, "bundled")) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == trained


def write_entry(folder, name, accuracy, digest, labels=(0, 1) * 20, seeds=("0", "1")):
    """The results of an encoder on the task films, as a run leaves them."""
    labels = np.array(labels)
    figure = {"accuracy": accuracy, "count": len(labels)}
    results = {
        "task": "classification",
        "label_names": ["bad", "good"],
        "primary_metric": "accuracy",
        "scores": {"bert": figure, "naive_bayes": {**figure, "accuracy": 0.5}},
        "bert_seeds": dict.fromkeys(seeds, figure),
        "stage_seconds": {"finetune": 1.0},
        "machine": "a machine",
        "commit": "0123abc",
        **({} if digest is None else {"test_digest": digest}),
    }
    place = folder / name / "films" / "evaluate" / "predictions"
    place.mkdir(parents=True)
    (folder / name / "films" / "results.json").write_text(json.dumps(results))
    right = np.arange(len(labels)) < accuracy * len(labels)
    np.save(place / "labels.npy", labels)
    for seed in seeds:
        np.save(place / f"bert-seed-{seed}.npy", np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)])


@pytest.mark.parametrize(
    ("digests", "labels", "alike"),
    [
        (("a", "a"), (0, 1) * 20, True),
        (("a", "b"), (0, 1) * 20, False),  # other texts with the same labels
        ((None, "b"), (0, 1) * 20, True),  # of an earlier version
        ((None, None), (0, 1) * 20, True),
        ((None, None), (1, 0) * 20, False),
        ((None, None), (0, 1) * 21, False),
    ],
)
def test_encoders_that_were_evaluated_on_other_texts_are_not_compared(tmp_path, digests, labels, alike):
    write_entry(tmp_path, "first", 0.7, digests[0])
    write_entry(tmp_path, "second", 0.9, digests[1], labels)
    suite = read_suite(tmp_path)
    page, text = write_suite(suite, tmp_path).read_text(), table(suite)
    said = "films: test texts, labels or metric of second are not those of first, so that the figures do not compare"
    assert (said in page, said in text) == (not alike, not alike)
    assert ('<td class="best' in page) == alike
    assert ("40 test rows" in page, "not evaluated alike" in page) == (alike, not alike)
    assert len(json.loads((tmp_path / "differences.json").read_text())) == alike
    assert json.loads((tmp_path / "results.json").read_text())["first"]["films"]["test_digest"] == digests[0]


@pytest.mark.parametrize(("seeds", "spread"), [(("0",), None), (("0", "1"), 0.0)])
def test_one_seed_has_no_spread(tmp_path, seeds, spread):
    write_entry(tmp_path, "first", 0.7, "a", seeds=seeds)
    suite = read_suite(tmp_path)
    page, text = write_suite(suite, tmp_path).read_text(), table(suite)
    assert json.loads((tmp_path / "results.json").read_text())["first"]["films"]["sd"] == spread
    assert text.splitlines()[-1].endswith("50.0           70.0" if spread is None else "70.0 ± 0.0")
    assert ("<small>sd" in page) == (spread is not None)


@pytest.mark.slow
def test_what_cannot_be_run_is_said_and_the_rest_is_not_begun(write_suite_of_two, tmp_path, capsys):
    recipes, data = write_suite_of_two

    def refused(*more):
        assert main(words(recipes, data, tmp_path / "out", *more)) == 2
        return capsys.readouterr().err

    assert "there is no task rte; the suite has: films, scores, minimal-pairs" in refused("bundled", "--tasks", "rte")
    assert "config.json" in refused(str(tmp_path / "nothing"))
    shutil.rmtree(data)
    said = refused("bundled")
    assert "no task of the suite has its data in" in said
    assert "--data FOLDER" in said
    assert not (tmp_path / "out" / "bundled").exists()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("google/bert-base", "google-bert-base"),
        ("..", "mine"),
        (r"a\b c", "'a-b c'"),
        ("/tmp/x/", "tmp-x"),
        (".", "mine"),
    ],
)
def test_a_name_that_is_no_single_folder_is_refused_before_any_work(tmp_path, capsys, name, instead):
    assert main(["suite", "random", "--name", name, "--out", str(tmp_path / "out" / "suite")]) == 2
    said = capsys.readouterr().err
    assert f"--name is {name}, and a name is that of a folder in --out" in said
    assert said.endswith(f"such as --name {instead}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_no_data_set_of_the_hub(write_suite_of_two, tmp_path, capsys, monkeypatch):
    recipes, data = write_suite_of_two
    shutil.rmtree(data)  # data/films then looks like owner/name
    monkeypatch.chdir(tmp_path)
    assert main(["suite", "bundled", "--recipes", str(recipes)]) == 2
    assert "no task of the suite has its data in data: ./data/films does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_a_task_that_fails_costs_only_itself_and_a_name_stands_for_one_encoder(write_suite_of_two, tmp_path, capsys):
    recipes, data = write_suite_of_two
    out = tmp_path / "out"
    (data / "scores" / "train.jsonl").write_text('{"text": "Film 1.", "label": "many"}\n')
    assert main(words(recipes, data, out, "bundled", "--name", "mine")) == 2
    said = capsys.readouterr().err
    assert "not run: scores: " in said
    assert "many" in said
    assert set(json.loads((out / "results.json").read_text())["mine"]) == {"films"}
    assert "mine, scores" in (out / "suite.html").read_text()
    copy = tmp_path / "copy"  # the same encoder, wherever it lies
    shutil.copytree(find_model("bundled", "encoder"), copy)
    assert main(words(recipes, data, out, str(copy), "--name", "mine", "--tasks", "films")) == 0
    assert "another" not in capsys.readouterr().err
    with (copy / "config.json").open("a") as file:
        file.write("\n")
    assert main(words(recipes, data, out, str(copy), "--name", "mine")) == 2
    assert "give this encoder another with --name NAME" in capsys.readouterr().err


@pytest.mark.slow
def test_random_weights_have_the_shape_of_the_bundled_encoder_and_not_its_values(write_suite_of_two, tmp_path, capsys):
    recipes, data = write_suite_of_two
    shutil.rmtree(data)
    pairs = [{"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps."}] * 3
    (data / "blimp").mkdir(parents=True)
    (data / "blimp" / "agreement.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert main(words(recipes, data, tmp_path / "out", "random")) == 0
    assert "minimal pairs" in capsys.readouterr().out
    ours, theirs = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "out" / "random" / "encoder", find_model("bundled", "encoder"))
    )
    shapes = [{name: values.shape for name, values in one.items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
    table = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(ours[table], theirs[table].float())
    assert 0.01 < ours[table].std() < 0.03


@pytest.mark.slow
def test_every_recipe_of_the_suite_loads_and_stands_in_guide_and_companion():
    recipes = shipped.suite()
    assert len(recipes) == 15
    for name, path in recipes.items():
        recipe = load_recipe(path)
        assert (recipe.name, recipe.finetune.data, recipe.source(name).path) == (name, name, f"data/{name}")
        assert (recipe.finetune.encoder, recipe.finetune.seeds) == ("bundled", (0, 1, 2))
        assert recipe.finetune.metric_for_best_model != "loss"
    rows = (ROOT / "docs" / "guide" / "suite.md").read_text().partition("| task | kind |")[2].partition("\n\n")[0]
    shown = [name for row in rows.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    names = (
        (ROOT / "docs" / "companion" / "run.typ").read_text().partition("#let suite-tasks = (")[2].partition("\n)")[0]
    )
    for listed in (shown, re.findall(r"^  ([\w-]+):", names, re.MULTILINE)):
        assert sorted(listed) == sorted([*recipes, MINIMAL_PAIRS])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "classes", "files"),
    [
        ("mnli", ["contradiction", "entailment", "neutral"], ["train", "dev_matched", "dev_mismatched"]),
        ("qnli", ["entailment", "not_entailment"], ["train", "dev"]),
        ("qqp", ["duplicate", "not_duplicate"], ["train", "dev"]),
    ],
)
def test_pairs_of_the_suite_are_read_as_the_guide_writes_them(tmp_path, task, classes, files):
    rows = [{"text": f"Boat {n}.", "text_pair": "Is it?", "label": classes[n % len(classes)]} for n in range(6)]
    for name in files:
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = change_recipe(load_recipe(shipped.suite()[task]), data={task: {"path": str(tmp_path)}})
    config, found, source = recipe.finetune, recipe_task(recipe), recipe.source(task)
    train, test = (read_records(source, split, found.columns) for split in ("train", config.test_split))
    assert [(len(train), len(test)), test[0].text_pair] == [(6, 6 * (len(files) - 1)), "Is it?"]
    assert found.label_names(train, config.label_names, "train") == classes
    labels = found.labels(test, classes, train, "dev")
    found = found.about(config.positive_label, classes)
    measured = found.metrics(np.eye(len(classes), dtype=np.float32)[labels], labels)
    assert measured[config.metric_for_best_model] == 1


@pytest.mark.slow
def test_squad_2_is_read_in_its_own_form_with_questions_that_have_no_answer(tmp_path):
    asked = [
        {"question": "When did it sink?", "answers": [{"text": "May", "answer_start": 17}], "is_impossible": False},
        {"question": "Who built it?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": "The boat sank in May.", "qas": asked}
    for part in ("train", "dev"):
        content = {"version": "v2.0", "data": [{"title": "Boats", "paragraphs": [paragraph]}]}
        (tmp_path / f"{part}-v2.0.json").write_text(json.dumps(content))
    recipe = change_recipe(load_recipe(shipped.suite()["squad2"]), data={"squad2": {"path": str(tmp_path)}})
    task = recipe_task(recipe)
    for split in ("train", recipe.finetune.test_split):
        records = read_records(recipe.source("squad2"), split, task.columns)
        assert [len(record.answers) for record in records] == [1, 0]
    assert recipe.finetune.metric_for_best_model in task.choosing_metrics


class TestMinimalPairs:
    @pytest.fixture
    def encoder(self, tmp_path, small_tokenizer):
        torch.manual_seed(3)
        model = PretrainingModel(new_encoder(SHAPE, small_tokenizer.vocab_size))
        save_model(shaken(model, 0.1), small_tokenizer, tmp_path / "encoder")
        return tmp_path / "encoder"

    @pytest.fixture
    def write(self, tmp_path):
        def write(name, pairs):
            (tmp_path / "pairs").mkdir(exist_ok=True)
            rows = [{"sentence_good": good, "sentence_bad": bad, "UID": name} for good, bad in pairs]
            (tmp_path / "pairs" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            return tmp_path / "pairs"

        return write

    @pytest.mark.slow
    def test_pseudo_log_likelihoods_are_those_of_transformers_one_mask_at_a_time(self, encoder, small_tokenizer):
        from transformers import BertForMaskedLM

        theirs = BertForMaskedLM.from_pretrained(encoder, dtype=torch.float32).eval()
        texts = ["the cat sat on a mat", "rain was falling", "nobody came to look for it", "the mat sat on a cat"]
        rows = [
            np.array([small_tokenizer.cls_id, *ids, small_tokenizer.sep_id]) for ids in small_tokenizer.encode(texts)
        ]
        found = PretrainedEncoder(encoder, torch.device("cpu")).pseudo_log_likelihood(rows)
        for ids, ours in zip(rows, found, strict=True):
            expected = 0.0
            for place in range(1, len(ids) - 1):
                masked = torch.tensor(ids.astype(np.int64))[None].clone()
                masked[0, place] = small_tokenizer.mask_id
                with torch.no_grad():
                    expected += theirs(masked).logits[0, place].log_softmax(-1)[int(ids[place])].item()
            assert ours == pytest.approx(expected, rel=1e-5)

    def test_the_accuracy_is_the_mean_over_files_and_a_tie_counts_half(self, encoder, write):
        first, second = "the cat sat on a mat", "the mat sat on a cat roofs"
        model = PretrainedEncoder(encoder, torch.device("cpu"))
        scores = model.pseudo_log_likelihood(
            [
                np.array([model.tokenizer.cls_id, *ids, model.tokenizer.sep_id])
                for ids in model.tokenizer.encode([first, second])
            ]
        )
        good, bad = (first, second) if scores[0] > scores[1] else (second, first)
        write("one.jsonl", [(good, bad), (bad, good), (good, bad), (good, bad)])
        found = evaluate_minimal_pairs(encoder, write("two.jsonl", [(good, good), (good, bad)]))
        assert found["by_file"] == {"one": 0.75, "two": 0.75}
        write("two.jsonl", [(good, good)])
        found = evaluate_minimal_pairs(encoder, write("one.jsonl", [(good, bad)]))
        assert (found["mean"], found["pairs"], found["baseline"], found["seeds"]) == (0.75, 2, 0.5, [])

    def test_what_is_no_pair_is_refused(self, write, tmp_path, encoder, small_tokenizer):
        with pytest.raises(UserError, match="has no minimal pairs; put files there"):
            read_pairs(tmp_path / "empty")
        folder = write("one.jsonl", [("the cat", "")])
        with pytest.raises(UserError, match=r"one.jsonl, line 1 lacks a sentence"):
            read_pairs(folder)
        (folder / "one.jsonl").write_text('{"text": "the cat"}\n')
        with pytest.raises(UserError, match="has no column `sentence_good`"):
            read_pairs(folder)
        write("one.jsonl", [("the cat " * 40, "the mat")])
        with pytest.raises(UserError, match="more than the 64 tokens"):
            evaluate_minimal_pairs(encoder, folder)
        save_tagger(small_tokenizer, tmp_path / "tagger", ["O", "B-X"])
        with pytest.raises(UserError, match="has no head for masked tokens"):
            evaluate_minimal_pairs(tmp_path / "tagger", folder)
