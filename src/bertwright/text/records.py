"""Labelled rows of any task, read from wherever a `Source` points, with an account of what was read and skipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.text import formats, imdb
from bertwright.text.contexts import Answers, context_fields, numbered
from bertwright.text.corpus import Part, as_text, open_parts, part_documents, parts_read
from bertwright.text.holdout import digest, divide, known_in_train
from bertwright.text.labels import as_label, as_number, labels_of
from bertwright.text.sources import Reviews, canonical, choose, locate, rows_are, undivided
from bertwright.text.tagged import Words, place_of_word, words_and_tags
from bertwright.text.tags import Tagged, counted, split_tags, to_bio

NO_TEXT = "empty text"
NO_LABEL = "no label"
"""Why a row is skipped."""

_LABELS = ("label", "labels", "number", "answers", "choices")
"""Fields without which a row has no label."""


@dataclass(frozen=True)
class Record:
    """A labelled row.

    Args:
        id: the place in its data set: split and file in aclImdb (train/pos/0_9), else split and row from 0 (train/17).
        text: the raw text.
        text_pair: the second text, for tasks on pairs.
        negative: a text that is no match of the first, for the task embedding.
        label: the label as the data write it; the name of the class where the data's schema has one.
        class_number: the number of the class in the data's schema, which orders the classes; None without a schema.
        labels: of texts with any number of labels, their names; empty where the text has none.
        number: of texts whose label is a number (regression), that.
        group: rows of one group belong together, as those of one author do; without the source's group_column None, or
            the same for all questions on one context.
        words: of texts with tags, where each word begins and ends in the text, in characters.
        tags: a tag for each word, in BIO where they are of entities.
        place: file and line, for messages.
        answers: of a question (`text_pair`) on a context (`text`); empty where the context does not answer it.
        choices: of which `label` is the number of the right one; `text` is what they follow.
    """

    id: str
    text: str
    text_pair: str | None = None
    label: str | None = None
    class_number: int | None = None
    group: str | None = None
    words: Words | None = None
    tags: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    number: float | None = None
    place: str = field(default="", compare=False)
    answers: Answers | None = None
    choices: tuple[str, ...] | None = None
    negative: str | None = None


@dataclass(frozen=True)
class LabelledSplit:
    """The rows of one split that can be used, and those that cannot.

    Args:
        records: the rows that are used, in order.
        files: the files, or the splits of a hub data set, that were read.
        rows: how many rows they have in this split.
        skipped: why rows were skipped, with the number of rows and the place of the first.
        converted: the scheme that tags were converted from, in words; None where they are as the data have them.
    """

    records: list[Record]
    files: tuple[str, ...]
    rows: int
    skipped: dict[str, tuple[int, str]]
    converted: str | None = None

    def summary(self) -> dict[str, Any]:
        """The account as plain values: files, rows, used, classes (of entities: types) with their counts, skipped."""
        classes = Counter(record.label for record in self.records if record.label is not None)
        order = ordered_classes(self.records)
        several = Counter(label for record in self.records for label in record.labels or ())
        numbers = [record.number for record in self.records if record.number is not None]
        found = [record.answers for record in self.records if record.answers is not None]
        answered = Counter("answerable" if answers else "no answer" for answers in found)
        tagged = counted(record.tags for record in self.records if record.tags is not None)
        return {
            "files": list(self.files),
            "rows": self.rows,
            "used": len(self.records),
            "classes": {label: classes[label] for label in order} | tagged | dict(sorted((several + answered).items())),
            "skipped": [
                {"reason": reason, "count": count, "first": first} for reason, (count, first) in self.skipped.items()
            ],
            **({} if self.converted is None else {"tags": self.converted}),
            **({"numbers": [min(numbers), max(numbers), sum(numbers) / len(numbers)]} if numbers else {}),
        }


def account(split: str, summary: dict[str, Any]) -> str:
    """The summary of a split as one line for people."""
    files = summary["files"]
    listed = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    classes = ", ".join(f"{label}: {count:,}" for label, count in list(summary["classes"].items())[:20])
    if len(summary["classes"]) > 20:
        classes += f" and {len(summary['classes']) - 20} more classes"
    skipped = "".join(
        f"; skipped {one['count']:,} ({one['reason']}, first {one['first']})" for one in summary["skipped"]
    )
    tags = f"; tags are {summary['tags']}" if "tags" in summary else ""
    used = f"{summary['used']:,} of {summary['rows']:,} rows of {listed}"
    if "numbers" in summary:
        low, high, mean = summary["numbers"]
        classes = f"labels from {low:g} to {high:g}, mean {mean:.4g}"
    return f"{split}: {used}; {classes or 'no classes'}{tags}{skipped}"


def ordered_classes(records: Sequence[Record]) -> list[str]:
    """The labels that occur, in order: as the data's schema has them; whole numbers by value; others as text."""
    numbers = {record.label: record.class_number for record in records if record.label is not None}
    if all(number is not None for number in numbers.values()):
        return sorted(numbers, key=lambda label: (numbers[label], label))
    if all(re.fullmatch(r"0|-?[1-9]\d*", label) for label in numbers):
        return sorted(numbers, key=int)
    return sorted(numbers)


