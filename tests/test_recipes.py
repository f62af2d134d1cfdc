"""Every recipe that we ship, and what happens to one that is wrong."""

import ast
import dataclasses
import json
import re
import subprocess
import sys

import pytest
import yaml

import bertwright
from bertwright import recipe as configuration
from bertwright.cli import main, make_parser
from bertwright.errors import UserError
from bertwright.recipe import PretrainConfig, Recipe, decisive, fingerprint, to_dict
from bertwright.recipe_file import RENAMED_VALUES, build_recipe, change_recipe, load_recipe, make_recipe_parser
from conftest import ROOT

RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(words))
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    assert said.startswith("bertwright: error: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.slow
def test_every_recipe_loads(name):
    parsed = make_parser().parse_args(["run", "--recipe", str(ROOT / "recipes" / name)])
    assert parsed.run.name == name.removesuffix(".yaml")


def test_the_ablation_s_changes_lead_from_the_paper_s_recipe_to_imdb_mini():
    files = sorted((ROOT / "recipes" / "ablation").glob("[0-9]*"), key=lambda path: int(path.name.partition("-")[0]))
    assert len(files) == 12
    assert [
        path.name for path in files if path.stem.partition("-")[2] in RENAMED_VALUES["embedding_initialization"]
    ] == []
    reached = load_recipe([ROOT / "recipes" / "bert-mini-original.yaml", *files])
    assert dataclasses.replace(reached, name="imdb-mini") == load_recipe(ROOT / "recipes" / "imdb-mini.yaml")


def test_a_modern_imdb_mini_loads():
    recipe = load_recipe([ROOT / "recipes" / name for name in ("imdb-mini.yaml", "modern/imdb-mini.yaml")])
    assert (recipe.model.architecture, recipe.tokenizer.type) == ("modernbert", "byte_bpe")
    assert recipe.finetune == dataclasses.replace(
        load_recipe(ROOT / "recipes" / "imdb-mini.yaml").finetune, averaging_block=False
    )


def test_what_came_with_another_architecture_leaves_earlier_fingerprints_as_they_were():
    assert fingerprint(configuration.ModelConfig(), configuration.TokenizerConfig()) == "5fc95c5e9df47a23"


@pytest.mark.parametrize("extra", ["without-pretraining", "without-next-sentence"])
def test_the_ablation_s_budget_and_what_it_leaves_out_load(extra):
    files = [ROOT / "recipes" / "ablation" / f"{name}.yaml" for name in ("short", extra)]
    recipe = load_recipe([ROOT / "recipes" / "imdb-mini.yaml", *files])
    assert recipe.finetune.epochs == 1
    if extra == "without-pretraining":
        assert (recipe.pretrain.max_steps, recipe.pretrain.embedding_initialization) == (1, "paper")
    else:
        assert not recipe.pretrain.next_sentence


STUDY = ROOT / "recipes" / "bidirectional"


def row_of_the_study(name):
    return load_recipe([STUDY / "base.yaml", STUDY / f"{name}.yaml"])


def test_the_study_s_rows_differ_in_nothing_but_their_objective():
    rows = {path.stem: row_of_the_study(path.stem) for path in STUDY.glob("*.yaml") if path.stem != "base"}
    assert set(rows) == {"masked", "without-next-sentence", "causal", "without-pretraining"}
    objective = {name: (row.model.is_decoder, row.pretrain.next_sentence) for name, row in rows.items()}
    assert objective["masked"] == objective["without-pretraining"] == (False, True)
    assert objective["without-next-sentence"] == (False, False)
    assert objective["causal"] == (True, False)
    plain = [
        dataclasses.replace(
            row,
            model=dataclasses.replace(row.model, is_decoder=False),
            pretrain=dataclasses.replace(row.pretrain, next_sentence=True),
        )
        for name, row in rows.items()
        if name != "without-pretraining"
    ]
    assert plain[0] == plain[1] == plain[2]
    assert (plain[0].model.hidden_size, plain[0].model.hidden_dropout_prob) == (256, 0)
    assert plain[0].pretrain.max_steps * plain[0].pretrain.batch_tokens == pytest.approx(6e6, rel=0.05)
    untrained = rows["without-pretraining"]
    assert (untrained.pretrain.max_steps, untrained.pretrain.embedding_initialization) == (1, "paper")
    assert dataclasses.replace(untrained, pretrain=plain[0].pretrain) == plain[0]


def test_names_of_users_stay_as_they_are_in_options_and_overrides():
    given = {"class_weights": {"not-spam": 2, "spam": 1}}
    recipe = load_recipe("demo", finetune=given, evaluate={"published": {"BERT-base": 0.94}})
    assert recipe.finetune.class_weights == {"not-spam": 2, "spam": 1}
    assert recipe.evaluate.published == {"BERT-base": 0.94}
    with pytest.raises(UserError, match=r"v1\.5: a name with a dot can be given in a recipe file alone"):
        load_recipe("demo", finetune={"class_weights": {"v1.5": 2}})


def test_classes_that_look_like_numbers_or_truth_are_names(tmp_path):
    (tmp_path / "recipe.yaml").write_text("finetune: {class_weights: {0: 1, true: 5}}")
    assert load_recipe(["demo", tmp_path / "recipe.yaml"]).finetune.class_weights == {"0": 1, "true": 5}


def test_class_weights_and_pseudo_labels_are_refused_together():
    with pytest.raises(UserError, match=r"class_weights would count the labelled texts alone"):
        configuration.FinetuneConfig(data="x", unlabelled="y", class_weights="balanced")


def test_next_sentences_are_refused_for_a_causal_model(capsys):
    said = refusal(capsys, "run", str(ROOT / "recipes" / "demo-from-scratch.yaml"), "--model.is_decoder", "true")
    assert "--pretrain.next_sentence false" in said


@pytest.mark.slow
def test_an_option_on_the_command_line_wins_over_the_recipe():
    words = ["run", "--recipe", str(ROOT / "recipes" / "demo-from-scratch.yaml"), "--pretrain.max_minutes", "50"]
    assert make_parser().parse_args(words).run.pretrain.max_minutes == 50


def test_an_unknown_option_is_refused_with_the_nearest_right_one(capsys):
    said = refusal(capsys, "run", str(ROOT / "recipes" / "demo-from-scratch.yaml"), "--pretrain.max_minuts", "3")
    assert "did you mean pretrain.max_minutes?" in said


def test_an_unknown_key_in_a_recipe_is_refused_with_the_nearest_right_one(capsys, tmp_path):
    content = yaml.safe_load((ROOT / "recipes" / "demo-from-scratch.yaml").read_text())
    content["model"] = {"hiden_size": 64}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    assert "did you mean model.hidden_size?" in refusal(capsys, "run", str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("pretrain.masking.rate", "1.5", "pretrain.masking.rate is 1.5; it must be in (0, 1)"),
        ("model.hidden_size", "127", "multiple of"),
        ("finetune.max_length", "4096", "128 positions"),
        ("pretrain.phases", '[{"sequence_length": 1024}]', "1024 tokens, but the model has 128 positions"),
        ("pretrain.phases", '[{"budget_ratio": 0.5}]', "must add up to 1"),
        ("pretrain.max_steps", "10", "either max_steps or max_minutes"),
        ("pretrain.max_steps", "0", "max_steps is 0; it must be at least 1"),
        ("pretrain.max_minutes", "-1", "max_minutes is -1.0; it must be above 0"),
        ("pretrain.max_minutes", "0", "max_minutes is 0.0; it must be above 0"),
        ("pretrain.optimizer.beta1", "1", "beta1 is 1.0; it must be in [0, 1)"),
        ("pretrain.optimizer.epsilon", "-1", "epsilon is -1.0; it must be above 0"),
        ("pretrain.optimizer.max_grad_norm", "0", "max_grad_norm is 0.0; it must be above 0"),
        ("tokenizer.min_frequency", "-1", "min_frequency is -1; it must be at least 1"),
        ("finetune.evaluations_per_epoch", "0", "finetune.evaluations_per_epoch is 0; it must be at least 1"),
        ("finetune.log_every", "0", "finetune.log_every is 0; it must be at least 1"),
        ("finetune.checkpoint_every", "0", "finetune.checkpoint_every is 0; it must be at least 1"),
        ("finetune.classifier_dropout", "1", "finetune.classifier_dropout is 1.0; it must be in [0, 1)"),
        ("finetune.hidden_dropout_prob", "-0.1", "finetune.hidden_dropout_prob is -0.1; it must be in [0, 1)"),
        ("finetune.seeds", "[0, -1]", "names -1; a seed must be in [0, 2^63)"),
        ("finetune.seeds", "[18446744073709551616]", "a seed must be in [0, 2^63)"),
        ("finetune.unlabelled_max_length", "0", "finetune.unlabelled_max_length is 0; it must be at least 3"),
        ("model.initializer_range", "0", "model.initializer_range is 0.0; it must be above 0"),
        ("model.type_vocab_size", "1", "the model has type_vocab_size 1, and cannot tell two segments apart"),
        ("finetune.data", "reviews:train", "name the entry of `data` alone"),
        ("seed", "-1", "seed is -1; it must be in [0, 2^63)"),
        ("prepare.heldout_ratio", "0.9", "prepare.heldout_ratio is 0.9; it must be in (0, 0.5)"),
        ("prepare.corpora", "[book]", "`data` does not name"),
        ("data.extra", "somewhere", "not used by the recipe"),
        ("pretrain.batch_tokens", "many", "pretrain.batch_tokens is many; give a whole number"),
        ("pretrain.max_minutes", "", "pretrain.max_minutes is empty; give a number or null"),
        ("pretrain.next_sentence", "maybe", "pretrain.next_sentence is maybe; give true or false"),
        ("pretrain.optimizer.name", "sgd", "pretrain.optimizer.name is sgd; give adamw or muon"),
        ("pretrain.phases", "3", "pretrain.phases is 3; give a list in brackets"),
        ("pretrain.phases", "[3]", "pretrain.phases is 3; give the settings of a phase, {name: value}"),
        ("prepare.corpora", "books", "prepare.corpora is books; give a list in brackets"),
        ("evaluate.published", "3", "evaluate.published is 3; give names with values, {name: value}"),
        (
            "finetune.class_weights",
            "{a: b}",
            "finetune.class_weights is {'a': 'b'}; give balanced, names with values, {name: value} or null",
        ),
        ("data.extra", "{path: x, test_ratio: big}", "data: test_ratio is big; give a number or null"),
    ],
)
@pytest.mark.slow
def test_a_wrong_value_is_refused_with_one_sentence_that_names_it(capsys, option, value, expected):
    said = refusal(capsys, "run", str(ROOT / "recipes" / "demo-from-scratch.yaml"), f"--{option}", value)
    assert expected in said, said


