"""BERT.ipynb is docs/lesson/lesson.py, executed without a fault."""

import importlib.util

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
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == cells


def test_the_notebook_shows_what_its_cells_said_and_no_fault(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 12
    assert sum(output.output_type == "stream" for output in outputs) >= 12


def test_cells_are_read_in_percent_format(build):
    source = "# ignored\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n\n# %%\nprint(x)\n"
    assert build.read_cells(source) == [("markdown", "# Title\n\nText."), ("code", "x = 1"), ("code", "print(x)")]