def read_records(source: Source, split: str, columns: Sequence[str]) -> list[Record]:
    """The labelled rows of one split that can be used; `read_split` says what was skipped, too."""
    return read_split(source, split, columns).records


def read_split(source: Source, split: str, columns: Sequence[str]) -> LabelledSplit:
    """Reads the labelled rows of one split.

    A row without a text or, where labels are read, without a label is skipped and counted.

    Args:
        source: where the rows are: a table format, folders of classes, the aclImdb folder or its tar.gz, or a data set
            of the hub. With a test_ratio, its train and test split are the parts of what it holds.
        split: the split to read, such as train or test.
        columns: the fields of a record that a task needs: text, text_pair, negative, label, labels, number; tokens and
            tags, for words with tags; or context with question and answers, or with choices. The source says which
            column of the data each of them is.

    Returns:
        The rows in order; those of aclImdb are ordered by id.

    Raises:
        UserError: if a file or a column is missing, a value is neither text nor a label, or no row can be used.
    """
    if source.test_ratio is not None and canonical(split) in ("train", "test"):
        base = undivided(source, parts_read(source, None).values())
        found = _divided(source, canonical(split), _read(source, base, canonical(split), columns))
    else:
        found = _read(source, [split], canonical(split), columns)
    if not found.records:
        reasons = "; ".join(
            f"{reason} in {count} rows, first {first}" for reason, (count, first) in found.skipped.items()
        )
        needed = "labelled text" if {"label", "labels", "number"} & set(columns) else "text"
        raise UserError(f"{source.path}, split {split}, has no {needed} ({reasons}); choose a split that has")
    return found


def _read(source: Source, splits: Sequence[str] | None, name: str, columns: Sequence[str]) -> LabelledSplit:
    place = locate(source)
    if "tokens" in columns:  # words and tags, as the source says they are written
        columns = ("tokens", "tags") if source.entities_column is None else ("text", "entities")
    rows = _reviews(place, source, splits) if isinstance(place, Reviews) else None
    read = _Reading(name, columns)
    if rows is not None:
        read.files.append(source.path)
        for record in rows:
            read.add(record)
    else:
        assert not isinstance(place, Reviews)
        for part in open_parts(source, place, splits, _named(source, columns)):
            read.files.append(_file(part, source, columns))
            for record in _part_records(part, source, name, columns, read.rows):
                read.add(record)
    records, converted = _in_bio(read.records)
    return LabelledSplit(records, tuple(dict.fromkeys(read.files)), read.rows, read.skipped, converted)


def _in_bio(records: list[Record]) -> tuple[list[Record], str | None]:
    """Records of a split with their tags in BIO, and from which scheme they were converted."""
    tagged = [
        Tagged(record.tags, partial(place_of_word, record.place)) for record in records if record.tags is not None
    ]
    if not tagged:
        return records, None
    rows, converted = to_bio(tagged)
    return [replace(record, tags=tags) for record, tags in zip(records, rows, strict=True)], converted


def _file(part: Part, source: Source, columns: Sequence[str]) -> str:
    """A file as it is listed: class folders as a pattern, and a table with what stands between its columns."""
    if part.is_plain and part.path is not None and "tags" not in columns:
        return f"{part.path.parent}/*{part.path.suffix}"
    if part.path is not None and formats.format_of(part.path) == ".csv":
        mark = formats.delimiter(part.path, [name for name, _ in _named(source, columns)])
        return part.name if mark == "," else f"{part.name} (columns separated by {formats.DELIMITERS[mark]})"
    return part.name


class _Reading:
    """Rows as they come: kept, or counted with the reason."""

    def __init__(self, split: str, columns: Sequence[str]) -> None:
        self.split = split
        self.columns = columns
        self.files: list[str] = []
        self.records: list[Record] = []
        self.rows = 0
        self.skipped: dict[str, tuple[int, str]] = {}

    def add(self, record: Record) -> None:
        self.rows += 1
        reason = None
        pair = "text_pair" in self.columns or "question" in self.columns
        texts = [record.text, *([record.text_pair] if pair else [])]
        texts += [record.negative] if "negative" in self.columns else []
        if not all((text or "").strip() for text in texts) or record.words == ():
            reason = NO_TEXT  # also a text without a word, as of a lone soft hyphen, where words have tags
        elif any(getattr(record, name) is None for name in _LABELS if name in self.columns) or (
            record.words is not None and record.tags is None
        ):
            reason = NO_LABEL
        if reason is None:
            self.records.append(record)
        else:
            count, first = self.skipped.get(reason, (0, record.place))
            self.skipped[reason] = (count + 1, first)


