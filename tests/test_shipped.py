"""Recipes and sizes by name, from any folder, and in the wheel."""

import re
import shlex
import tomllib
from importlib import metadata

import pytest
import yaml

import bertwright
from bertwright import shipped
from bertwright.cli import main
from bertwright.errors import UserError, extra, installing
from bertwright.recipe_file import change_recipe, load_recipe
from conftest import ROOT


@pytest.mark.slow
def test_a_size_s_name_is_its_file_in_a_recipe_on_the_command_line_and_in_python(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ndata: {a: b}\nprepare: {corpora: [a]}\npretrain: {max_steps: 1}\nmodel: mini\n")
    mini = load_recipe(path).model
    assert (mini.num_hidden_layers, mini.hidden_size) == (4, 256)
    assert load_recipe(path, model="small").model.hidden_size == 512
    assert change_recipe(load_recipe(path), model="tiny").model.hidden_size == 128
    path.write_text(path.read_text().replace("mini", str(ROOT / "recipes" / "models" / "base.yaml")))
    assert load_recipe(path).model.num_hidden_layers == 12


@pytest.mark.slow
def test_each_recipe_s_name_loads_it_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in shipped.recipes():
        assert load_recipe(name).name == name


@pytest.mark.parametrize("name", ["demo", "demo-from-scratch", "demo-bundled"])
def test_the_sample_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    for entry in recipe.data:
        assert shipped.Path(recipe.source(entry).path).exists()


def test_recipes_are_listed_each_with_what_it_is_for(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in [*shipped.recipes(), *shipped.sizes()]:
        line = next(line for line in lines if line.startswith(f"  {name} "))
        assert len(re.split(r"\s{2,}", line.strip())) == 3, line
        assert line.count("(") == line.count(")"), line  # a sentence, and not its beginning up to an "et al."


@pytest.mark.parametrize("name", ["demo", "mini"])
def test_a_recipe_is_printed_by_name(capsys, name):
    assert main(["recipes", "show", name]) == 0
    assert isinstance(yaml.safe_load(capsys.readouterr().out), dict)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["recipes", "show", "dem"], "there is no recipe or size dem"),
        (["recipes", "show"], "recipes show NAME"),
        (["recipes", "print", "demo"], "recipes show NAME"),
        (["run", "dem"], "did you mean demo?"),
        (["run", "demo-from-scratch", "--model", "mni"], "did you mean mini?"),
    ],
)
def test_wrong_names_are_one_sentence(capsys, words, expected):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_a_wrong_size_is_refused_from_python():
    with pytest.raises(UserError, match="no size"):
        load_recipe("demo-from-scratch", model="mni")


@pytest.mark.slow
def test_the_wheel_holds_recipes_sizes_sample_and_the_skill(tmp_path):
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    (wheel,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    import zipfile

    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [path for folder in ("recipes", "sample") for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert {"bertwright/SKILL.md", *(f"bertwright/{path.relative_to(ROOT)}" for path in files)} <= inside
    package = ROOT / "src" / "bertwright"
    assert {f"bertwright/{path.relative_to(package)}" for path in package.rglob("*.py")} <= inside
    assert bertwright.__version__ in wheel


def test_what_is_missing_is_installed_by_names_that_the_index_has(monkeypatch):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in ("crf", "export", "search", "serve", "sweep"):
        with pytest.raises(UserError) as refused, extra(name, "this"):
            import a_package_that_nobody_has  # noqa: F401
        said, _, command = str(refused.value).partition("; ")
        assert said == "this needs a package that is not installed (a_package_that_nobody_has)"
        assert shlex.split(command) == ["pip", "install", *extras[name]]

    def unknown(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", unknown)
    assert installing("crf") == "install what pyproject.toml lists under `crf`"


def test_no_guide_installs_the_package_from_an_index_that_lacks_it():
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("src/bertwright/**/*.py")]
    assert len(pages) > 100
    assert [page.name for page in pages if re.search(r"pip\s+install\s+'?bertwright", page.read_text())] == []
