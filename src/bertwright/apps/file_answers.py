"""A file's rows with a model's answers beside them: in chunks, in constant memory, and a bad row costs that row."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import yaml
from tqdm import tqdm

from bertwright.errors import UnreadableText, UserError, WrongTypeError
from bertwright.files import atomic_path, user_path
from bertwright.recipe import Source
from bertwright.tasks.answers import Answers
from bertwright.text import formats
from bertwright.text.tables import Row, Table, cell, is_conll, open_table, with_words

AT_ONCE = 2_000
"""Texts that are answered before the first are written: a file of millions shows results from the start."""

_OUTPUTS = (".csv", ".tsv", ".jsonl")


@dataclass
class Skipped:
    """Rows without an answer.

    Args:
        count: how many.
        first: the place and problem of the first.
    """

    count: int = 0
    first: str = ""

    def add(self, where: str, problem: str) -> None:
        """Count one more row."""
        self.first = self.first or f"{where} {problem}"
        self.count += 1

    def report(self, rows: int, what: str = "have no answer") -> None:
        """Say on stderr how many rows have no answer, or else what became of them, if there are any."""
        if self.count:
            print(f"bertwright: {self.count:,} of {rows:,} rows {what}; the first: {self.first}", file=sys.stderr)


@dataclass
class TextRows:
    """The rows of a file, with their texts, or with what else a task reads.

    Args:
        table: the file.
        columns: the file's column for each field of a record that is read.
        skipped: rows that have no text; filled as rows are read.
        rows: that were read so far.
    """

    table: Table
    columns: Mapping[str, str]
    skipped: Skipped = field(default_factory=Skipped)
    rows: int = 0

    def chunks(self) -> Iterator[list[tuple[Row, Any]]]:
        """Rows with what a model is given, a text or a dict of fields, `AT_ONCE` at a time; None without text."""
        places = {field: self.table.place_of(column) for field, column in self.columns.items()}
        rows = iter(tqdm(self.table.rows(), unit=" rows", disable=not sys.stderr.isatty(), delay=1))
        while chunk := list(islice(rows, AT_ONCE)):
            self.rows += len(chunk)
            yield [(row, self._given(row, {field: row.values[at] for field, at in places.items()})) for row in chunk]

    def _given(self, row: Row, values: dict[str, Any]) -> Any:
        problem, text = row.problem, values.get("text", "")
        if problem is None and not isinstance(text, str | None):
            problem = f"has {type(text).__name__} where text is expected"
        if problem is None and not any(values.values() if list(values) != ["text"] else [(text or "").strip()]):
            problem = "has no text"
        if problem is None:
            return formats.repaired(text) if list(values) == ["text"] else values
        self.skipped.add(self.where(row), problem)
        return None

    def where(self, row: Row) -> str:
        """A row's place, for a message."""
        return formats.place(self.table.path, row.number)


def trained_columns(model: str) -> dict[str, str]:
    """The column of each field of a record in the data that a run's model was trained on; usual names without a run."""
    path = user_path(model) / "recipe.yaml"
    source: Any = Source(path="-")
    if path.is_file():
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        given = recipe["data"].get(recipe["finetune"]["data"])
        source = replace(source, **{**given, "path": "-"}) if isinstance(given, dict) else source
    found = {name.removesuffix("_column"): column for name, column in vars(source).items() if name.endswith("_column")}
    return {**found, "text_pair": source.text_pair_column or "text_pair"}


def open_rows(
    path: Path,
    text_column: str | None,
    usual: Mapping[str, str] | None = None,
    reads: Callable[[Sequence[str]], tuple[str, ...]] = lambda _: ("text",),
    text_pair_column: str | None = None,
    tags: Collection[str] = (),
) -> TextRows:
    """A file whose rows are to be answered.

    Args:
        path: the file.
        text_column: the column of the text; the default is the usual one, if there is such a column, text, or the only
            one.
        usual: columns by field, from `trained_columns`.
        reads: of a task, which of the fields that a file has it reads.
        text_pair_column: the column of the second text, for a task on pairs.
        tags: of words, that the task predicts; a text file that has them behind its words is a CoNLL file.

    Raises:
        UserError: if the file cannot be read, or it is not plain which column is meant.
    """
    table, usual = open_table(path), {**(usual or {}), **({"text_pair": text_pair_column} if text_pair_column else {})}
    table, usual = _of_words(table, usual, text_column, reads(["tokens"]) == ("tokens",), tags)
    fields = reads([field for field, column in usual.items() if column in table.columns])
    if text_pair_column and "text_pair" not in fields:
        raise UserError("the model reads one text; leave out --text-pair-column")
    if "text_pair" in fields:
        usual |= {"text": text_column or usual.get("text", "text")}
        for field, option in (("text", "--text-column"), ("text_pair", "--text-pair-column")):
            if usual[field] not in table.columns:
                raise formats.missing_column(str(path), usual[field], table.columns, option)
        return TextRows(table, {field: usual[field] for field in fields})
    if text_column is None and fields != ("text",):
        for field in fields:
            if usual[field] not in table.columns:
                listed = ", ".join(table.columns)
                raise UserError(f"{path} has no column `{usual[field]}`; it has: {listed}; name a column so")
        return TextRows(table, {field: usual[field] for field in fields})
    if text_column is None and usual.get("text") in table.columns:
        text_column = usual["text"]
    if text_column is None:
        if len(table.columns) > 1 and "text" not in table.columns:
            raise UserError(
                f"which column of {path} is the text: {', '.join(table.columns)}? Say it with --text-column NAME"
            )
        text_column = "text" if "text" in table.columns else table.columns[0]
    if table.is_plain and text_column != "text":
        raise UserError(f"{path} is plain text and has no columns; leave out --text-column")
    if text_column not in table.columns:
        raise formats.missing_column(str(path), text_column, table.columns, "--text-column")
    return TextRows(table, {"text": text_column})


