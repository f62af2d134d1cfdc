"""A whole run through the command line, on small data: what a user does and sees."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import bertwright
from bertwright import stages
from bertwright.cli import main
from bertwright.errors import UserError
from bertwright.evaluate.curves import read_metrics
from bertwright.evaluate.evaluation import evaluate
from bertwright.files import read_json, write_json
from bertwright.models.checkpoints import find_model, new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.recipe_file import load_recipe
from bertwright.run_folder import RunFolder
from bertwright.stages import STAGES, Work
from bertwright.tasks.initial import reads, unseen_positions
from bertwright.train.engine import Engine
from processes import environment, in_two_processes


def test_a_run_goes_from_raw_text_to_a_report(finished):
    for name in ("recipe.yaml", "environment.json", "report.html", "results.json", "prepare/data_report.json"):
        assert (finished / name).stat().st_size > 0, name
    page = (finished / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert list((finished / "plots").glob("*.png"))


def test_results_hold_what_is_promised(finished):
    results = read_json(finished / "results.json")
    assert {"recipe", "commit", "seed", "machine", "seconds", "scores"} <= results.keys()
    baselines = {"most_frequent", "naive_bayes", "logistic_regression", "nb_logistic_regression"}
    assert results["scores"].keys() == {"bert", *baselines}
    assert results["positive_label"] == results["label_names"][1]
    assert results["resampled"]["unit"] in ("texts", "runs")
    assert len(results["calibration"]["bins"]) == min(15, results["scores"]["bert"]["count"])
    assert results["warnings"] == []
    for scores in results["scores"].values():
        assert 0 <= scores["f1_low"] <= scores["f1"] <= scores["f1_high"] <= 1
        assert 0 <= scores["accuracy"] <= 1
    assert results["spread"]["f1"]["n"] == 2
    measured = {"mlm_loss", "mlm_accuracy", "mlm_bits_per_character", "nsp_loss", "nsp_accuracy"}
    assert results["heldout"].keys() == measured


def test_a_word_that_decides_is_learned(finished):
    # "wonderful" or "dreadful" stands in each review: a classifier that can't tell them apart is broken.
    assert read_json(finished / "results.json")["scores"]["bert"]["accuracy"] > 0.9


def test_scores_are_those_of_the_saved_predictions_and_of_scikit_learn(finished):
    import numpy as np
    from sklearn.metrics import f1_score

    folder = finished / "evaluate" / "predictions"
    labels = np.load(folder / "labels.npy")
    f1 = [f1_score(labels, np.load(folder / f"bert-seed-{seed}.npy").argmax(1)) for seed in (0, 1)]
    assert read_json(finished / "results.json")["scores"]["bert"]["f1"] == pytest.approx(sum(f1) / 2)


@pytest.mark.parametrize("new", ["none", "one class"])
def test_a_test_split_that_stands_in_train_is_evaluated_all_the_same(finished, recipe_file, small_data, tmp_path, new):
    rows = [(small_data / "reviews" / f"{split}.jsonl").read_text().splitlines() for split in ("train", "test")]
    # Labels alternate: the second half of the rows, or of its class, is new.
    test = rows[0] if new == "none" else [rows[number % 2][number] for number in range(40)]
    (tmp_path / "reviews").mkdir()
    for split, lines in (("train", rows[0]), ("test", test)):
        (tmp_path / "reviews" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        rows[0] = [line.replace('"text": "', '"text": " ') for line in rows[0]]  # a copy may differ in white space
    recipe = load_recipe(recipe_file, data={"reviews": str(tmp_path / "reviews")})
    evaluate(recipe, finished, tmp_path / "out", Engine(recipe.system, print), lambda _: None)
    scores = read_json(tmp_path / "out" / "scores.json")
    assert scores["scores"]["bert"]["count"] == 40
    without = scores["without_train_duplicates"]
    assert without["count_removed"] == (40 if new == "none" else 20)
    assert new == "none" or "roc_auc" not in without["spread"]


def test_the_fine_tuned_model_predicts_alike_in_transformers(finished):
    import numpy as np
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(finished / "finetune" / "seed-0" / "model"), top_k=None)
    reviews = Path(read_recipe(finished)["data"]["reviews"])
    rows = [json.loads(line) for line in (reviews / "test.jsonl").read_text().splitlines()]
    ours = np.load(finished / "evaluate" / "predictions" / "bert-seed-0.npy")
    short = [i for i, row in enumerate(rows) if len(classify.tokenizer(row["text"])["input_ids"]) <= 64]
    assert len(short) >= 3
    for i in short:
        theirs = {score["label"]: score["score"] for score in classify([rows[i]["text"]])[0]}
        assert theirs["positive"] == pytest.approx(float(ours[i, 1]), abs=1e-4)


def read_recipe(run):
    return yaml.safe_load((run / "recipe.yaml").read_text())


def test_a_second_run_skips_what_has_not_changed_and_says_so(finished, recipe_file, capsys):
    before = (finished / "pretrain" / "model" / "model.safetensors").stat().st_mtime_ns
    assert main(["run", str(recipe_file), "--out", str(finished)]) == 0
    said = capsys.readouterr()
    for stage in list(STAGES)[:-1]:
        assert f"{stage}: nothing has changed" in said.err
    assert "bert" in said.out.lower()
    assert (finished / "pretrain" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_report_that_was_removed_is_written_again(finished, recipe_file, tmp_path):
    out = shutil.copytree(finished, tmp_path / "copy")
    results = read_json(out / "results.json")
    for name in ("report.html", "results.json"):
        (out / name).unlink()
    assert main(["report", str(recipe_file), "--out", str(out)]) == 0
    assert (out / "report.html").exists()
    assert read_json(out / "results.json") == results


def test_what_leaves_the_outcome_as_it_is_redoes_nothing_and_a_stage_that_was_cut_short_resumes(
    finished, recipe_file, capsys, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "copy")
    words = ["run", str(recipe_file), "--out", str(out), "--prepare.workers", "2"]
    for name in ("pretrain.log_every", "pretrain.evaluate_every", "pretrain.checkpoint_every"):
        words += [f"--{name}", "3"]
    for name in ("finetune.log_every", "finetune.checkpoint_every"):
        words += [f"--{name}", "7"]
    assert main(words) == 0
    said = capsys.readouterr().err
    for stage in list(STAGES)[:-1]:
        assert f"{stage}: nothing has changed" in said
    (out / "pretrain" / "stage.json").unlink()
    shutil.rmtree(out / "pretrain" / "checkpoints" / "step-00000008")
    assert main(["pretrain", *words[1:]]) == 0
    said = capsys.readouterr().err
    assert "resuming from step 4" in said
    assert "have changed" not in said


@pytest.mark.slow
def test_a_tokenizer_in_another_place_is_the_same_and_one_that_is_missing_is_not_none(
    finished, recipe_file, capsys, tmp_path
):
    words = ["prepare", str(recipe_file), "--out", str(tmp_path / "run")]
    for name, expected in (("first", "prepare: starting"), ("second", "nothing has changed")):
        folder = shutil.copytree(finished / "prepare" / "tokenizer", tmp_path / name)
        assert main([*words, "--tokenizer.path", str(folder)]) == 0
        assert expected in capsys.readouterr().err
    words[3] = str(shutil.copytree(finished, tmp_path / "own"))
    assert "/nowhere" in refused(capsys, *words, "--tokenizer.path", "/nowhere")


def test_a_changed_recipe_redoes_dependent_stages_and_keeps_the_earlier_result(finished, recipe_file, capsys, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    assert main(["run", str(recipe_file), "--out", str(out), "--finetune.seeds", "[0]", "--finetune.epochs", "1"]) == 0
    said = capsys.readouterr().err
    assert "prepare: nothing has changed" in said
    assert "pretrain: nothing has changed" in said
    assert "finetune: recipe or data have changed" in said
    assert (out / "finetune.before-1" / "seed-1" / "model").exists()
    assert not (out / "finetune" / "seed-1").exists()


def test_a_copy_without_hidden_files_is_no_excuse_to_take_over_another_recipe_s_results(
    finished, recipe_file, capsys, tmp_path
):
    out = tmp_path / "copy"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns(".*"))
    words = ["finetune", str(recipe_file), "--out", str(out), "--finetune.seeds", "[0]", "--finetune.epochs", "1"]
    assert main(words) == 0
    assert "finetune: recipe or data have changed" in capsys.readouterr().err
    assert (out / "finetune.before-1" / "seed-1" / "model").exists()


def refused(capsys, *words):
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("bertwright: error: ")
    return said


def test_a_stage_whose_input_is_missing_says_what_to_run_first(recipe_file, tmp_path, capsys):
    assert "run `bertwright prepare` first" in refused(capsys, "pretrain", str(recipe_file), "--out", str(tmp_path))


@pytest.mark.slow
def test_a_refused_command_leaves_the_recipe_of_what_was_run(finished, recipe_file, tmp_path, capsys):
    for name in ("recipe.yaml", "environment.json", "prepare/stage.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(finished / name, tmp_path / name)
    before = {path: path.read_text() for path in tmp_path.glob("*.*")}
    assert len(before) == 2
    for words in (
        ("pretrain", "--tokenizer.vocab_size", "170"),
        ("prepare", "--data.books", "/nowhere"),
        ("run", "--data.reviews", str(tmp_path / "recipe.yaml")),
    ):
        refused(capsys, words[0], str(recipe_file), "--out", str(tmp_path), *words[1:])
        assert {path: path.read_text() for path in before} == before, words


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_mistake_changes_nothing(finished, recipe_file, tmp_path, capsys):
    broken = shutil.copytree(finished / "pretrain" / "model", tmp_path / "broken")
    (broken / "config.json").write_text("{")
    short = str(finished / "pretrain" / "model")
    before = contents(finished)
    for words in (
        ("run", str(recipe_file), "--finetune.encoder", "/nowhere"),
        ("run", str(recipe_file), "--finetune.encoder", str(broken)),
        ("finetune", str(recipe_file), "--finetune.encoder", "/nowhere"),
        ("finetune", str(recipe_file), "--finetune.encoder", short, "--finetune.max_length", "65"),
        ("run", "/nowhere.yaml"),
        ("run", str(recipe_file), "--data.reviews", "/nowhere"),
        ("run", str(recipe_file), "--tokenizer.path", "/nowhere"),
        ("run", str(recipe_file), "--pretrain.max_steps", "5"),
    ):
        refused(capsys, *words, "--out", str(finished))
        assert contents(finished) == before, words


def test_a_longer_budget_continues_and_the_report_of_the_shorter_one_is_set_aside(
    finished, recipe_file, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "copy")
    words = [str(recipe_file), "--out", str(out), "--pretrain.micro_batch_tokens", "1024"]
    assert main(["pretrain", *words, "--pretrain.max_steps", "10"]) == 0
    said = capsys.readouterr().err
    assert "resuming from step 8" in said
    assert "the budget was 8 steps and is now 10 steps" in said
    lines = [json.loads(line) for line in (out / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 11))
    assert (out / "pretrain.before-1" / "model").exists()
    assert not (out / "report.html").exists()
    assert read_json(out / "report.before-1" / "results.json") == read_json(finished / "results.json")
    assert "has done 10 steps" in refused(capsys, "pretrain", *words, "--pretrain.max_steps", "9")
    assert "report needs `evaluate`" in refused(capsys, "report", *words, "--pretrain.max_steps", "10")
    assert read_json(out / "environment.json") == read_json(out / "pretrain" / "environment.json")


def test_results_say_of_each_stage_where_it_was_done(finished):
    results = read_json(finished / "results.json")
    stages = list(STAGES)[:-1]
    assert list(results["environments"]) == list(results["fingerprints"]) == stages
    for stage in stages:
        assert results["environments"][stage] == read_json(finished / stage / "environment.json")
        assert results["fingerprints"][stage] == read_json(finished / stage / "stage.json")["fingerprint"]


def test_a_run_folder_in_use_is_refused(recipe_file, tmp_path, capsys):
    with RunFolder(tmp_path).locked():
        assert "another bertwright command" in refused(capsys, "prepare", str(recipe_file), "--out", str(tmp_path))


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/bertwright"])
def test_a_folder_that_cannot_be_is_refused(recipe_file, tmp_path, capsys, out):
    (tmp_path / "file").write_text("not a folder")
    assert "can't be used as a run folder" in refused(capsys, "prepare", str(recipe_file), "--out", str(tmp_path / out))


@pytest.mark.slow
def test_options_beside_a_vocabulary_are_part_of_it(finished, recipe_file, capsys, tmp_path):
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copyfile(finished / "prepare" / "tokenizer" / name, tmp_path / name)
    words = [
        "prepare",
        str(recipe_file),
        "--out",
        str(tmp_path / "run"),
        "--tokenizer.path",
        str(tmp_path / "vocab.txt"),
    ]
    assert main(words) == 0
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**options, "do_lower_case": False}))
    assert main(words) == 0
    assert "prepare: recipe or data have changed" in capsys.readouterr().err


@pytest.mark.slow
def test_without_git_a_run_has_no_commit_and_continues(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["prepare", str(recipe_file), "--out", str(tmp_path / "run")]) == 0
    assert read_json(tmp_path / "run" / "environment.json")["commit"] == "unknown"


def test_a_later_report_says_where_the_models_come_from(finished, recipe_file, tmp_path):
    out = shutil.copytree(finished, tmp_path / "copy")
    elsewhere = json.dumps({**read_json(out / "environment.json"), "machine": "another"})
    (out / "environment.json").write_text(elsewhere)
    assert main(["report", str(recipe_file), "--out", str(out)]) == 0
    assert read_json(out / "environment.json")["machine"] == "another"


@pytest.mark.slow
def test_texts_that_share_no_word_stop_no_run_and_baselines_leave_themselves_out(recipe_file, tmp_path, capsys):
    reviews = tmp_path / "reviews"
    reviews.mkdir()
    for split in ("train", "test"):
        rows = [json.dumps({"text": f"{split}word{number}", "label": number % 2}) for number in range(8)]
        (reviews / f"{split}.jsonl").write_text("\n".join(rows))
    out = tmp_path / "o"
    assert main(["baselines", str(recipe_file), "--out", str(out), "--data.reviews", str(reviews)]) in (0, None)
    left_out = read_json(out / "baselines" / "left_out.json")
    assert left_out.keys() == {"logistic_regression", "nb_logistic_regression"}
    assert "share a word" in left_out["nb_logistic_regression"]
    assert (out / "baselines" / "most_frequent.npy").is_file()


def test_a_missing_file_is_refused(recipe_file, tmp_path, capsys):
    words = ["run", str(recipe_file), "--out", str(tmp_path), "--data.books", "/nowhere/books-*.jsonl"]
    assert "/nowhere/books-*.jsonl" in refused(capsys, *words)


def test_labels_of_a_single_class_are_refused(recipe_file, tmp_path, small_data, capsys):
    reviews = tmp_path / "reviews"
    reviews.mkdir()
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (small_data / "reviews" / f"{split}.jsonl").read_text().splitlines()]
        lines = [json.dumps(row) for row in rows if row["label"] == 1]
        (reviews / f"{split}.jsonl").write_text("\n".join(lines))
    said = refused(capsys, "baselines", str(recipe_file), "--out", str(tmp_path / "o"), "--data.reviews", str(reviews))
    assert "two classes" in said


def test_a_label_that_train_does_not_know_is_refused(recipe_file, tmp_path, small_data, capsys):
    reviews = tmp_path / "reviews"
    reviews.mkdir()
    train = (small_data / "reviews" / "train.jsonl").read_text()
    (reviews / "train.jsonl").write_text(train)
    (reviews / "test.jsonl").write_text(train + json.dumps({"text": "A film.", "label": 2}) + "\n")
    said = refused(capsys, "baselines", str(recipe_file), "--out", str(tmp_path / "o"), "--data.reviews", str(reviews))
    assert "text test/40 has label 2, but train has only 0, 1" in said


@pytest.fixture
def unlabelled_reviews(small_data, tmp_path):
    """The small reviews with a third split, whose last row is broken."""
    folder = shutil.copytree(small_data / "reviews", tmp_path / "reviews")
    rows = [json.dumps({"text": f"A film of {year}."}) for year in range(1990, 2000)]
    (folder / "unsup.jsonl").write_text("\n".join([*rows, "{"]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("reviews:unlabelled", "no split `unlabelled`"),
        ("reviews:unsup", "unsup.jsonl, line 11 is not valid JSON"),
        ("more", "reads the test split that the report evaluates on; name other texts, or leave it out"),
        ("reviews", "reads the test split that the report evaluates on; write reviews:unsupervised"),
        ("reviews:unsup+test", "reads the test split that the report evaluates on; write reviews:unsupervised"),
    ],
)
def test_unlabelled_texts_are_checked_before_anything_is_trained(
    unlabelled_reviews, recipe_file, tmp_path, capsys, entry, expected
):
    words = ["--data.reviews", str(unlabelled_reviews), "--finetune.unlabelled", entry]
    if entry == "more":
        words += ["--data.more", str(unlabelled_reviews / "te*.jsonl")]
    assert expected in refused(capsys, "run", str(recipe_file), "--out", str(tmp_path / "out"), *words)
    assert not (tmp_path / "out" / "prepare").exists()


@pytest.mark.slow
def test_an_encoder_from_elsewhere_is_not_fine_tuned_on_the_test_split(recipe_file, tmp_path, capsys):
    words = ["finetune", str(recipe_file), "--out", str(tmp_path), "--finetune.encoder", "bundled"]
    assert "reads the test split" in refused(capsys, *words, "--finetune.unlabelled", "reviews")


@pytest.mark.slow
def test_an_interrupted_command_resumes_where_it_was(recipe_file, tmp_path):
    out = tmp_path / "run"
    words = ["run", str(recipe_file), "--out", str(out), "--pretrain.max_steps", "150", "--finetune.epochs", "1"]
    command = [sys.executable, "-m", "bertwright", *words]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell runs in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not list(out.glob("pretrain/checkpoints/step-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "resumes from the last checkpoint" in said
    assert "Traceback" not in said
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "prepare: nothing has changed" in again.stderr
    assert "resuming from step" in again.stderr
    assert (out / "report.html").exists()


def test_an_encoder_from_elsewhere_needs_no_pretraining(finished, recipe_file, tmp_path, capsys):
    out = tmp_path / "own"
    encoder = shutil.copytree(finished / "pretrain" / "model", tmp_path / "encoder")
    (encoder / "onnx").mkdir()  # as `export` leaves it; a clone has .git there
    assert main(["run", str(recipe_file), "--out", str(out), "--finetune.encoder", str(encoder)]) == 0
    assert not (out / "pretrain").exists()
    said = "encoder was pre-trained before this run"
    assert f"{said}: <code>{encoder.name}</code>" in (out / "report.html").read_text()
    assert said not in (finished / "report.html").read_text()
    results = json.loads((out / "results.json").read_text())
    baselines = {"most_frequent", "naive_bayes", "logistic_regression", "nb_logistic_regression"}
    assert set(results["scores"]) == {"bert", *baselines}
    assert "masks" not in capsys.readouterr().err
    moved = str(encoder.rename(tmp_path / "moved"))
    assert main(["finetune", str(recipe_file), "--out", str(out), "--finetune.encoder", moved]) == 0
    assert "finetune: nothing has changed" in capsys.readouterr().err
    said = refused(capsys, "pretrain", str(recipe_file), "--out", str(out), "--finetune.encoder", moved)
    assert "nothing to pretrain: the recipe begins with an encoder" in said


def test_a_recipe_with_an_encoder_need_not_speak_of_pretraining(finished, small_data, tmp_path):
    content = {
        "name": "own",
        "data": {"reviews": str(small_data / "reviews")},
        "finetune": {
            "data": "reviews",
            "encoder": str(finished / "pretrain" / "model"),
            "epochs": 1,
            "max_length": 64,
        },
        "system": {"precision": "fp32", "compile": "off"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert main(["finetune", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / "finetune" / "seed-0" / "model" / "config.json").exists()


@pytest.mark.slow
def test_without_labels_a_run_ends_with_an_encoder(recipe_file, small_data, tmp_path, capsys):
    content = yaml.safe_load(Path(recipe_file).read_text())
    del content["finetune"]
    content |= {"data": {"books": str(small_data / "books")}, "prepare": {"corpora": ["books"], "heldout_ratio": 0.1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    words = [str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run")]
    assert main(["run", *words]) == 0
    said = capsys.readouterr()
    run = tmp_path / "run"
    assert (run / "pretrain" / "model" / "model.safetensors").exists()
    results = read_json(run / "results.json")
    assert results["heldout"].keys() == {
        "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "mlm_bits_per_character"
    }  # fmt: skip
    assert results["weights"].keys() == {"pretrain/model"}
    assert results["stage_seconds"].keys() == {"prepare", "pretrain", "evaluate"}
    assert not {"scores", "heldout_before"} & results.keys()
    last = read_metrics(run / "pretrain" / "metrics.jsonl")[-1]
    assert results["heldout"]["mlm_loss"] == pytest.approx(last["mlm_loss"], abs=1e-3)
    assert f"loss on masked tokens        {results['heldout']['mlm_loss']:.3f}" in said.out
    assert "before" not in said.out
    page = (run / "report.html").read_text()
    assert "This run has no labels: it ends with an encoder, evaluated on held-out text." in page
    assert f"reaches a loss of {results['heldout']['mlm_loss']:.3f}" in page
    assert "predictions of masked tokens" in page
    assert main(["run", *words]) == 0
    assert capsys.readouterr().err.count("nothing has changed") == 3
    for stage in ("finetune", "baselines"):
        assert "names no labelled texts (finetune.data)" in refused(capsys, stage, *words)


@pytest.mark.slow
def test_a_recipe_without_an_encoder_must_say_what_to_pretrain_on(small_data, tmp_path, capsys):
    content = {"name": "own", "data": {"reviews": str(small_data / "reviews")}, "finetune": {"data": "reviews"}}
    for more, expected in (({}, "prepare.corpora is empty"), ({"prepare": {"corpora": ["reviews"]}}, "needs a budget")):
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({**content, **more}))
        assert expected in refused(capsys, "run", str(tmp_path / "own.yaml"))


@pytest.fixture
def quick_recipe(recipe_file, tmp_path) -> Path:
    """`recipe_file` without dropout, cut down to four steps of pre-training and an epoch of fine-tuning."""
    content = yaml.safe_load(recipe_file.read_text())
    content["model"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    content["pretrain"] |= {"max_steps": 4, "evaluate_every": 4, "checkpoint_every": 4}
    content["finetune"] |= {"epochs": 1, "seeds": [0], "classifier_dropout": 0.0}
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_mistake_under_two_processes_is_said_once(recipe_file, tmp_path):
    words = ["run", str(recipe_file), "--out", str(tmp_path / "run"), "--finetune.encoder", "/nowhere"]
    command = in_two_processes(["-m", "bertwright", *words])
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stderr.count("bertwright: error: ") == 1
    # The launcher's own traceback says that its processes failed; there is none of ours.
    assert done.stderr.count("Traceback") <= 1
    assert "src/bertwright" not in done.stderr


@pytest.mark.slow
def test_two_processes_of_accelerate_do_a_whole_run_as_one_does(quick_recipe, tmp_path):
    import numpy as np
    from safetensors.numpy import load_file

    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["run", str(quick_recipe), "--out", str(alone)]) == 0
    command = in_two_processes(["-m", "bertwright", "run", str(quick_recipe), "--out", str(together)])
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("finetune: done in") == 1  # one process tells
    assert read_json(together / "environment.json")["processes"] == 2
    for model, tolerance in (("pretrain/model", 2e-4), ("finetune/seed-0/model", 5e-3)):
        ours, theirs = (load_file(run / model / "model.safetensors") for run in (alone, together))
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(theirs[name], ours[name], atol=tolerance, err_msg=f"{model}: {name}")
    for name in ("labels", "bert-seed-0", "naive_bayes"):
        ours, theirs = (np.load(run / "evaluate" / "predictions" / f"{name}.npy") for run in (alone, together))
        np.testing.assert_allclose(theirs, ours, atol=1e-2, err_msg=name)
    heldout = [read_json(run / "results.json")["heldout"] for run in (alone, together)]
    assert heldout[1] == pytest.approx(heldout[0], abs=5e-3)


def test_names_in_another_order_have_other_baselines(finished, recipe_file, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "small")
    names = "[positive, negative]"
    assert main(["baselines", str(recipe_file), "--out", str(out), "--finetune.label_names", names]) == 0
    assert "nothing has changed" not in capsys.readouterr().err


def test_the_first_seed_is_that_of_the_recipe(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "small")
    assert bertwright.load(out).classifier_folder.parent.name == "seed-0"
    recipe = yaml.safe_load((out / "finetune" / "recipe.yaml").read_text())
    recipe["finetune"]["seeds"] = [1, 0]
    (out / "finetune" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert bertwright.load(out).classifier_folder.parent.name == "seed-1"


def test_a_run_does_not_start_from_its_own_result(finished, recipe_file, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "small")
    own = str(out / "finetune" / "seed-0" / "model")
    said = refused(capsys, "run", str(recipe_file), "--out", str(out), "--finetune.encoder", own)
    assert "which this run writes itself; name another folder: --out" in said


@pytest.mark.slow
@pytest.mark.parametrize(("length", "is_said"), [(64, False), (128, True)])
def test_positions_that_pretraining_does_not_see_are_said_before_it(recipe_file, tmp_path, capsys, length, is_said):
    words = ["--model.max_position_embeddings", "128", "--finetune.max_length", str(length), "--out", str(tmp_path)]
    assert main(["run", str(recipe_file), *words, "--model.architecture", "t5"]) == 2  # before any work
    said = capsys.readouterr().err
    assert ("give pretrain.phases a sequence_length of 128, or lower finetune.max_length to 64" in said) == is_said
    longer = {"phases": [{"sequence_length": length}], "batch_tokens": 1024}  # the advice, taken
    fits = load_recipe(
        recipe_file, model={"max_position_embeddings": 128}, pretrain=longer, finetune={"max_length": length}
    )
    assert unseen_positions(fits) is None


def test_a_wrong_architecture_is_refused_before_the_corpus_is_prepared(recipe_file, tmp_path, capsys):
    said = refused(capsys, "run", str(recipe_file), "--out", str(tmp_path / "x"), "--model.architecture", "ModernBERT")
    assert "model.architecture is ModernBERT; Bertwright has: bert, modernbert" in said
    assert not (tmp_path / "x" / "prepare").exists()


def test_a_metric_that_the_test_split_does_not_define_gives_way_to_the_primary_one(
    finished, recipe_file, small_data, tmp_path
):
    rows = [row for row in (small_data / "reviews" / "test.jsonl").read_text().splitlines() if '"label": 1' in row]
    assert rows
    shutil.copytree(small_data / "reviews", tmp_path / "reviews")
    (tmp_path / "reviews" / "test.jsonl").write_text("\n".join(rows))
    encoder, data = str(finished / "pretrain" / "model"), str(tmp_path / "reviews")
    finetune = {"encoder": encoder, "metric_for_best_model": "roc_auc", "epochs": 1, "seeds": [0]}
    run = bertwright.run(recipe_file, out=str(tmp_path / "run"), data={"reviews": data}, finetune=finetune)
    assert run.results["primary_metric"] == "f1"
    assert (run.path / "report.html").exists()


def test_a_folder_may_begin_with_a_tilde(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", str(recipe_file), "--out=~/runs/small"]) == 0
    assert (tmp_path / "runs" / "small" / "prepare" / "tokenizer").is_dir()
    assert not (tmp_path / "~").exists()


@pytest.fixture
def own_reviews(small_data, tmp_path):
    """A copy of the labelled reviews."""
    return shutil.copytree(small_data / "reviews", tmp_path / "reviews")


def test_texts_that_change_while_a_run_is_at_work_are_not_mixed_with_those_of_before(
    finished, recipe_file, own_reviews, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "small")
    recipe = load_recipe(recipe_file, data={"reviews": str(own_reviews)})
    said = []
    work = Work(recipe, RunFolder(out), Engine(recipe.system, said.append), said.append)
    for stage in work.stages:
        work.fingerprint(stage)
    (own_reviews / "test.jsonl").touch()  # the same content at another time is no change
    work.perform("baselines")
    assert "baselines: nothing has changed" in said[-1]
    with (own_reviews / "test.jsonl").open("a") as file:
        file.write('{"text": "a wonderful film", "label": 1}\n')
    for stage in ("finetune", "baselines", "evaluate"):
        with pytest.raises(UserError, match=f"that {stage} reads have changed since this command began; run it again"):
            work.perform(stage)
    work.perform("pretrain")  # which reads what was prepared
    anew = Work(recipe, RunFolder(out), Engine(recipe.system, said.append), said.append)
    assert not anew.is_done("baselines")


def test_texts_that_change_while_they_are_prepared_are_prepared_again(
    recipe_file, own_reviews, tmp_path, capsys, monkeypatch
):
    prepare_corpus, edits = stages.prepare_corpus, ["one"]

    def while_edited(*given):
        report = prepare_corpus(*given)
        if edits:
            with (own_reviews / "train.jsonl").open("a") as file:
                file.write('{"text": "a dreadful film", "label": 0}\n')
            edits.clear()
        return report

    monkeypatch.setattr(stages, "prepare_corpus", while_edited)
    words = ["prepare", str(recipe_file), "--out", str(tmp_path / "out"), "--data.reviews", str(own_reviews)]
    said = refused(capsys, *words)
    assert "that prepare reads have changed since this command began" in said
    assert not (tmp_path / "out" / "prepare" / "stage.json").exists()
    assert main(words) == 0


def test_a_run_that_begins_with_another_encoder_since_does_not_answer_with_its_earlier_one(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "small")
    assert bertwright.load(out).pretrained.folder == find_model(out, "encoder") == out / "pretrain" / "model"
    recipe = yaml.safe_load((out / "finetune" / "recipe.yaml").read_text())
    recipe["finetune"]["encoder"] = "bundled"
    (out / "finetune" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    model = bertwright.load(out)
    assert model.pretrained.folder == model.classifier_folder == out / "finetune" / "seed-0" / "model"
    with pytest.raises(UserError, match="has fine-tuned an encoder and pre-trained none; name its model: "):
        find_model(out, "encoder")


def test_a_fine_tuning_that_is_not_finished_does_not_answer_as_if_it_were(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "small")
    (out / "finetune" / "stage.json").unlink()
    with pytest.raises(UserError, match="is not finished; the command that began it resumes it; for its best") as said:
        bertwright.load(out)
    bertwright.load(str(said.value).rpartition("give ")[2])
    write_json(out / "finetune" / "stage.json", {})
    (out / "finetune" / "begun.json").unlink(missing_ok=True)
    bertwright.load(out)


def test_an_encoder_is_said_to_read_what_it_was_trained_on(recipe_file, finished, tmp_path):
    longer = load_recipe(recipe_file, model={"max_position_embeddings": 128})
    model = PretrainingModel(new_encoder(longer.model, 100))
    assert reads(longer, model) == (64, "head-tail")
    modern = load_recipe(
        recipe_file,
        model={"architecture": "modernbert", "max_position_embeddings": 128},
        pretrain={"next_sentence": False},
    )
    assert reads(modern, PretrainingModel(new_encoder(modern.model, 100))) == (128, "head-tail")
    encoder = shutil.copytree(finished / "pretrain" / "model", tmp_path / "encoder")
    config = read_json(encoder / "config.json")
    write_json(encoder / "config.json", {**config, "max_position_embeddings": 128})
    for length, is_said in ((64, False), (128, True)):
        recipe = load_recipe(recipe_file, finetune={"encoder": str(encoder), "max_length": length})
        said = unseen_positions(recipe)
        assert (said is not None) == is_said
    assert said.endswith("lower finetune.max_length to 64")
