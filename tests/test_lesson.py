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


def test_the_part_by_hand_takes_nothing_of_the_package_but_for_comparisons(build):
    cells = build.read_cells(build.SOURCE.read_text())
    end = next(number for number, (_, text) in enumerate(cells) if text.startswith("# Part two"))
    start = next(number for number, (_, text) in enumerate(cells) if text.startswith("# Part one"))
    taken = re.findall(r"from bertwright\S* import.*", "\n".join(text for _, text in cells[start:end]))
    assert not [line for line in taken if "models" in line]
    read = re.findall(r"`((?:text|inputs|models|train)/\w+\.py)`", "\n".join(text for _, text in cells[start:end]))
    assert len(set(read)) >= 7
    assert not [name for name in read if not (ROOT / "src" / "bertwright" / name).exists()]


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
