"""BERT.ipynb is docs/lesson/lesson.py, executed without a fault."""

import importlib.util
import re
import subprocess
import sys

import nbformat
import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "lesson" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def notebook(build):
    if not build.NOTEBOOK.exists():
        pytest.skip("BERT.ipynb is missing, and so nothing of the lesson is checked: `make notebook` builds it")
    return nbformat.read(build.NOTEBOOK, as_version=4)


def test_the_notebook_has_the_cells_of_its_source(build, notebook):
    cells = build.read_cells(build.SOURCE.read_text())
    assert len(cells) > 40
    assert [(kind_of(build, cell), cell.source) for cell in notebook.cells] == cells


def kind_of(build, cell):
    return "folded" if cell.metadata.get("jupyter") == build.FOLDED["jupyter"] else cell.cell_type


def test_each_figure_of_the_lesson_is_drawn_by_a_folded_cell(build):
    made = build.make_notebook(build.SOURCE.read_text())
    folded = [cell for cell in made.cells if kind_of(build, cell) == "folded"]
    assert sum("canvas(" in cell.source for cell in folded) >= 4
    assert all(cell.metadata.cellView == "form" for cell in folded)
    plain = [cell for cell in made.cells if cell.cell_type == "code" and cell not in folded]
    assert not [cell for cell in plain if "box(" in cell.source or cell.metadata]


def test_the_first_cells_import_public_names_alone_in_at_most_five_lines(build):
    kinds = [text for kind, text in build.read_cells(build.SOURCE.read_text()) if kind == "code"]
    for text in kinds[:2]:
        imports = [line for line in text.splitlines() if re.match(r"(import|from)\b", line)]
        assert 1 <= len(imports) <= 5
        assert not re.search(r"\bbertwright\.\w", text)
    assert "import bertwright" in kinds[0]
    assert "://" not in kinds[0]  # no address: the wheel is uploaded


def test_without_the_package_the_first_cell_asks_for_the_wheel(build, tmp_path):
    first = next(text for kind, text in build.read_cells(build.SOURCE.read_text()) if kind == "code")
    program = f"import sys\nsys.modules['bertwright'] = None  # as if it were not installed\n{first}"
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "the package is not installed: upload its wheel next to this notebook" in told.stderr


@pytest.mark.slow
def test_the_first_cell_installs_the_wheel_next_to_the_notebook(build, tmp_path):
    wheel = ["hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run([sys.executable, "-m", *wheel], cwd=ROOT, capture_output=True, check=True)
    (name,) = (path.name for path in tmp_path.iterdir())
    first = next(text for kind, text in build.read_cells(build.SOURCE.read_text()) if kind == "code")
    program = f"""
import subprocess, sys, zipfile
def install(command, check):  # as pip would, without the packages that the wheel needs
    print(command[1:], check)
    zipfile.ZipFile(command[-1]).extractall("installed")
    sys.path.insert(0, "installed")
subprocess.run = install
{first}
print(bertwright.__file__)"""
    # Without site-packages and PYTHONPATH, in a folder outside of the clone, there is no other Bertwright.
    command = [sys.executable, "-I", "-S", "-c", program]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    ran, found = told.stdout.splitlines()
    assert ran == f"{['-m', 'pip', 'install', '--quiet', name]} True"
    assert (tmp_path / found).resolve() == tmp_path / "installed" / "bertwright" / "__init__.py"


def test_the_part_by_hand_takes_nothing_of_the_package_but_for_comparisons(build):
    cells = build.read_cells(build.SOURCE.read_text())
    end = next(number for number, (_, text) in enumerate(cells) if text.startswith("# Part two"))
    start = next(number for number, (_, text) in enumerate(cells) if text.startswith("# Part one"))
    taken = re.findall(r"from bertwright\S* import.*", "\n".join(text for _, text in cells[start:end]))
    assert not [line for line in taken if "models" in line]
    read = re.findall(r"`((?:text|inputs|models|train)/\w+\.py)`", "\n".join(text for _, text in cells[start:end]))
    assert len(set(read)) >= 7
    assert not [name for name in read if not (ROOT / "src" / "bertwright" / name).exists()]


def test_the_lesson_takes_documented_modules_alone_and_changes_none(build):
    source = "\n".join(text for kind, text in build.read_cells(build.SOURCE.read_text()) if kind != "markdown")
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    taken = {
        f"{module}.{name}" if f"{module}.{name}" in documented else module
        for module, names in re.findall(r"from (bertwright\S*) import (.*)", source)
        for name in re.findall(r"\w+", names.partition("#")[0])
    }
    assert len(taken) >= 5
    assert taken <= documented
    modules = "|".join({"bertwright", "sys", *(module.rpartition(".")[2] for module in documented)})
    assert not re.findall(rf"^\s*(?:{modules})\.\w+ = .*|as sys\.\w+", source, flags=re.MULTILINE)


def test_labels_of_figures_have_at_least_seven_points(build):
    source = build.SOURCE.read_text()
    sizes = re.findall(r"(?:font|label)size=(\d+)", source) + re.findall(r"box\([^\n]*, [A-Z]+, (\d+)", source)
    assert len(sizes) > 10
    assert min(map(int, sizes)) >= 7


def test_code_of_the_part_by_hand_is_short(build):
    cells = build.read_cells(build.SOURCE.read_text())
    end = next(number for number, (_, text) in enumerate(cells) if text.startswith("### Exercises"))
    start = next(number for number, (_, text) in enumerate(cells) if text.startswith("# Part one"))
    lines = [line for kind, text in cells[start:end] if kind == "code" for line in text.splitlines() if line]
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 100


def test_each_file_to_read_is_a_link_to_it(build):
    texts = "\n".join(text for kind, text in build.read_cells(build.SOURCE.read_text()) if kind == "markdown")
    links = dict(re.findall(r"\[`([\w/]+\.py)`\]\(([^\s)]+)\)", texts))
    assert len(links) >= 15
    assert not [link for name, link in links.items() if link != f"src/bertwright/{name}" or not (ROOT / link).exists()]
    named = re.findall(r"(?<!\[)`([a-z_]+/\w+\.py)`", texts)
    assert not [name for name in named if (ROOT / "src" / "bertwright" / name).exists()]


def test_each_figure_from_results_says_so_where_the_folder_is_missing(build):
    cells = [text for kind, text in build.read_cells(build.SOURCE.read_text()) if kind == "code"]
    cells = [text for text in cells if "RESULTS.exists()" in text]
    assert len(cells) >= 3
    assert all("\nelse:\n    print(ABSENT)" in text for text in cells)


def test_there_are_five_exercises_each_with_a_folded_answer_and_a_check(build):
    cells = build.read_cells(build.SOURCE.read_text())
    place = next(number for number, (_, text) in enumerate(cells) if text.startswith("### Exercises"))
    assert cells[place][1].count("<details>") == cells[place][1].count("</details>") == 5
    assert cells[place + 1][1].count("assert ") >= 5


def test_the_notebook_shows_what_its_cells_said_and_no_fault(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 12
    assert sum(output.output_type == "stream" for output in outputs) >= 12


def test_cells_are_read_in_percent_format(build):
    source = "# ignored\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n\n# %% [folded]\nprint(x)\n"
    assert build.read_cells(source) == [("markdown", "# Title\n\nText."), ("code", "x = 1"), ("folded", "print(x)")]
