"""Questions with answers and texts with choices, as `bertwright init` finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bertwright.apps.inspection import LOOKED_AT, Contents, measure
from bertwright.apps.new_recipe import TEST_RATIO, Findings
from bertwright.recipe import Source
from bertwright.text.corpus import parts_read
from bertwright.text.records import Record, read_split
from bertwright.text.tables import Table

_CONTEXTS = ("context", "passage", "paragraph")
_BEFORE_CHOICES = (*_CONTEXTS, "question", "premise", "ctx")
_CHOICES = ("choices", "options", "endings")
_COLUMNS = {
    "question-answering": ("context", "question", "answers"),
    "multiple-choice": ("context", "choices", "label"),
}
"""What the tasks read; they themselves load torch, which takes seconds."""

_LABELS = ("label", "answerKey", "answer")


def _form(contents: Contents) -> tuple[str, dict[str, str]] | None:
    """The task of a table and the options of a source that say where its columns stand; None for another task."""
    columns = contents.columns
    lists = [name for name in columns if columns[name].holds_lists]

    def first(names: Sequence[str], among: Sequence[str]) -> str | None:
        return next((name for name in names if name in among), None)

    context, choices = first(_CONTEXTS, list(columns)), first(_CHOICES, lists)
    if context and "question" in columns and "answers" in lists:
        return "question-answering", {"context_column": context}
    before, label = first(_BEFORE_CHOICES, list(columns)), first(_LABELS, list(columns))
    if choices and before and label:
        return "multiple-choice", {"context_column": before, "choices_column": choices, "label_column": label}
    return None


def look_at_questions(name: str, path: str, tables: Sequence[Table], contents: Contents) -> Findings | None:
    """What questions with answers, or texts with choices, hold; None where there are none.

    Args:
        name: for the recipe.
        path: that the recipe names.
        tables: that are looked at.
        contents: their columns.

    Raises:
        UserError: if answers do not stand in their contexts, or choices are none.
    """
    form = _form(contents)
    if form is None:
        return None
    task, options = form
    has_test = "test" in parts_read(Source(path=path), None).values()
    given: Any = options
    source = replace(Source(path=path, test_ratio=None if has_test else TEST_RATIO), **given)
    split = read_split(source, "train", _COLUMNS[task])
    texts = measure((_read_together(one), number) for number, one in enumerate(split.records[:LOOKED_AT], 1))
    return Findings(
        name=name,
        path=path,
        contents=contents,
        texts=texts,
        text_column=options["context_column"],
        label_column=None,
        labels=split.summary()["classes"],
        has_test=has_test,
        groups=[],
        notes=[] if has_test else ["rows are those of the train part"],
        is_plain=False,
        characters=texts.total,
        tagged=options,
        task=task,
    )


def _read_together(record: Record) -> str:
    """What a model reads of a record at once: context and question, or the longest choice."""
    choices = record.choices or (record.text_pair or "",)
    return f"{max(choices, key=len)} {record.text}"
