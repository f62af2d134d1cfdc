"""Pairs of texts that vectors are trained on, as `bertwright init` finds them by the usual names of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bertwright.apps.inspect_rows import first_of, look_at_rows
from bertwright.apps.inspection import Contents
from bertwright.apps.new_recipe import Findings
from bertwright.text.records import Record
from bertwright.text.tables import Table

_SCORES = ("score", "similarity", "similarity_score")


def look_at_pairs(name: str, path: str, tables: Sequence[Table], contents: Contents) -> Findings | None:
    """What pairs of texts hold, those of the task `embedding`; None where there are none.

    Their columns are anchor or query, positive and perhaps negative; or sentence1, sentence2 and a score, a number.

    Args:
        name: for the recipe.
        path: that the recipe names.
        tables: that are looked at.
        contents: their columns.

    Raises:
        UserError: if the rows cannot be read.
    """
    columns = list(contents.columns)
    anchor, score = first_of(("anchor", "query"), columns), first_of(_SCORES, columns)
    if anchor and "positive" in columns:
        options, read = {"text_column": anchor, "text_pair_column": "positive"}, ["text", "text_pair"]
        if "negative" in columns:
            options["negative_column"] = "negative"
            read.append("negative")
        return look_at_rows(name, path, contents, options, read, _longest, text_column=anchor, task="embedding")
    if score is None or not {"sentence1", "sentence2"} <= set(columns):
        return None
    own = contents.columns[score]
    if own.numbers < own.filled:
        return None
    options = {"text_column": "sentence1", "text_pair_column": "sentence2", "label_column": score}
    read = ["text", "text_pair", "number"]
    found = look_at_rows(name, path, contents, options, read, _longest, text_column="sentence1", task="embedding")
    other = f"--text-column sentence1 --text-pair-column sentence2 --label-column {score}"
    return replace(found, notes=[*found.notes, f"for a model that predicts the score of a pair, add {other}"])


def _longest(record: Record) -> str:
    """What a model reads of a record at once: one of its texts."""
    return max((record.text, record.text_pair or "", record.negative or ""), key=len)
