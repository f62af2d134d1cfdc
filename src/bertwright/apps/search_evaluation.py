"""`bertwright search evaluate`: how well an index finds the right texts of questions, by vectors, words and both."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bertwright.apps.file_answers import Skipped
from bertwright.apps.ranking import Ranking
from bertwright.apps.search import model_of, name_of, names_by_place
from bertwright.apps.search_index import Hit, SearchIndex
from bertwright.apps.search_texts import text_vectors
from bertwright.arrays import Floats, Ints
from bertwright.errors import UnreadableText, UserError
from bertwright.text import formats
from bertwright.text.tables import Table, cell, open_table

Key = str | tuple[str, str]
"""What names a right text: the text itself, with single spaces; or its file, as the index names it, and its line."""


@dataclass
class Question:
    """A question.

    Args:
        text: of the question.
        where: it first stands, for a message.
        right: the numbers of its right texts that are in the index.
    """

    text: str
    where: str
    right: set[int] = field(default_factory=set)


def evaluate(
    index: str,
    questions: str,
    question_column: str = "question",
    text_column: str | None = None,
    model: str | None = None,
) -> None:
    """Measure how well an index finds the right texts of questions: by vectors, by words and by both.

    Args:
        index: its folder.
        questions: a .csv, .tsv, .jsonl or .parquet file, also compressed, with a row for each question and a right
            text; a question with several right texts has several rows.
        question_column: of the file, with the questions.
        text_column: of the file, with the right texts as the index has them. The default is text; a file without such a
            column says which texts are right by file and line, as results of a query do.
        model: where the model that built the index has been moved to; the default is where it was.

    Raises:
        UserError: if the index is damaged or of another model, a file or a column is missing, or no question has its
            text in the index.
    """
    from bertwright.evaluate.retrieval import DEPTH, metrics  # torch takes seconds to load: not for --help

    there, path, skipped = SearchIndex(Path(index)), Path(questions), Skipped()
    rankings: tuple[Ranking, ...] = ("vectors", "bm25", "hybrid") if there.built.hybrid else ("vectors",)
    if there.built.hybrid:
        _ = there.words  # says what is missing before a model is loaded
    rows = _rows(there, path, question_column, text_column, skipped)
    count = len(rows) + skipped.count
    asked, numbers = _matched(there, path, rows, skipped)
    read, vectors = _encoded(there, [one for one in asked if one.right], model, skipped)
    print(f"{sum(bool(one.right) for one in asked):,} of {len(asked):,} questions have their text in {there.folder}")
    skipped.report(count, "are left out")
    ranked: dict[str, list[Ints]] = {by: [] for by in rankings}
    shown = tqdm(read, unit=" questions", disable=not sys.stderr.isatty(), delay=1)
    for question, vector in zip(shown, vectors, strict=True):
        for by in rankings:
            ranked[by].append(_numbers(there.rank(question.text, vector, DEPTH, by), numbers))
    right = [np.array(sorted(question.right)) for question in read]
    print(metrics_table({by: metrics(own, right) for by, own in ranked.items()}))


def _rows(
    index: SearchIndex, path: Path, question_column: str, text_column: str | None, skipped: Skipped
) -> list[tuple[str, Key, str]]:
    """Each row's question, what names its right text, and its place.

    Raises:
        UserError: if a column is missing, or no row has all of it.
    """
    table = open_table(path)
    columns = _columns(table, question_column, text_column)
    places = [table.place_of(name) for name in columns]
    files = names_by_place(index)
    name = functools.cache(lambda file: name_of(index, file, files) or file)
    rows: list[tuple[str, Key, str]] = []
    for row in table.rows():
        values = [_plain(cell(row.values[place])) for place in places]
        empty = next((column for column, value in zip(columns, values, strict=True) if not value), None)
        if problem := row.problem or (empty and f"has nothing in the column `{empty}`"):
            skipped.add(formats.place(path, row.number), problem)
            continue
        key: Key = values[1] if len(values) == 2 else (name(cell(row.values[places[1]])), values[2])
        rows.append((values[0], key, formats.place(path, row.number)))
    if not rows:
        first = f" ({skipped.first})" if skipped.first else ""
        raise UserError(f"{path} has no row with a question and its right text{first}; write one or more")
    return rows


def _columns(table: Table, question_column: str, text_column: str | None) -> list[str]:
    """The columns of the question and of what names its right text: one, or file and line.

    Raises:
        UserError: if one is missing.
    """
    if table.is_plain:
        raise UserError(
            f"{table.path} is plain text and has no columns; give a table with the columns question and text"
        )
    if question_column not in table.columns:
        raise formats.missing_column(str(table.path), question_column, table.columns, "--question-column")
    text = text_column or "text"
    if text in table.columns:
        return [question_column, text]
    if text_column is None and {"file", "line"} <= set(table.columns):
        return [question_column, "file", "line"]
    raise formats.missing_column(str(table.path), text, table.columns, "--text-column")


def _plain(text: str) -> str:
    """A text with single spaces, without half surrogate pairs, as it is compared."""
    return " ".join(formats.repaired(text).split())


def _matched(
    index: SearchIndex, path: Path, rows: Sequence[tuple[str, Key, str]], skipped: Skipped
) -> tuple[list[Question], dict[str, int]]:
    """All questions with the right texts that the index has, and the number of each of these texts.

    Raises:
        UserError: if it has none.
    """
    wanted = {key for _, key, _ in rows}
    texts: dict[Key, str] = {}
    for entries, _ in index.parts():
        for entry in entries:
            text = _plain(entry.text)
            own: tuple[Key, Key] = text, (entry.file, str(entry.line))
            texts |= {key: text for key in own if key in wanted}
    asked: dict[str, Question] = {}
    numbers: dict[str, int] = {}
    for question, key, where in rows:
        right = asked.setdefault(question, Question(question, where)).right
        if key in texts:
            right.add(numbers.setdefault(texts[key], len(numbers)))
        else:
            skipped.add(where, f"has a text that is not in {index.folder}")
    if not numbers:
        raise UserError(
            f"none of the {len(asked):,} questions of {path} has its text in {index.folder}; give texts as the index "
            "has them, or file and line as results of a query show them"
        )
    return list(asked.values()), numbers


def _encoded(
    index: SearchIndex, questions: Sequence[Question], model: str | None, skipped: Skipped
) -> tuple[list[Question], Floats]:
    """The questions that the model reads whole, as queries must be, with their unit vectors, (questions, dimensions).

    Raises:
        UserError: if there is none, or the model is another one than that of the index.
    """
    encoder, read = model_of(index, model), list(questions)
    while read:
        try:
            vectors, left_out = text_vectors(encoder, [one.text for one in read], index.built.dimensions)
            break
        except UnreadableText as error:
            skipped.add(read[error.number].where, error.problem)
            del read[error.number]
    else:
        raise UserError(f"no question has a token that the model reads (the first: {skipped.first}); write them anew")
    for one, tokens in zip(read, left_out, strict=True):
        if tokens:
            skipped.add(one.where, f"has a question with {tokens:,} tokens more than the model reads")
    if (left_out > 0).all():
        raise UserError(f"all questions are longer than the model reads; shorten them (the first: {skipped.first})")
    return [one for one, tokens in zip(read, left_out, strict=True) if not tokens], vectors[left_out == 0]


def _numbers(hits: Sequence[Hit], numbers: Mapping[str, int]) -> Ints:
    """The number of each text that was found, -1 for one that is never right, and for a copy of one above it."""
    found = [numbers.get(_plain(hit.entry.text), -1) for hit in hits]
    return np.array([-1 if one in found[:place] else one for place, one in enumerate(found)], np.int64)


def metrics_table(values: Mapping[str, dict[str, NDArray[np.float64]]]) -> str:
    """The metrics of each ranking with their intervals, and how far the best one on nDCG@10 is above the others.

    Args:
        values: of each ranking the metrics of each question, from `evaluate.retrieval.metrics`.
    """
    from bertwright.evaluate.retrieval import METRICS, with_intervals
    from bertwright.tasks.resampling import Units

    units = Units(len(next(iter(values.values()))["ndcg_10"]))
    lines = [["", *METRICS.values()]]
    for by, own in values.items():
        found = with_intervals(own, units)
        lines.append([by, *(_with_ends(found[name], ".3f") for name in METRICS)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(one.ljust(width) for one, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    best = max(values, key=lambda by: float(values[by]["ndcg_10"].mean()))
    for by in [one for one in values if one != best]:
        above = with_intervals(values[best], units, values[by])["ndcg_10"]
        text.append(f"nDCG@10 of {best} minus that of {by}: {_with_ends(above, '+.3f')}")
    return "\n".join(text)


def _with_ends(found: Mapping[str, float], form: str) -> str:
    """A mean with its interval; without one where all questions have the same value, or there is one question."""
    mean, low, high = (format(found[name], form) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if found["low"] < found["high"] else mean