def test_a_recipe_in_another_encoding_is_refused(capsys, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9\n".encode("latin-1"))
    assert "not UTF-8" in refusal(capsys, "run", str(tmp_path / "latin.yaml"))


def test_a_missing_recipe_is_refused(capsys):
    assert "nothere.yaml" in refusal(capsys, "run", "nothere.yaml")


@pytest.mark.parametrize(
    ("start", "slow"),
    [
        ("import bertwright.cli; bertwright.cli.make_parser()", ("torch", "sklearn")),
        ("import bertwright; bertwright.load().predict('A film to remember.')", ("sklearn", "scipy")),
    ],
)
@pytest.mark.slow
def test_nothing_is_loaded_that_takes_seconds_and_is_not_needed(start, slow):
    asked = f"{start}; import sys; print([name for name in {slow} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help-all"])
    shown = " ".join(capsys.readouterr().out.split()).replace("-", "_")
    for name in ("TokenizerConfig", "ModelConfig", "PretrainConfig", "FinetuneConfig", "SystemConfig", "Recipe"):
        cls = getattr(configuration, name)
        section = name.removesuffix("Config").lower()
        for field in dataclasses.fields(cls):
            if field.name in ("data", "prepare", "tokenizer", "model", "pretrain", "finetune", "system", "out", "seed"):
                continue
            option = field.name if name == "Recipe" else f"{section}.{field.name}"
            assert f"__{option}" in shown, option
            described = re.search(rf"\n        {field.name}: (.{{12}})", cls.__doc__)
            assert described, f"{name}.{field.name} has no description"
            start = described.group(1)[:12]
            assert re.sub(r"[ _-]", "", start) in re.sub(r"[ _-]", "", shown), (option, start)