def _fields(source: Source, columns: Sequence[str]) -> list[tuple[str, str, str]]:
    """What is read: the field of a record, the column of the data, and the option that names it."""
    found = []
    for field_ in [*columns, *(["group"] if source.group_column else [])]:
        if field_ == "labels" and source.label_columns is not None:
            found += [("indicator", name, "label_columns") for name in source.label_columns]
        elif field_ in ("labels", "number"):
            found.append((field_, source.label_column, "label_column"))
        else:
            found.append((field_, getattr(source, f"{field_}_column") or field_, f"{field_}_column"))
    return found


def _named(source: Source, columns: Sequence[str]) -> list[tuple[str, str]]:
    """The columns of the data, each with the option that names it."""
    return [(column, option) for _, column, option in _fields(source, columns)]


def _reviews(place: Reviews, source: Source, splits: Sequence[str] | None) -> list[Record]:
    if source.group_column:
        raise UserError(f"{source.path} is a folder of texts and has no column `{source.group_column}`; leave it out")
    kinds: set[str] = set()
    found = sorted(imdb.read_reviews(place.path, choose(splits, imdb.SPLITS, source), kinds))
    classes = imdb.classes_of(kinds)
    return [Record(name, text, label=classes[kind], place=f"{place.path}, {name}") for name, kind, text in found]


def _part_records(part: Part, source: Source, split: str, columns: Sequence[str], start: int) -> Iterator[Record]:
    """The rows of a file or of a hub split; a plain text in a class folder is one."""
    if part.is_plain and list(columns) == ["text"]:
        for number, document in enumerate(part_documents(part, rows_are(source)), start):
            yield Record(f"{split}/{number}", document.text, place=document.where)
        return
    if part.is_plain and "tags" not in columns:
        if "label" not in columns or part.class_name is None or source.group_column or part.path is None:
            raise UserError(f"{part.name} is plain text and holds no labels; give a .jsonl, .csv or .parquet")
        text = "".join(piece for _, (piece,) in part.rows)
        name = f"{split}/{part.class_name}/{part.path.name}"
        yield Record(name, text, label=part.class_name, place=part.name)
        return
    classes = part.class_names(source.label_column) if {"label", "labels"} & set(columns) else None
    tag_names = part.class_names(source.tags_column) if "tags" in columns else None
    fields = _fields(source, columns)
    for index, (number, values) in enumerate(part.rows, start):
        row = {name: value for (name, _, _), value in zip(fields, values, strict=True)}
        where = part.where(number)
        if "context" in row:
            yield _with_context(row, f"{split}/{index}", where)
            continue
        label, class_number = as_label(row["label"], where, classes) if "label" in row else (None, None)
        text = _text(row["text"], where) if "text" in row else ""
        words = tags = None
        if "tags" in row or "entities" in row:
            text, words, tags = words_and_tags(text, row, where, tag_names)
        yield Record(
            f"{split}/{index}",
            text,
            _text(row["text_pair"], where) if "text_pair" in row else None,
            label,
            class_number,
            _group(row["group"], where) if "group" in row else None,
            words,
            tags,
            labels_of(row, zip(fields, values, strict=True), where, classes),
            as_number(row["number"], where) if "number" in row else None,
            where,
            negative=_text(row["negative"], where) if "negative" in row else None,
        )


def _with_context(row: dict[str, Any], name: str, where: str) -> Record:
    """A row of a question or of choices."""
    own: dict[str, Any] = {"group": _group(row["group"], where)} if "group" in row else {}
    own |= {"label": as_label(numbered(row, where), where)[0]} if "label" in row else {}
    return Record(name, place=where, **context_fields(row, where) | own)


def _text(value: Any, where: str) -> str:
    return "" if value is None else as_text(value, where)


def _group(value: Any, where: str) -> str:
    if value is None or value != value or str(value).strip() == "":
        raise UserError(f"{where} has no group; fill the column, or leave out the source's group_column")
    return str(value).strip()


def _divided(source: Source, split: str, whole: LabelledSplit) -> LabelledSplit:
    """The part of all rows that is train or test; rows that are skipped are counted with train."""
    records = whole.records
    if not records:
        return whole
    # Equal texts stay together: in both parts, they would be trained on and evaluated.
    groups = [record.group or digest(record.text + "\n" + (record.text_pair or "")).hex() for record in records]
    labels = [record.label for record in records]  # None for all records, where labels are not classes
    assert source.test_ratio is not None
    parts = split_tags(tag for one in records for tag in one.tags or ())
    kinds = [{*(one.labels or ()), *(parts[tag][1] for tag in one.tags or ())} for one in records]
    is_test = known_in_train(divide(labels, groups, source.test_ratio, source.path), kinds, groups, source.path)
    kept = [record for record, test in zip(records, is_test, strict=True) if test == (split == "test")]
    if split == "test":
        return LabelledSplit(kept, whole.files, len(kept), {}, whole.converted)
    return replace(whole, records=kept, rows=whole.rows - sum(is_test))
