"""Every recipe that we ship, and what happens to one that is wrong."""

import dataclasses
import re
import subprocess
import sys

import pytest
import yaml

from bertwright import config as configuration
from bertwright.cli import load_recipe, main, make_parser
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
def test_every_recipe_loads(name):
    parsed = make_parser().parse_args(["run", "--recipe", str(ROOT / "recipes" / name)])
    assert parsed.run.name == name.removesuffix(".yaml")


def test_the_ablation_s_changes_lead_from_the_paper_s_recipe_to_imdb_mini():
    files = sorted((ROOT / "recipes" / "ablation").glob("[0-9]*"), key=lambda path: int(path.name.partition("-")[0]))
    changes = [word for path in files for word in ("--recipe", str(path))]
    reached = load_recipe(str(ROOT / "recipes" / "bert-mini-original.yaml"), *changes)
    assert dataclasses.replace(reached, name="imdb-mini") == load_recipe(str(ROOT / "recipes" / "imdb-mini.yaml"))


@pytest.mark.parametrize("extra", ["without-pretraining", "without-next-sentence"])
def test_the_ablation_s_budget_and_what_it_leaves_out_load(extra):
    files = [ROOT / "recipes" / "ablation" / f"{name}.yaml" for name in ("short", extra)]
    recipe = load_recipe(str(ROOT / "recipes" / "imdb-mini.yaml"), *[w for f in files for w in ("--recipe", str(f))])
    assert recipe.finetune.epochs == 1
    if extra == "without-pretraining":
        assert (recipe.pretrain.max_steps, recipe.pretrain.embedding_initialization) == (1, "paper")
    else:
        assert not recipe.pretrain.next_sentence


STUDY = ROOT / "recipes" / "bidirectional"


def row_of_the_study(name):
    return load_recipe(str(STUDY / "base.yaml"), "--recipe", str(STUDY / f"{name}.yaml"))


def test_the_study_s_rows_differ_in_nothing_but_their_objective():
    rows = {path.stem: row_of_the_study(path.stem) for path in STUDY.glob("*.yaml") if path.stem != "base"}
    assert set(rows) == {"both", "without-next-sentence", "left-to-right", "without-pretraining"}
    objective = {name: (row.model.is_decoder, row.pretrain.next_sentence) for name, row in rows.items()}
    assert objective["both"] == objective["without-pretraining"] == (False, True)
    assert objective["without-next-sentence"] == (False, False)
    assert objective["left-to-right"] == (True, False)
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


def test_next_sentences_are_refused_for_a_left_to_right_model(capsys):
    said = refusal(capsys, "run", str(ROOT / "recipes" / "demo.yaml"), "--model.is_decoder", "true")
    assert "--pretrain.next_sentence false" in said


def test_an_option_on_the_command_line_wins_over_the_recipe():
    words = ["run", "--recipe", str(ROOT / "recipes" / "demo.yaml"), "--pretrain.max_minutes", "50"]
    assert make_parser().parse_args(words).run.pretrain.max_minutes == 50


def test_an_unknown_option_is_refused_with_the_nearest_right_one(capsys):
    said = refusal(capsys, "run", str(ROOT / "recipes" / "demo.yaml"), "--pretrain.max_minuts", "3")
    assert "did you mean pretrain.max_minutes?" in said