SECTIONS = {
    "TokenizerConfig": "tokenizer",
    "PrepareConfig": "prepare",
    "ModelConfig": "model",
    "PretrainConfig": "pretrain",
    "MaskingConfig": "masking",
    "OptimizerConfig": "optimizer",
    "Phase": "phase",
    "FinetuneConfig": "finetune",
    "EvaluateConfig": "evaluate",
    "SystemConfig": "system",
    "Recipe": "recipe",
    "Source": "source",
}
"""What an object of each class is called where the package reads it; `config` stands for any of them."""


def settings_read(sources):
    """Pairs (name of the object, attribute) that Python sources read, as in `recipe.pretrain.max_steps`.

    The name of the object is the last one before the attribute: a variable, an attribute (`self.config`), or the
    function that gave it (`recipe.source(name)`). `getattr(source, f"{column}_column")` counts for its literal part.
    """
    found = set()
    for text in sources:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value.func if isinstance(node.value, ast.Call) else node.value
                name = ast.unparse(owner).rpartition(".")[2]
                found.add((name, node.attr))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                written = ast.unparse(node.args[1]).strip("f'\"")
                found.add((ast.unparse(node.args[0]).rpartition(".")[2], written))
    return found


def unread(sources):
    """Settings that no source reads from an object named like their section."""
    read = settings_read(sources)
    missing = set()
    for name, cls in vars(configuration).items():
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or name == "Section":
            continue
        owners = {SECTIONS[name], "config", "own"}
        attributes = {attribute for owner, attribute in read if owner in owners}
        patterns = [attribute for attribute in attributes if "{" in attribute]
        for field in dataclasses.fields(cls):
            by_pattern = any(re.fullmatch(re.sub(r"\{.*?\}", r"\\w+", pattern), field.name) for pattern in patterns)
            if field.name not in attributes and not by_pattern:
                missing.add(f"{name}.{field.name}")
    return missing


