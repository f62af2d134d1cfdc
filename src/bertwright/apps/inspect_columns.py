"""Which columns of a table hold the text, or two, and the labels, and what kind of labels these are."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from bertwright.apps.inspection import LABEL_NAMES, MOST_CLASSES, Column, Contents
from bertwright.errors import UserError
from bertwright.text import formats
from bertwright.text.tables import Table

Labels = tuple[str | None, str | None, list[str]]
"""The column of the labels, their task where it is not classification, and columns of 0 and 1 for each label."""

NO_LABELS: Labels = (None, None, [])


def columns_of_texts(
    name: str, contents: Contents, given: str | None, pair: str | None, label: str | None
) -> tuple[str, str | None]:
    """The column of the text, and that of the second text, if the labels are those of pairs.

    Args:
        name: of the table, for messages.
        contents: of the table.
        given: the column of the text that the user names.
        pair: the column of the second text that the user names.
        label: the column of the label that the user names.

    Raises:
        UserError: if there is none, or it is not plain which.
    """
    for column, option in ((given, "--text-column"), (pair, "--text-pair-column")):
        if column is not None and column not in contents.columns:
            raise formats.missing_column(name, column, contents.columns, option)
    if pair is not None:
        if given == pair:
            raise UserError(f"--text-column and --text-pair-column are both {pair}; name two columns")
        others = {key: one for key, one in contents.columns.items() if key != pair}
        return given or _text_column(name, others, label), pair
    if given is not None:
        return given, None
    return _text_column(name, contents.columns, label), None


def _text_column(name: str, columns: Mapping[str, Column], label: str | None) -> str:
    others = [column for column in columns.values() if column.name != label]
    found = [column for column in others if column.is_text]
    exact = [column for column in others if column.name.lower() == "text" and column.filled]
    lists = [column.name for column in others if column.holds_lists and column.name.lower() not in LABEL_NAMES]
    if lists:
        raise UserError(
            f"which column of {name} is the text: {', '.join(column.name for column in others)}? The values of "
            f"{' and '.join(lists)} are lists, and no task is known by the names of these columns; if "
            "the label speaks of one text alone, say which with --text-column NAME"
        )
    if len(found) > 1:
        described = ", ".join(f"{column.name} (about {round(column.words / column.filled)} words)" for column in found)
        first, second = (f"column {shlex.quote(column.name)}" for column in found[:2])
        raise UserError(
            f"which column of {name} is the text: {described}? If the label speaks of one, say which, for example with "
            f"--text-{first}; if it speaks of both of two, name them: --text-{first} --text-pair-{second}"
        )
    for candidates in (found, exact, others):
        if len(candidates) == 1:
            return candidates[0].name
    raise UserError(
        f"which column of {name} is the text: {', '.join(columns)}? None holds sentences; say it with "
        "--text-column NAME"
    )


def check_names(tables: Iterable[Table], names: Iterable[str | None]) -> None:
    """See that no column that is read has the name of another, of which only one is read.

    Args:
        tables: that are read.
        names: of the columns; None stands for a column that there is not.

    Raises:
        UserError: if one has.
    """
    for name, table in product(names, tables):
        if name is not None:
            formats.require_one(table.path, table.columns, name)


def find_labels(
    name: str, contents: Contents, texts: Sequence[str | None], given: str | None, has_test: bool
) -> Labels:
    """Where the labels stand, and what they are for.

    Args:
        name: of the table, for messages.
        contents: of the table.
        texts: the columns of texts.
        given: the column that the user names.
        has_test: whether there is a test split.

    Raises:
        UserError: if it is not plain which column holds them, or they are no labels.
    """
    if given is None and (one_each := columns_of_indicators(contents, texts)):
        return None, "multi-label", one_each
    if given is None and len(contents.columns) == 1:
        return NO_LABELS
    label = column_of_labels(name, contents, texts, given)
    task = task_of_labels(name, contents.columns[label])
    if task is None:
        check_rare(name, contents.columns[label].counts, has_test)
    return label, task, []


def check_rare(name: str, counts: Mapping[str, int], has_test: bool) -> None:
    """See that each class can be both in training and test set.

    Args:
        name: of the table or folder, for messages.
        counts: rows of each class.
        has_test: whether there is a test split.

    Raises:
        UserError: if a class has one row, and there is no test split.
    """
    rare = [label for label, count in counts.items() if count == 1]
    if rare and not has_test:
        listed = ", ".join(rare[:5]) + (", …" if len(rare) > 5 else "")
        raise UserError(
            f"{name} has one row of {'the class' if len(rare) == 1 else f'{len(rare)} classes:'} {listed}, which "
            "cannot be both in training and test set; add rows of it, give it another class, or remove it"
        )


def in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Classes by name, whole numbers by value."""
    numbers = all(label.removeprefix("-").isdecimal() for label in counts)
    return dict(sorted(counts.items(), key=lambda item: (int(item[0]) if numbers else 0, item[0])))