def test_an_unknown_key_in_a_recipe_is_refused_with_the_nearest_right_one(capsys, tmp_path):
    content = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text())
    content["model"] = {"hiden_size": 64}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    assert "did you mean model.hidden_size?" in refusal(capsys, "run", str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("pretrain.masking.rate", "1.5", "between 0 and 1"),
        ("model.hidden_size", "127", "multiple of"),
        ("finetune.max_length", "4096", "128 positions"),
        ("pretrain.phases", '[{"sequence_length": 1024}]', "1024 tokens, but the model has 128 positions"),
        ("pretrain.phases", '[{"budget_ratio": 0.5}]', "must add up to 1"),
        ("pretrain.max_steps", "10", "either max_steps or max_minutes"),
        ("pretrain.max_steps", "0", "max_steps is 0; it must be at least 1"),
        ("pretrain.max_minutes", "-1", "max_minutes is -1.0; it must be above 0"),
        ("pretrain.max_minutes", "0", "max_minutes is 0.0; it must be above 0"),
        ("pretrain.optimizer.beta1", "1", "beta1 is 1.0; it must be in [0, 1)"),
        ("pretrain.optimizer.epsilon", "-1", "epsilon is -1.0; it must not be below 0"),
        ("pretrain.optimizer.max_grad_norm", "0", "max_grad_norm is 0.0; it must be above 0"),
        ("tokenizer.min_frequency", "-1", "min_frequency is -1; it must be at least 1"),
        ("finetune.evaluations_per_epoch", "0", "evaluations_per_epoch must be at least 1"),
        ("finetune.log_every", "0", "finetune.log_every must be at least 1"),
        ("finetune.checkpoint_every", "0", "finetune.checkpoint_every must be at least 1"),
        ("finetune.classifier_dropout", "1", "classifier_dropout must be in [0, 1)"),
        ("finetune.hidden_dropout_prob", "-0.1", "finetune.hidden_dropout_prob must be in [0, 1)"),
        ("finetune.seeds", "[0, -1]", "names -1; a seed must be in [0, 2^63)"),
        ("finetune.seeds", "[18446744073709551616]", "a seed must be in [0, 2^63)"),
        ("finetune.unlabelled_max_length", "0", "finetune.unlabelled_max_length is 0; it must be at least 3"),
        ("model.initializer_range", "0", "model.initializer_range is 0.0; it must be above 0"),
        ("model.type_vocab_size", "1", "model.type_vocab_size is 1, but next-sentence prediction"),
        ("finetune.data", "reviews:train", "name the entry of `data` alone"),
        ("seed", "-1", "seed is -1; it must be in [0, 2^63)"),
        ("prepare.heldout_ratio", "0.9", "heldout_ratio"),
        ("prepare.corpora", "[book]", "`data` does not name"),
        ("data.extra", "somewhere", "not used by the recipe"),
        ("pretrain.batch_tokens", "many", "batch_tokens"),
    ],
)
def test_a_wrong_value_is_refused_with_one_sentence_that_names_it(capsys, option, value, expected):
    said = refusal(capsys, "run", str(ROOT / "recipes" / "demo.yaml"), f"--{option}", value)
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
        ("import bertwright.inference", ("sklearn",)),
    ],
)
def test_nothing_is_loaded_that_takes_seconds_and_is_not_needed(start, slow):
    asked = f"{start}; import sys; print([name for name in {slow} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("TokenizerConfig", "ModelConfig", "PretrainConfig", "FinetuneConfig", "SystemConfig", "Recipe"):
        cls = getattr(configuration, name)
        section = name.removesuffix("Config").lower()
        for field in dataclasses.fields(cls):
            if field.name in ("data", "prepare", "tokenizer", "model", "pretrain", "finetune", "system", "out", "seed"):
                continue
            option = field.name if name == "Recipe" else f"{section}.{field.name}"
            assert f"--{option}" in shown, option
            described = re.search(rf"\n        {field.name}: (.{{12}})", cls.__doc__)
            assert described, f"{name}.{field.name} has no description"
            start = described.group(1)[:12]
            assert re.sub(r"[ -]", "", start) in re.sub(r"[ -]", "", shown), (option, start)


def test_every_setting_is_read_somewhere():
    # A dead flag is worse than none: each field must be read outside of config.py, or checked by name in it.
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py") if path.name != "config.py")
    for name, cls in vars(configuration).items():
        if dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                assert re.search(rf"\.{field.name}\b", code), f"{name}.{field.name} is never read"
