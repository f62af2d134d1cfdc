"""The public names of the package, called as a user of Python calls them."""

import subprocess
import sys

import pytest

import bertwright
from bertwright.files import read_json


def test_all_public_names_can_be_imported_and_no_other_is_made_up():
    for name in bertwright.__all__:
        assert getattr(bertwright, name) is not None
    namespace: dict[str, object] = {}
    exec("from bertwright import *", namespace)
    assert set(bertwright.__all__) <= namespace.keys()
    with pytest.raises(AttributeError, match="no attribute 'made_up'"):
        bertwright.made_up  # noqa: B018


def test_the_package_alone_does_not_import_torch():
    program = "import bertwright, sys; bertwright.UserError; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


@pytest.mark.slow
def test_a_recipe_is_loaded_with_overrides_of_which_the_last_wins(recipe_file, tmp_path):
    plain = bertwright.load_recipe(recipe_file)
    assert isinstance(plain, bertwright.Recipe)
    assert (plain.name, plain.seed, plain.pretrain.max_steps) == ("small", 0, 8)
    changed = bertwright.load_recipe(
        str(recipe_file),
        out=tmp_path / "a b",
        seed=7,
        pretrain={"max_steps": 3, "optimizer": {"name": "muon"}, "phases": [{"sequence_length": 32}]},
        finetune={"seeds": [4], "label_names": ("bad", "good")},
        tokenizer={"html_line_breaks": True},
    )
    assert changed.out == str(tmp_path / "a b")
    assert (changed.seed, changed.pretrain.max_steps, changed.pretrain.optimizer.name) == (7, 3, "muon")
    assert [phase.sequence_length for phase in changed.pretrain.phases] == [32]
    assert (changed.finetune.seeds, changed.finetune.label_names) == ((4,), ("bad", "good"))
    assert changed.tokenizer.html_line_breaks
    assert changed.pretrain.batch_tokens == plain.pretrain.batch_tokens  # the rest of a section stays
    (tmp_path / "more.yaml").write_text("seed: 5\npretrain: {max_steps: 4}\n")
    laid_over = bertwright.load_recipe([recipe_file, tmp_path / "more.yaml"], seed=6)
    assert (laid_over.seed, laid_over.pretrain.max_steps) == (6, 4)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"sed": 1}, "there is no option sed; did you mean seed?"),
        ({"pretrain": {"max_stps": 1}}, "max_stps; did you mean pretrain.max_steps?"),
        ({"pretrain": {"max_steps": "many"}}, "pretrain.max_steps"),
        ({"pretrain": {"max_steps": 0}}, "pretrain.max_steps is 0; it must be at least 1"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False], ids=["of a file", "of a recipe"])
def test_an_override_that_is_unknown_or_does_not_fit_is_refused(recipe_file, tmp_path, overrides, expected, as_file):
    if as_file:
        with pytest.raises(bertwright.UserError) as caught:
            bertwright.load_recipe(recipe_file, **overrides)
    else:
        recipe = bertwright.load_recipe(recipe_file)
        with pytest.raises(bertwright.UserError) as caught:
            bertwright.run(recipe, out=str(tmp_path / "out"), **overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_some_stages_are_run_and_their_folder_is_told(recipe_file, tmp_path):
    out = tmp_path / "run"
    done = bertwright.run(recipe_file, out=str(out), pretrain={"max_steps": 2}, stages=["prepare", "pretrain"])
    assert isinstance(done, bertwright.Run)
    assert (done.path, done.results) == (out, {})
    assert (out / "pretrain" / "stage.json").exists()
    assert not (out / "finetune").exists()
    encoder = bertwright.load(out)
    assert len(encoder.fill_mask("The [MASK] by the river.", top_k=2)[0]) == 2
    # A recipe instead of its file is the same run.
    recipe = bertwright.load_recipe(recipe_file, out=str(out))
    before = (out / "pretrain" / "stage.json").stat().st_mtime_ns
    again = bertwright.run(recipe, stages=["pretrain"], pretrain={"max_steps": 2})
    assert again.path == out
    assert (out / "pretrain" / "stage.json").stat().st_mtime_ns == before


def test_a_finished_run_gives_its_results(recipe_file, finished):
    done = bertwright.run(recipe_file, out=finished, stages=["report"])
    assert done.results == read_json(finished / "results.json")
    assert done.results["primary_metric"] == "f1"
    (prediction,) = bertwright.load(done.path).predict(["A wonderful film, wonderful from end to end."])
    assert isinstance(prediction, bertwright.Prediction)
    assert prediction.label in ("negative", "positive")