@pytest.fixture(scope="module")
def readers():
    """The package without the modules that define the settings: what they check there is not yet used."""
    files = (ROOT / "src" / "bertwright").rglob("*.py")
    return [
        path.read_text()
        for path in files
        if path.name not in ("recipe.py", "settings.py", "finetune_settings.py", "ranges.py")
    ]


@pytest.mark.slow
def test_every_setting_is_read_somewhere(readers):
    # A dead setting is worse than none.
    assert unread(readers) == set()


@pytest.mark.slow
def test_a_setting_that_nothing_reads_is_found(readers, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class PretrainConfig(configuration.PretrainConfig):
        made_up: int = 0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Source(configuration.Source):
        made_up: int = 0

    monkeypatch.setattr(configuration, "PretrainConfig", PretrainConfig)
    monkeypatch.setattr(configuration, "Source", Source)
    assert unread(readers) == {"PretrainConfig.made_up", "Source.made_up"}
    other = "import numpy\nnumpy.made_up = 3\nprint(numpy.made_up, 'pretrain.made_up')"  # no section's, no attribute
    assert unread([*readers, other]) == {"PretrainConfig.made_up", "Source.made_up"}
    assert unread([*readers, "print(recipe.pretrain.made_up, self.recipe.source(name).made_up)"]) == set()
    without = [text for text in readers if "short_sequence_probability" not in text]
    assert "PretrainConfig.short_sequence_probability" in unread(without)


OLD_NAMES = [
    (("pretrain", "first_weights"), "local", "pretrain.first_weights is now called initialization (local is local_"),
    (("pretrain", "first_embeddings"), "counted", "first_embeddings is now called embedding_initialization (counted"),
    (("pretrain", "phases"), [{"sequence_length": 64, "share": 1.0}], "share is now called budget_ratio"),
    (("pretrain", "optimizer", "warmup_share"), 0.1, "pretrain.optimizer.warmup_share is now called warmup_ratio"),
    (("prepare", "heldout_share"), 0.1, "prepare.heldout_share is now called heldout_ratio"),
    (("finetune", "validation_share"), 0.1, "finetune.validation_share is now called validation_ratio"),
    (("finetune", "optimizer", "warmup_share"), 0.1, "finetune.optimizer.warmup_share is now called warmup_ratio"),
    (("finetune", "encoder"), "boxed", "the model that comes with Bertwright is now called bundled"),
    (("pretrain", "initialization"), "local", "local_attention"),
    (("pretrain", "embedding_initialization"), "counted", "pmi"),
    (("model", "model_type"), "bert", "model.model_type is now called architecture"),
]


@pytest.mark.parametrize("given", ["recipe", "option", "Python"])
@pytest.mark.parametrize(("keys", "value", "expected"), OLD_NAMES, ids=[".".join(keys) for keys, _, _ in OLD_NAMES])
@pytest.mark.slow
def test_an_old_name_is_refused_with_the_new_one(capsys, tmp_path, recipe_file, keys, value, expected, given):
    words = ["run", str(recipe_file), "--out", str(tmp_path / "out")]
    changed = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        changed = {key: changed}
    if given == "Python":
        with pytest.raises(UserError) as caught:
            bertwright.run(load_recipe(recipe_file), out=str(tmp_path / "out"), **changed)
        said = str(caught.value)
        expected = expected.rpartition(".")[2] if " is now called " in expected else expected
    elif given == "option":
        plain = value if isinstance(value, str) else json.dumps(value)
        said = refusal(capsys, *words, f"--{'.'.join(keys)}", plain)
    else:
        content = yaml.safe_load(recipe_file.read_text())
        section = content
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = value
        (tmp_path / "old.yaml").write_text(yaml.safe_dump(content))
        words[1] = str(tmp_path / "old.yaml")
        said = refusal(capsys, *words)
    assert expected in said
    assert "\n" not in said
    assert not (tmp_path / "out" / "prepare").exists()


@pytest.mark.parametrize("command", [["predict"], ["embed"], ["fill-mask"]])
def test_the_bundled_model_s_old_name_is_refused_with_the_new_one(capsys, command):
    said = refusal(capsys, *command, "A film.", "--model", "boxed")
    assert said.endswith("the model that comes with Bertwright is now called bundled")


MACHINE = {
    "prepare": {"workers"},
    "pretrain": {"micro_batch_tokens", "log_every", "evaluate_every", "checkpoint_every"},
    "finetune": {"micro_batch_tokens", "log_every", "checkpoint_every"},
    "system": {"precision", "compile", "tracker"},
    "tokenizer": set(),
    "model": set(),
}
"""The settings that do not decide a result, beyond rounding and which elements dropout zeroes."""


@pytest.mark.parametrize("section", sorted(MACHINE))
def test_settings_of_the_machine_and_no_others_leave_a_fingerprint_as_it_was(small_recipe, section):
    config = getattr(small_recipe(), section)
    for each in dataclasses.fields(config):
        other = dataclasses.replace(config)
        object.__setattr__(other, each.name, "another value")  # none of them has it
        same = fingerprint(other) == fingerprint(config)
        assert same == (each.name in MACHINE[section]), f"{section}.{each.name}"


@pytest.mark.parametrize(
    ("given", "pretrain", "finetune"),
    [
        ({}, 1e-4, 5e-5),
        ({"encoder": "bundled"}, 3e-5, 5e-5),
        ({"encoder": "bundled", "optimizer": {"learning_rate": 1e-4}}, 1e-4, 5e-5),
        ({"encoder": "bundled", "optimizer": {"warmup_ratio": 0.5}}, 3e-5, 5e-5),
    ],
)
def test_the_default_learning_rate_is_lower_for_an_encoder_and_stands_in_the_recipe(
    tmp_path, given, pretrain, finetune
):
    path = tmp_path / "own.yaml"
    plain = {"name": "own", "data": {"own": "texts"}, "prepare": {"corpora": ["own"]}}
    path.write_text(yaml.safe_dump({**plain, "pretrain": {"max_steps": 1, **given}}))
    recipe = load_recipe(path)
    assert to_dict(recipe)["pretrain"]["optimizer"]["learning_rate"] == pretrain
    assert to_dict(recipe)["finetune"]["optimizer"]["learning_rate"] == finetune
    assert load_recipe(path, finetune={"optimizer": {"warmup_ratio": 0.5}}).finetune.optimizer.learning_rate == finetune


def test_a_budget_does_not_decide_what_a_longer_one_continues(small_recipe):
    config = small_recipe().pretrain
    left_out = decisive(config).keys() - decisive(config, budget=False).keys()
    assert left_out == {"max_steps", "max_minutes"}


@pytest.mark.parametrize(
    ("written", "expected"),
    [("off", "off"), ("on", "on"), ("false", "off"), ("true", "on"), ("no", "off"), ('"off"', "off"), ("auto", "auto")],
)
@pytest.mark.slow
def test_a_compiler_can_be_switched_by_a_bare_word_of_yaml(recipes, tmp_path, written, expected):
    # In YAML 1.1 a bare off is a boolean.
    path = tmp_path / "own.yaml"
    path.write_text(f"system:\n  compile: {written}\n")
    assert load_recipe([recipes / "demo.yaml", path]).system.compile == expected
    if written in ("on", "off", "true", "false", "auto"):
        parsed = make_recipe_parser().parse_args(["--recipe", str(recipes / "demo.yaml"), "--system.compile", written])
        assert build_recipe(parsed).system.compile == expected
    assert load_recipe(recipes / "demo.yaml", system={"compile": False}).system.compile == "off"


def test_what_a_recipe_left_open_is_chosen_anew_when_what_chooses_it_is_replaced(recipe_file):
    loaded = load_recipe(recipe_file)
    for change in (
        {"model": {"architecture": "modernbert"}, "pretrain": {"next_sentence": False}},
        {"model": {"architecture": "modernbert", "num_hidden_layers": 3}, "pretrain": {"next_sentence": False}},
    ):
        assert change_recipe(loaded, **change).model == load_recipe(recipe_file, **change).model
    plain = Recipe(name="x", data=loaded.data, prepare=loaded.prepare, pretrain=PretrainConfig(max_steps=1))
    assert plain.pretrain.optimizer.learning_rate == 1e-4
    continued = change_recipe(plain, pretrain={"encoder": "bundled"})
    assert continued.pretrain.optimizer.learning_rate == 3e-5
    given = change_recipe(plain, pretrain={"encoder": "bundled", "optimizer": {"learning_rate": 1e-4}})
    assert given.pretrain.optimizer.learning_rate == 1e-4
    assert change_recipe(continued, pretrain={"encoder": None}).pretrain.optimizer.learning_rate == 1e-4