def _of_words(
    table: Table, usual: dict[str, str], text_column: str | None, reads_words: bool, tags: Collection[str]
) -> tuple[Table, dict[str, str]]:
    """A file with words as training reads it, and the usual columns; other files stay as they are.

    Raises:
        UserError: if it has words where texts are asked for.
    """
    if table.is_plain and reads_words and text_column is None and is_conll(table.path, tags):
        table = replace(table, words="tokens")
    if table.words is None:
        return table, usual
    if not reads_words or text_column is not None:
        advice = (
            "leave out --text-column" if reads_words else "give a file of texts, such as one with a text on each line"
        )
        raise UserError(f"{table.path} is a CoNLL file of words and has no column of texts; {advice}")
    return with_words(table, usual.get("tokens", "tokens"), tags), usual | {"tokens": "tokens"}


def answered(
    rows: TextRows, chunk: Sequence[tuple[Row, Any]], answer: Callable[[list[Any]], Sequence[Any]]
) -> list[Any]:
    """A model's answer to each row of a chunk; None where the row has no text, or the model finds no word in it."""
    given = [number for number, (_, one) in enumerate(chunk) if one is not None]
    found: list[Any] = [None] * len(chunk)
    try:
        answers = list(answer([chunk[number][1] for number in given])) if given else []
    except (UnreadableText, WrongTypeError):
        answers = []
        for number in given:  # one by one, so that each bad row costs itself alone
            try:
                answers += answer([chunk[number][1]])
            except (UnreadableText, WrongTypeError) as error:
                rows.skipped.add(rows.where(chunk[number][0]), problem_of(error).partition(";")[0])
                answers.append(None)
    for number, one in zip(given, answers, strict=True):
        found[number] = one
    return found


def problem_of(error: UnreadableText | WrongTypeError) -> str:
    """Why a single row is refused, without its number among those that a model was asked about."""
    return error.problem if isinstance(error, UnreadableText) else str(error).removeprefix("text 1").lstrip(": ")


def predict_into(
    rows: TextRows, out: Path, labels: Sequence[str], answer: Callable[[list[Any]], Sequence[Any]], task: Answers
) -> None:
    """Write all columns of a file, and behind them those of the task's answers, as label and score.

    The file appears when it is whole. Where the input has a column of such a name, ours begins with `predicted_`.

    Args:
        rows: of the input.
        out: a .csv, .tsv or .jsonl file; an existing one is replaced.
        labels: names of the classes.
        answer: predicts texts.
        task: the model's.

    Raises:
        UserError: if the output's name says no format, it is the input, or JSON cannot hold the columns.
    """
    if out.suffix.lower() not in _OUTPUTS:
        raise UserError(f"{out}: predictions are written as {', '.join(_OUTPUTS)}; give such a name, as out.csv")
    check_out(out, rows)
    columns = rows.table.columns
    if out.suffix.lower() == ".jsonl":
        for name in columns:
            formats.require_one(rows.table.path, columns, name, ", and a row of JSON has one of each name")
    added = [_free(name, columns) for name in task.columns_out(labels)]
    with atomic_path(out) as temporary, _writer(temporary, out.suffix.lower(), [*columns, *added]) as write:
        for chunk in rows.chunks():
            for (row, _), prediction in zip(chunk, answered(rows, chunk, answer), strict=True):
                values = [None] * len(added) if prediction is None else task.row_out(prediction, labels)
                write([*row.values, *values])
    print(f"{rows.rows:,} rows written to {out}")
    rows.skipped.report(rows.rows)


def check_out(out: Path, rows: TextRows) -> None:
    """See that a file can be written beside the one that is read.

    Raises:
        UserError: if it is a folder, or the file that is read.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file with --out")
    if out.exists() and out.samefile(rows.table.path):
        raise UserError(f"{out} is the file that is read; give another name with --out")


def _free(name: str, columns: Sequence[str]) -> str:
    while name in columns:
        name = f"predicted_{name}"
    return name


@contextmanager
def _writer(path: Path, kind: str, columns: Sequence[str]) -> Iterator[Callable[[list[Any]], None]]:
    with path.open("w", encoding="utf-8", errors="replace", newline="") as stream:
        if kind == ".jsonl":
            yield lambda values: _write_json(stream, dict(zip(columns, values, strict=True)))
        else:
            # The writer quotes a cell that has a character of its line end: \r alone ends a row for most readers, too.
            lines = SimpleNamespace(write=lambda row: stream.write(row.removesuffix("\r\n") + "\n"))
            writer = csv.writer(lines, delimiter="\t" if kind == ".tsv" else ",", lineterminator="\r\n")
            writer.writerow(columns)
            yield lambda values: writer.writerow([cell(value) for value in values]) and None


def _write_json(stream: TextIO, row: dict[str, Any]) -> None:
    try:
        line = json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        line = json.dumps(_finite(row), ensure_ascii=False, default=str)
    stream.write(line + "\n")


def _finite(value: Any) -> Any:
    """A value as JSON can hold it, which knows neither NaN, as a missing number is in Parquet, nor infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return list(map(_finite, value)) if isinstance(value, list | tuple) else value
