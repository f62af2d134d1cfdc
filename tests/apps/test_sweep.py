"""A sweep: what it searches, which trials it does, what it ends with, and that no trial reads the test split."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from bertwright.apps.sweep import sweep
from bertwright.apps.sweep_plot import importances, save_sweep
from bertwright.apps.sweep_recipe import write_best
from bertwright.apps.sweep_space import changed, own_values, rounded, search_space
from bertwright.apps.sweep_trials import OutOfTime, Watch, quarters
from bertwright.cli import main
from bertwright.errors import NotFiniteError, UserError
from bertwright.files import read_json
from bertwright.models.checkpoints import load_tokenizer, save_model
from bertwright.recipe_file import build_recipe, change_recipe, load_recipe, make_recipe_parser, plain_words
from conftest import ROOT
from small_models import SHAPE, classifier


def write_rows(path, rows, start=0):
    texts = [f"the {'cat' if number % 2 else 'rain'} sat over old roofs {number % 7}" for number in range(start, rows)]
    path.write_text(
        "".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate(texts)), encoding="utf-8"
    )


@pytest.fixture
def recipe_path(tmp_path, small_tokenizer):
    """The file of a recipe on twelve texts a class, with a random encoder; its test split cannot be read."""
    save_model(classifier(SHAPE, small_tokenizer.vocab_size, ["x", "y", "z"]), small_tokenizer, tmp_path / "encoder")
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.jsonl", 24)
    (data / "test.jsonl").write_text("not JSON\n")
    content = {
        "name": "swept",
        "out": str(tmp_path / "run"),
        "data": {"texts": {"path": str(data)}},
        "finetune": {
            "data": "texts",
            "encoder": str(tmp_path / "encoder"),
            "epochs": 2,
            "batch_size": 4,
            "max_length": 16,
            "micro_batch_tokens": 64,
            "validation_ratio": 0.3,
            "seeds": [3, 4],
            "optimizer": {"learning_rate": 1e-3, "warmup_ratio": 0.1},
        },
        "sweep": {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "epochs": [1, 2, 3]},
        "system": {"precision": "fp32", "compile": "off"},
    }
    path = tmp_path / "swept.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def recipe(recipe_path):
    return load_recipe(recipe_path)


def search_alone(recipe, minutes, trials=None):
    """A sweep without its final run, which takes longer than the trials: that run alone reads the test split."""
    with pytest.raises(UserError, match=r"test\.jsonl, line 1"):
        sweep(recipe, minutes, trials=trials)


def swept(recipe, **options):
    return search_space(replace(recipe, sweep=options))


@pytest.mark.slow
def test_by_default_learning_rate_epochs_and_batch_size_around_the_recipe_s_are_searched(recipe):
    assert swept(recipe) == {
        "optimizer.learning_rate": FloatDistribution(0.25e-3, 4e-3, log=True),
        "epochs": CategoricalDistribution([1.0, 2.0, 4.0]),
        "batch_size": CategoricalDistribution([2, 4, 8]),
    }
    assert own_values(recipe, swept(recipe)) == {"optimizer.learning_rate": 1e-3, "epochs": 2.0, "batch_size": 4}
    muon = change_recipe(recipe, finetune={"optimizer": {"name": "muon"}})
    assert swept(muon)["optimizer.muon_learning_rate"] == FloatDistribution(0.25e-3, 4e-3, log=True)


@pytest.mark.slow
def test_a_recipe_opens_ranges_and_lists_of_any_setting_and_their_values_are_the_setting_s(recipe):
    assert swept(
        recipe,
        epochs=[1, 2.5],
        batch_size={"low": 2, "high": 8},
        classifier_dropout={"low": 0, "high": 0.5},
        optimizer={"weight_decay": [0, 0.1]},
        truncation=["head", "tail"],
        hidden_dropout_prob=[None, 0.2],
        freeze_encoder=[True, False],
    ) == {
        "epochs": CategoricalDistribution([1.0, 2.5]),
        "batch_size": IntDistribution(2, 8),
        "classifier_dropout": FloatDistribution(0.0, 0.5),
        "optimizer.weight_decay": CategoricalDistribution([0.0, 0.1]),
        "truncation": CategoricalDistribution(["head", "tail"]),
        "hidden_dropout_prob": CategoricalDistribution([None, 0.2]),
        "freeze_encoder": CategoricalDistribution([True, False]),
    }


@pytest.mark.slow
def test_a_range_is_a_recipe_s_on_the_command_line_too(recipe_path):
    option = ["--sweep.optimizer.weight_decay", "{low: 0, high: 0.2}"]
    parsed = make_recipe_parser().parse_args(plain_words(["--recipe", str(recipe_path), *option]))
    assert search_space(build_recipe(parsed))["optimizer.weight_decay"] == FloatDistribution(0.0, 0.2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rate": [1e-4, 1e-3]}, "no setting learning_rate to search; did you mean optimizer.learning_rate?"),
        ({"finetune.epochs": [1, 2]}, "no setting finetune.epochs to search; did you mean epochs?"),
        ({"epoch": [1, 2]}, "did you mean epochs?"),
        ({"nothing": [1, 2]}, "there are: freeze_encoder, "),
        ({"log_every": [1, 2]}, "no setting log_every"),
        ({"seeds": [[1], [2]]}, "sweep: seeds is the same in all trials, so that their losses compare; leave it out"),
        ({"validation_ratio": [0.1, 0.2]}, "validation_ratio is the same in all trials"),
        ({"optimizer": 3}, "optimizer is a section"),
        ({"optimizer": {"beta1": [0.8, 0.9]}, "optimizer.beta1": [0.8, 0.9]}, "optimizer.beta1 is given twice"),
        ({"epochs": 3}, "epochs is 3; write a list of values, or a range {low: 1, high: 2}"),
        ({"epochs": [3]}, "epochs needs two values or more, each once; it has 3"),
        ({"epochs": [3, 3.0]}, "epochs needs two values or more, each once; it has 3, 3"),
        ({"epochs": ["many", 2]}, "opens epochs many, which does not fit"),
        ({"epochs": [0, 2]}, "finetune.epochs is 0.0; it must be above 0"),
        ({"epochs": {"low": 1}}, "the range of epochs has low; write {low: 1, high: 2}"),
        ({"epochs": {"low": 1, "high": 2, "step": 1}}, "the range of epochs has low, high, step"),
        ({"epochs": {"low": 1, "high": 2, "log": "yes"}}, "the range of epochs has low, high, log"),
        ({"epochs": {"low": 2, "high": 1}}, "low must be below high"),
        ({"classifier_dropout": {"low": 0, "high": 1}}, "classifier_dropout is 1.0; it must be in [0, 1)"),
        ({"classifier_dropout": {"low": 0, "high": 0.5, "log": True}}, "log needs a low above 0"),
        ({"batch_size": {"low": 2.5, "high": 8}}, "batch_size 2.5, which does not fit"),
        ({"truncation": {"low": 1, "high": 2}}, "truncation 1, which does not fit"),
        ({"class_weights": [None, "balanced"]}, "class_weights is the same in all trials"),
        ({"epochs": [[1], 2]}, "opens epochs [1], which does not fit"),
        ({"freeze_encoder": [True, False], "averaging_block": [True, False]}, "leave one of them out"),
        ({"max_length": [16, 128]}, "micro_batch_tokens (64) must be at least finetune.max_length (128)"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_searched_is_refused_with_one_sentence(recipe, options, expected):
    with pytest.raises(UserError) as refused:
        swept(recipe, **options)
    assert expected in str(refused.value), refused.value
    assert "\n" not in str(refused.value)


PAIRS = {"texts": {"text_pair_column": "text_pair"}}


@pytest.mark.parametrize(
    ("changes", "opened", "expected"),
    [
        (
            {"data": PAIRS},
            {"truncation": ["head", "windows"]},
            "the sweep opens truncation windows, which does not fit: finetune.truncation is windows, and a pair of",
        ),
        (
            {"finetune": {"task": "embedding"}},
            {"batch_size": [4, 18]},
            "the sweep opens batch_size 18, which does not fit: the training set has 17 texts, and a text is compared",
        ),
        (
            {"finetune": {"task": "embedding"}},
            {"freeze_encoder": [False, True]},
            "the sweep opens freeze_encoder true, which does not fit: finetune.freeze_encoder would leave nothing",
        ),
    ],
)
@pytest.mark.slow
def test_values_that_the_task_or_its_data_refuse_are_said_before_the_first_trial(
    recipe, tmp_path, changes, opened, expected
):
    rows = (json.loads(line) for line in (tmp_path / "data/train.jsonl").read_text().splitlines())
    pairs = [{**row, "text": f"{row['text']} {n}", "text_pair": "it sat"} for n, row in enumerate(rows)]
    (tmp_path / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (tmp_path / "data/test.jsonl").write_text("")
    with pytest.raises(UserError) as refused:
        sweep(replace(change_recipe(recipe, **changes), sweep=opened), 60)
    assert str(refused.value).startswith(expected), refused.value
    assert not (tmp_path / "run/sweep").exists()


@pytest.mark.slow
def test_an_averaging_block_that_the_encoder_has_no_place_for_is_said_before_the_first_trial(recipe, tmp_path):
    shape = replace(SHAPE, architecture="modernbert")
    save_model(classifier(shape, 64, ["x", "y", "z"]), load_tokenizer(tmp_path / "encoder"), tmp_path / "modern")
    recipe = change_recipe(recipe, finetune={"encoder": str(tmp_path / "modern")})
    with pytest.raises(
        UserError, match=r"the sweep opens averaging_block true, which does not fit: finetune\.averaging"
    ):
        sweep(replace(recipe, sweep={"averaging_block": [False, True]}), 60)
    assert not (tmp_path / "run/sweep").exists()


@pytest.mark.slow
def test_by_default_a_batch_of_vectors_is_not_larger_than_the_training_set_and_has_two_texts(recipe):
    def sizes(batch_size, rows):
        finetune = replace(recipe.finetune, task="embedding", batch_size=batch_size)
        found = search_space(replace(recipe, sweep={}, finetune=finetune), rows)
        return list(found["batch_size"].choices) if "batch_size" in found else None

    assert [sizes(4, 8), sizes(4, 7), sizes(2, 4), sizes(2, 3)] == [[2, 4, 8], [2, 4], [2, 4], None]


@pytest.mark.slow
def test_a_sweep_of_tags_that_are_no_entities_shows_their_accuracy(recipe, tmp_path):
    rows = [{"tokens": ["the", "cat", "sat", str(n)], "tags": ["DET", "NOUN", "VERB", "NUM"]} for n in range(24)]
    (tmp_path / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    search_alone(change_recipe(recipe, finetune={"task": "token-classification"}), 60, trials=1)
    state = read_json(tmp_path / "run/sweep/trials.json")
    assert state["metric"] == "accuracy"
    assert 0 <= state["trials"][0]["score"] <= 1


def test_a_drawn_number_has_three_digits_and_stays_in_its_range():
    space = {"a": FloatDistribution(0.00012345, 0.0123, log=True), "b": IntDistribution(1, 99_999)}
    assert rounded(space, {"a": 0.00098765, "b": 12_345}) == {"a": 0.000988, "b": 12_345}
    assert rounded(space, {"a": 0.00012345, "b": 1}) == {"a": 0.00012345, "b": 1}


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 5, 7, 10, 12])
def test_the_loss_at_quarters_of_the_budget_is_interpolated_between_evaluations(evaluations):
    places = np.arange(1, evaluations + 1) / evaluations
    values = np.random.default_rng(evaluations).random(evaluations)
    found, before = {}, None
    for place, value in zip(places, values, strict=True):
        found |= dict(quarters(before, (place, value)))
        before = (place, value)
    expected = {n: np.interp(n / 4, places, values) for n in (1, 2, 3, 4) if n / 4 >= places[0] - 1e-9}
    assert found == pytest.approx(expected)


def study_of(trials, space, **options):
    study = optuna.create_study(direction="minimize", **options)
    for params, value, reached in trials:
        study.add_trial(create_trial(params=params, distributions=space, value=value, intermediate_values=reached))
    return study


def test_a_trial_above_the_median_loss_is_ended_from_half_of_its_own_budget_on():
    space = {"x": FloatDistribution(0, 1)}
    good = [({"x": 0.5}, 0.3, {2: 0.5 + n / 100, 4: 0.3}) for n in range(5)]
    pruner = optuna.pruners.MedianPruner(5, n_warmup_steps=2, n_min_trials=3)

    def watch():
        return Watch(study_of(good, space, pruner=pruner).ask(space), "loss", "f1", float("inf"))

    short, long = watch(), watch()
    with pytest.raises(optuna.TrialPruned):
        short(0.5, {"f1": 0.9, "loss": 0.53}, True)
    for number in range(1, 5):  # four of ten epochs: not yet half of it
        long(number / 10, {"f1": 0.9, "loss": 1.0}, number == 1)
    with pytest.raises(optuna.TrialPruned):
        long(0.5, {"f1": 0.9, "loss": 1.0}, False)
    better, last = watch(), watch()
    better(0.5, {"f1": 0.1, "loss": 0.51}, True)
    last(1.0, {"f1": 0.1, "loss": 1.0}, True)  # it is at its end
    assert (last.score, last.value, last.reached) == (0.1, 1.0, {4: 1.0})


def test_a_trial_s_loss_and_metric_are_those_of_the_checkpoint_that_is_kept():
    watch = Watch(optuna.create_study(direction="minimize").ask(), "loss", "f1", float("inf"))
    for place, f1, loss, best in ((0.25, 0.5, 0.9, True), (0.5, 0.6, 0.7, True), (0.75, 0.8, 0.8, False)):
        watch(place, {"f1": f1, "loss": loss}, best)
    assert (watch.score, watch.value) == (0.6, 0.7)
    with pytest.raises(NotFiniteError):
        watch(1.0, {"f1": 0.8, "loss": float("nan")}, False)


def test_a_trial_ends_when_time_is_up_unless_it_is_at_its_end():
    watch = Watch(optuna.create_study(direction="minimize").ask(), "loss", "f1", deadline=0.0)
    with pytest.raises(OutOfTime):
        watch(0.5, {"f1": 0.5, "loss": 1.0}, True)
    watch(1.0, {"f1": 0.5, "loss": 1.0}, False)


@pytest.mark.slow
def test_importances_are_the_fractions_of_an_analysis_of_variance():
    space = {
        "a": CategoricalDistribution(["u", "v", "w"]),
        "b": CategoricalDistribution([1, 2]),
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
    }
    rates = np.array([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    effects = {"u": 0.0, "v": 1.0, "w": 2.0}
    trials = [
        ({"a": a, "b": b, "rate": float(rate)}, effects[a] + 0.5 * b + 0.25 * np.log10(rate), {})
        for a in effects
        for b in (1, 2)
        for rate in rates
    ]
    found = importances(study_of(trials, space), space)
    # Without interactions the variance of the whole is the sum of those of the effects.
    parts = {"a": np.var([0, 1, 2]), "b": np.var([0.5, 1.0]), "rate": np.var(0.25 * np.log10(rates))}
    assert list(found) == sorted(parts, key=lambda name: -parts[name])
    for name, part in parts.items():
        assert found[name] == pytest.approx(part / sum(parts.values()), abs=0.05), name
    assert sum(found.values()) <= 1 + 1e-9
    assert importances(study_of([(trials[0][0], 0.5, {}), (trials[1][0], 0.5, {})], space), space) == {}


@pytest.mark.slow
@pytest.mark.parametrize("same", [False, True])
def test_the_picture_is_drawn_for_light_and_dark_pages_whatever_was_searched(tmp_path, same):
    space = {
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
        "b": CategoricalDistribution([None, "balanced"]),
        "c": IntDistribution(1, 5),
    }
    trials = [
        ({"rate": 10.0**-n, "b": None if n % 2 else "balanced", "c": n}, 0.5 if same else n / 5, {}) for n in (1, 2, 3)
    ]
    study = study_of(trials, space)
    for reached in ({2: 0.3}, {}):  # ended early, and diverged at once
        study.add_trial(
            create_trial(state=TrialState.PRUNED, params=trials[0][0], distributions=space, intermediate_values=reached)
        )
    assert save_sweep(study, importances(study, space), space, "loss", tmp_path) == tmp_path / "sweep.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep-dark.png", "sweep.png"]


SHIPPED = sorted(path for path in (ROOT / "recipes").glob("**/*.yaml") if "finetune:" in path.read_text())


@pytest.mark.parametrize(
    "path",
    [path for path in SHIPPED if len(re.findall("^(?:name|data):", path.read_text(), re.MULTILINE)) == 2],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
@pytest.mark.slow
def test_the_best_recipe_loads_as_the_recipe_with_the_values_that_were_found(path, tmp_path):
    given = load_recipe(path, out="runs/a b", sweep={"epochs": [1, 2]})
    values = {"optimizer.learning_rate": 3.21e-5, "epochs": 7.0, "batch_size": 24}
    written = write_best(given, values, "best of 3 trials", tmp_path)
    assert load_recipe(written) == replace(changed(given, values), sweep={})
    text = written.read_text()
    assert text.startswith("# Written by `bertwright sweep`, best of 3 trials")
    assert f"# Run it with: bertwright run {written}\n" in text
    assert "epochs: 7\n" in text
    assert "classifier_dropout" not in text  # a default is left out


def values_of(folder):
    return [
        (one["values"], one["state"], one["value"], one["score"])
        for one in read_json(folder / "sweep/trials.json")["trials"]
    ]


@pytest.mark.slow
def test_no_trial_reads_the_test_split_and_the_final_run_is_the_winning_trial_s(recipe, recipe_path, tmp_path):
    folder, data = tmp_path / "run", tmp_path / "data"
    with pytest.raises(UserError, match=r"test\.jsonl, line 1"):  # by the final run, after all trials
        sweep(recipe, 60, trials=3)
    before = (folder / "sweep/trials.json").read_bytes()
    trials = read_json(folder / "sweep/trials.json")["trials"]
    assert len(trials) == 3
    assert trials[0]["values"] == {"optimizer.learning_rate": 1e-3, "epochs": 2.0}  # the recipe's own
    assert not (folder / "finetune").exists()
    assert not list(folder.rglob("*.safetensors"))
    write_rows(data / "test.jsonl", 40, start=20)
    done = sweep(recipe, 60, trials=3)
    assert (folder / "sweep/trials.json").read_bytes() == before
    best = min(trials, key=lambda trial: trial["value"])
    # The trial had the run's first seed: it is the same training, to the bit.
    assert read_json(folder / "finetune/seed-3/done.json")["validation_loss"] == best["value"]
    assert (folder / "finetune/seed-4/done.json").exists()
    assert "bert" in done.results["scores"]
    assert sorted(path.name for path in (folder / "sweep").iterdir()) == [
        "best.yaml",
        "sweep-dark.png",
        "sweep.png",
        "trials.json",
    ]
    stage = (folder / "finetune/stage.json").read_bytes()
    assert main(["run", str(folder / "sweep/best.yaml")]) == 0
    assert (folder / "finetune/stage.json").read_bytes() == stage


@pytest.mark.slow
def test_an_interrupted_sweep_ends_as_the_uninterrupted_one(recipe, tmp_path, monkeypatch, capsys):
    whole = replace(recipe, out=str(tmp_path / "whole"))
    search_alone(whole, 60, trials=5)
    expected = values_of(tmp_path / "whole")
    assert len({json.dumps(values) for values, *_ in expected}) > 3
    watch, evaluations = Watch.__call__, []

    def interrupted(self, *given):
        watch(self, *given)
        evaluations.append(given)
        if len(evaluations) in (4, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "__call__", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(recipe, 60, trials=5)
        assert not (tmp_path / "run/sweep/trial").exists()
    (tmp_path / "run/sweep/trial/seed-3").mkdir(parents=True)  # as a kill leaves it
    (tmp_path / "run/sweep/trial/seed-3/done.json").write_text("{}")
    assert 0 < len(values_of(tmp_path / "run")) < 5
    search_alone(recipe, 60, trials=5)
    assert values_of(tmp_path / "run") == expected
    assert "resuming after" in capsys.readouterr().err


@pytest.mark.slow
def test_time_that_is_up_ends_a_trial_that_is_not_the_first(recipe, tmp_path):
    recipe = change_recipe(recipe, finetune={"evaluations_per_epoch": 4})
    search_alone(recipe, 1e-9)  # one trial reaches its end, however long that takes
    first = read_json(tmp_path / "run/sweep/trials.json")
    assert [trial["state"] for trial in first["trials"]] == ["complete"]
    search_alone(recipe, first["seconds"] / 60 + 1e-6)
    second = read_json(tmp_path / "run/sweep/trials.json")
    assert second["trials"] == first["trials"]
    assert second["seconds"] > first["seconds"]


@pytest.mark.slow
def test_a_trial_whose_loss_is_no_number_is_a_poor_trial(recipe, tmp_path, capsys):
    recipe = replace(recipe, sweep={"optimizer.learning_rate": [1e-3, 1e30], "epochs": [2, 3]})
    search_alone(recipe, 60, trials=5)
    states = {(values["optimizer.learning_rate"], state) for values, state, *_ in values_of(tmp_path / "run")}
    assert states == {(1e-3, "complete"), (1e30, "diverged")}
    assert "the loss became infinite or no number" in capsys.readouterr().err
    hopeless = replace(recipe, out=str(tmp_path / "other"), sweep={"optimizer.learning_rate": [1e29, 1e30]})
    with pytest.raises(UserError, match="none of 2 trials reached its end"):
        sweep(hopeless, 60, trials=2)


@pytest.mark.slow
def test_trials_of_another_recipe_or_of_other_data_are_not_continued(recipe, tmp_path):
    search_alone(recipe, 60, trials=1)
    for changes in ({"finetune": {"max_length": 12}}, {"sweep": {"epochs": [1, 2]}}, {"seed": 1}):
        with pytest.raises(UserError, match=r"trials\.json has the trials of another recipe.*--out"):
            sweep(change_recipe(recipe, **changes), 60, trials=1)
    # Trials have the first seed.
    search_alone(change_recipe(recipe, finetune={"seeds": [3], "log_every": 2}), 60, trials=1)
    write_rows(tmp_path / "data/train.jsonl", 26)
    with pytest.raises(UserError, match="of other data"):
        sweep(recipe, 60, trials=1)


@pytest.mark.slow
def test_a_recipe_that_pretrains_does_so_once(recipe_file, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["sweep", str(recipe_file), "--out", str(out), "--trials", "2", "--finetune.epochs", "1"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert said.count("pretrain: starting") == 1
    assert (out / "report.html").exists()
    assert len(values_of(out)) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--minutes", "0"], "minutes is 0; it must be above 0"),
        (["--minutes", "inf"], "minutes"),
        (["--trials", "0"], "trials is 0; it must be at least 1"),
        (["--minuts", "3"], "did you mean minutes?"),
        (["--sweep.epochs", "[0, 1]"], "finetune.epochs is 0.0; it must be above 0"),
        (["--sweep.max_length", "[16, 64]", "--finetune.max_length", "65"], "finetune.max_length (65)"),
        (["--finetune.micro_batch_tokens", "512", "--sweep.max_length", "[16, 128]"], "64 positions; lower it"),
        (["--finetune.test_split", "dev"], "has no split `dev`"),
        (["--finetune.unlabelled", "texts:train"], "a sweep has no self-training"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_said_before_the_first_trial(recipe_path, tmp_path, capsys, words, expected):
    assert main(["sweep", str(recipe_path), *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("bertwright: error: ")
    assert expected in said, said
    assert not (tmp_path / "run/sweep").exists()


def test_a_recipe_without_fine_tuning_is_refused(small_recipe):
    recipe = small_recipe()
    with pytest.raises(UserError, match="there is nothing to sweep: the recipe names no labelled texts"):
        sweep(replace(recipe, finetune=replace(recipe.finetune, data="")), 60)


def test_without_optuna_a_sentence_says_how_to_install_it(recipe_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("bertwright.apps.sweep")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["sweep", str(recipe_path)]) == 2
    assert capsys.readouterr().err == (
        "bertwright: error: a sweep needs a package that is not installed (optuna); pip install 'optuna>=5.0'\n"
    )


@pytest.mark.slow
def test_trials_are_compared_as_checkpoints_are_by_a_metric_that_the_recipe_names(recipe, tmp_path, capsys):
    write_rows(tmp_path / "data/test.jsonl", 40, start=20)
    recipe = change_recipe(recipe, finetune={"metric_for_best_model": "accuracy"})
    sweep(recipe, 60, trials=3)
    trials = read_json(tmp_path / "run/sweep/trials.json")["trials"]
    best = max(trials, key=lambda trial: trial["value"])
    assert read_json(tmp_path / "run/finetune/seed-3/done.json")["best"] == best["value"]
    assert f"with accuracy {best['value']:.4f}, F1 {best['score']:.4f} on" in capsys.readouterr().err
