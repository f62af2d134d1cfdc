"""Rows of a task that are read as training reads them, as `bertwright init` finds them: tags, questions, choices.

And text files that stand beside such rows.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertwright.apps.inspection import LOOKED_AT, Contents, measure
from bertwright.apps.new_recipe import TEST_RATIO, Findings, recipe_name
from bertwright.files import user_path
from bertwright.recipe import Source
from bertwright.text.corpus import parts_read
from bertwright.text.records import Record, read_split
from bertwright.text.sources import Files, locate


def first_of(names: Sequence[str], among: Sequence[str]) -> str | None:
    """The first of the usual names of a column that there is; None without one."""
    return next((name for name in names if name in among), None)


def look_at_rows(
    name: str,
    path: str,
    contents: Contents,
    options: dict[str, Any],
    columns: Sequence[str],
    read: Callable[[Record], str],
    *,
    text_column: str,
    task: str | None = None,
) -> Findings:
    """What the train part of a task's rows holds.

    Args:
        name: for the recipe.
        path: that the recipe names.
        contents: the columns of its files.
        options: of a source, which say where the task's columns stand.
        columns: that the task reads.
        read: what a model reads of a record at once.
        text_column: the column of the text.
        task: the task; None for words with tags.

    Raises:
        UserError: if the rows cannot be read.
    """
    has_test = "test" in parts_read(Source(path=path), None).values()
    source = replace(Source(path=path, test_ratio=None if has_test else TEST_RATIO), **options)
    split = read_split(source, "train", columns)
    texts = measure((read(record), number) for number, record in enumerate(split.records[:LOOKED_AT], 1))
    notes = [] if split.converted is None else [f"tags are {split.converted}"]
    if not has_test:
        notes.append(f"{'rows and entities' if task is None else 'rows'} are those of the train part")
    return Findings(
        name=name,
        path=path,
        contents=contents,
        texts=texts,
        text_column=text_column,
        label_column=None,
        labels=split.summary()["classes"],
        has_test=has_test,
        groups=[],
        notes=notes,
        is_plain=False,
        characters=texts.total,
        tagged=options,
        task=task,
    )


def texts_beside(found: Findings, options: Sequence[str]) -> str:
    """What is said of text files beside the tables: the command that pre-trains on them.

    Args:
        found: in the tables.
        options: of the command at work that the other one needs, too.
    """
    files = found.texts_beside
    texts = str(files[0])
    if len(files) > 1:
        folder = Path(os.path.commonpath([file.parent for file in files]))
        place = locate(Source(path=str(folder)))
        is_all = isinstance(place, Files) and set(place.paths) == set(files)
        texts = str(folder) if is_all else f"{glob.escape(str(folder))}/**/*.txt*"
    # Of the same name, the other recipe takes this one's place.
    again = ["--overwrite"] if "--out" in options or recipe_name(user_path(found.path)) == found.name else []
    command = shlex.join(["bertwright", "init", found.path, texts, *options, *again])
    said = "1 text file beside the tables is" if len(files) == 1 else f"{len(files)} text files beside the tables are"
    return f"{said} not used; to pre-train on them: {command}"
