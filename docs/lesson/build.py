"""Make BERT.ipynb from lesson.py, cell by cell, and execute it: `python docs/lesson/build.py [--check]`.

The source is plain Python with `# %%` before each cell and `# %% [markdown]` before each text, so that it can be read,
compared and linted like any other file. A cell of `# %% [folded]` is shown without its source until the reader unfolds
it, in Jupyter and on Colab. With --check the cells run and their assertions hold or fail, and BERT.ipynb
is not written.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from bertwright.files import write_text

ROOT = Path(__file__).parent.parent.parent
SOURCE = Path(__file__).parent / "lesson.py"
NOTEBOOK = ROOT / "BERT.ipynb"
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
"""Metadata of a cell whose source is hidden at first: Jupyter's and Colab's."""


def read_cells(source: str) -> list[tuple[str, str]]:
    """Kind (markdown, code or folded) and text of each cell of a file in percent format."""
    parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)[1:]
    cells = []
    for mark, body in zip(parts[::2], parts[1::2], strict=True):
        body = body.strip("\n")
        if mark.strip() == "[markdown]":
            cells.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE)))
        else:
            cells.append((mark.strip(" []") or "code", body))
    return cells


def make_notebook(source: str) -> nbformat.NotebookNode:
    """The notebook of a source, not yet executed. Cells are numbered, so that equal sources give equal files."""
    cells = []
    for number, (kind, text) in enumerate(read_cells(source)):
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(text, id=f"cell-{number:03}", metadata=FOLDED if kind == "folded" else {}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run all cells at the repository's root, from scratch; raises where a cell does.

    An earlier lesson's runs go first: a stage that is done would be reused, whatever has changed in the code since.
    """
    for earlier in (ROOT / "runs").glob("lesson*"):
        shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
    NotebookClient(
        notebook,
        timeout=None,  # on a busy machine a cell may take long
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    notebook.metadata.language_info = {"name": "python"}  # and not the version that it happened to run with


def main() -> None:
    """Build, execute, and write unless only checking."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="execute, and leave BERT.ipynb as it is")
    checking = parser.parse_args().check
    notebook = make_notebook(SOURCE.read_text(encoding="utf-8"))
    execute(notebook)
    if not checking:
        write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
