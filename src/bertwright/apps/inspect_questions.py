"""Questions with answers and texts with choices, as `bertwright init` finds them."""

from __future__ import annotations

from collections.abc import Sequence

from bertwright.apps.inspect_rows import first_of, look_at_rows
from bertwright.apps.inspection import Contents
from bertwright.apps.new_recipe import Findings
from bertwright.text.records import Record
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

    context, choices = first_of(_CONTEXTS, list(columns)), first_of(_CHOICES, lists)
    if context and "question" in columns and "answers" in lists:
        return "question-answering", {"context_column": context}
    before, label = first_of(_BEFORE_CHOICES, list(columns)), first_of(_LABELS, list(columns))
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
    where = options["context_column"]
    return look_at_rows(name, path, contents, options, _COLUMNS[task], _read_together, text_column=where, task=task)


def _read_together(record: Record) -> str:
    """What a model reads of a record at once: context and question, or the longest choice."""
    choices = record.choices or (record.text_pair or "",)
    return f"{max(choices, key=len)} {record.text}"