def column_of_labels(name: str, contents: Contents, texts: Sequence[str | None], given: str | None) -> str:
    """The column of the labels.

    Args:
        name: of the table, for messages.
        contents: of the table.
        texts: the columns of texts.
        given: the column that the user names.

    Raises:
        UserError: if there is none, or it is not plain which.
    """
    columns = contents.columns
    if given is not None:
        if given not in columns:
            raise formats.missing_column(name, given, columns, "--label-column")
        task_of_labels(name, columns[given])
        return given
    others = [column for column in columns.values() if column.name not in texts]
    named = [column for column in others if column.name.lower() in LABEL_NAMES and column.filled]
    found = [column for column in others if column.is_label and not column.is_group]
    exact = [column for column in named if column.name.lower() in ("label", "labels")]
    for candidates in (exact, [column for column in found if column in named], found, named):
        if len(candidates) == 1:
            task_of_labels(name, candidates[0])
            return candidates[0].name
        if candidates:
            described = ", ".join(f"{one.name} ({one.distinct} {_kind(one)})" for one in candidates)
            raise UserError(
                f"which column of {name} is the label: {described}? Say so, for example with --label-column "
                f"{shlex.quote(candidates[0].name)}"
            )
    raise UserError(
        f"which column of {name} is the label: {', '.join(column.name for column in others)}? None holds a few classes "
        "that repeat; say it with --label-column NAME, or pre-train on the texts alone with --unlabelled"
    )


def columns_of_indicators(contents: Contents, texts: Sequence[str | None]) -> list[str]:
    """The columns of several labels, one for each, which hold 1 where a text has it and 0 where it has not.

    Two columns or more that hold both and nothing else, in the same number of rows; none where another column holds
    labels, or has the name of a label.

    Args:
        contents: of the table.
        texts: the columns of texts.
    """
    others = [column for column in contents.columns.values() if column.name not in texts]
    found = [column for column in others if set(column.counts) in ({"0", "1"}, {"false", "true"})]
    rest = [column for column in others if column not in found and column.is_label and not column.is_group]
    named = [column for column in others if column.name.lower() in LABEL_NAMES]
    if len(found) < 2 or rest or named or len({column.filled for column in found}) > 1:
        return []
    return [column.name for column in found]


def _kind(column: Column) -> str:
    return "lists" if column.holds_lists else "classes"


def task_of_labels(name: str, column: Column) -> str | None:
    """The task of a column's labels: multi-label of lists, regression of real numbers, None for classes.

    Args:
        name: of the table, for messages.
        column: of the labels.

    Raises:
        UserError: if they are no labels.
    """
    if column.holds_lists:
        return "multi-label"
    if column.fractions and column.numbers == column.filled:
        return "regression"
    if column.fractions:
        raise UserError(
            f"column {column.name} of {name} holds numbers in {column.numbers} of {column.filled} rows, and words in "
            "others; write numbers in all of them, for regression, or classes, or choose another with --label-column"
        )
    if column.distinct < 2:
        raise UserError(
            f"column {column.name} of {name} holds {column.distinct} class, and at least two are needed; choose "
            "another with --label-column"
        )
    if column.distinct > min(MOST_CLASSES, max(2, column.filled // 2)):
        raise UserError(
            f"column {column.name} of {name} has {column.distinct} different values in {column.filled} rows, too many "
            "to be classes; choose another with --label-column"
        )
    return None
