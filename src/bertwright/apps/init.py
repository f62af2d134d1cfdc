"""`bertwright init`: look at a file or a folder, say what it holds, and write a recipe that runs."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from bertwright.apps.inspect_columns import (
    NO_LABELS,
    check_names,
    check_rare,
    columns_of_texts,
    find_labels,
    in_order,
)
from bertwright.apps.inspect_encoder import look_at_encoder
from bertwright.apps.inspect_pairs import look_at_pairs
from bertwright.apps.inspect_questions import look_at_questions
from bertwright.apps.inspect_rows import texts_beside
from bertwright.apps.inspect_tags import look_at_tags
from bertwright.apps.inspection import LOOKED_AT, Contents, Texts, inspect, measure
from bertwright.apps.new_recipe import TEST_RATIO, Findings, recipe_name, write_recipe
from bertwright.errors import UserError
from bertwright.files import user_path, write_text
from bertwright.ranges import require
from bertwright.recipe import Source
from bertwright.text import decoding, formats, imdb
from bertwright.text.sources import Files, Reviews, as_local, locate
from bertwright.text.tables import Table, cell, open_table

_MINUTES = 20.0


def init(
    paths: list[str],
    text_column: str | None = None,
    label_column: str | None = None,
    text_pair_column: str | None = None,
    unlabelled: bool = False,
    encoder: str | None = None,
    minutes: float = _MINUTES,
    out: str | None = None,
    overwrite: bool = False,
) -> None:
    """Look at your texts, say what they are, and write a recipe for them.

    Args:
        paths: a file with texts and labels, with words and tags, or with pairs of texts that mean the same; a folder
            with train and test files, or with a folder for each class; a file or folder of unlabelled texts; or two:
            first the one with labels, then the one without, on which the encoder is pre-trained before.
        text_column: the column that holds the text, where that is not plain.
        label_column: the column that holds the label, where that is not plain.
        text_pair_column: the column that holds the second text, where the label speaks of two.
        unlabelled: whether to pre-train on the texts and leave labels aside.
        encoder: the encoder to start from, of any language: a model folder (BERT or ModernBERT in the Hugging Face
            layout), the folder of a run, or bundled. The default is the bundled one for English texts with
            labels; for others, and for unlabelled texts alone, one is pre-trained from scratch.
        minutes: the budget of pre-training, where the recipe has any.
        out: the recipe to write; the default is recipes/NAME.yaml.
        overwrite: whether an existing recipe may be replaced.

    Raises:
        UserError: if the texts or the encoder cannot be read, or it is not plain which columns are meant.
    """
    require(len(paths) > 0, "say what to look at: bertwright init FILE, such as bertwright init tickets.csv")
    require(0 < minutes < float("inf"), f"minutes is {minutes:g}; it must be above 0")
    one_or_two = "give one file or folder, or two: the one with labels first, then the one without"
    require(len(paths) <= (1 if unlabelled else 2), one_or_two)
    start = None if encoder is None else look_at_encoder(encoder)
    columns = {"text_column": text_column, "label_column": label_column, "text_pair_column": text_pair_column}
    options = _options(**columns, encoder=encoder, out=out, minutes=None if minutes == _MINUTES else f"{minutes:g}")
    found = [_look(paths[0], text_column, label_column, text_pair_column, unlabelled)]
    if len(paths) == 2:
        if found[0].labels is None:
            raise UserError(f"{paths[0]} has no labels; give the file or folder that has them first")
        found.append(_look(paths[1], None, None, None, unlabelled=True, usual=found[0].text_column))
    elif found[0].texts_beside:
        found[0] = replace(found[0], notes=[*found[0].notes, texts_beside(found[0], options)])
    if start is not None:
        found = [replace(one, texts=one.texts.counted_by(start.name, start.tokenizer)) for one in found]
    target = Path(out or f"recipes/{found[0].name}.yaml")
    if target.is_dir():
        raise UserError(f"{target} is a folder; give a file with --out, such as {target / f'{found[0].name}.yaml'}")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists; give another file with --out FILE, or replace it with --overwrite")
    options += ["--unlabelled"] if unlabelled else []
    text = write_recipe(found, minutes, shlex.join(["bertwright", "init", *paths, *options]), start)
    for one in found:
        print(_table(one))
    write_text(target, text)
    print(f"\nwritten to {target}; read it, change it, then: bertwright run {shlex.quote(str(target))}")


def _options(**given: str | None) -> list[str]:
    """Options as they are typed, without those that were not given."""
    return [
        word for name, value in given.items() if value is not None for word in (f"--{name.replace('_', '-')}", value)
    ]


@dataclass(frozen=True)
class _Place:
    """The tables of a path.

    Args:
        train: the tables to look at.
        has_test: whether there is a test split.
        beside: text files beside the tables.
        path: that a recipe names which reads labels: of one table beside text files, its own.
    """

    train: list[Table]
    has_test: bool
    beside: list[Path]
    path: str


def _look(
    name: str,
    text_column: str | None,
    label_column: str | None,
    pair_column: str | None,
    unlabelled: bool,
    usual: str | None = None,
) -> Findings:
    path, name = user_path(name), as_local(name)
    if not path.exists() and not glob.has_magic(name):
        raise UserError(f"{name} does not exist; check the path")
    folders = _class_folders(path)
    if folders and not unlabelled:
        return _look_at_folders(path, name, folders)
    place = _place(name, unlabelled)
    contents = inspect(place.train, all_classes=not unlabelled)
    plain = all(table.is_plain for table in place.train)
    if contents.rows == 0:
        raise UserError(f"{name} has no rows; give a file with texts")
    asked = unlabelled or text_column or label_column or pair_column
    for look in () if asked else (look_at_tags, look_at_questions, look_at_pairs):
        if found := look(recipe_name(path), place.path, place.train, contents):
            return replace(found, texts_beside=place.beside)
    given = text_column or (usual if usual in contents.columns else None)
    text, pair = columns_of_texts(name, contents, given, pair_column, label_column)
    reads_labels = not unlabelled and not plain
    label, task, one_each = NO_LABELS
    if reads_labels:
        label, task, one_each = find_labels(name, contents, (text, pair), label_column, place.has_test)
    labelled = label is not None or task is not None
    if pair is not None and not labelled:
        raise UserError("--text-pair-column is for labels of two texts, and no label is read; leave it out")
    check_names(place.train, (text, pair, label, *one_each))
    texts = measure(islice(_texts(place.train, text, pair), LOOKED_AT))
    if texts.empty == texts.rows:
        raise UserError(f"column {text} of {name} has no text in it; choose another with --text-column")
    others = [column for column in contents.columns.values() if column.name not in (text, pair, label, *one_each)]
    groups = [column.name for column in others if column.is_group]
    return Findings(
        name=recipe_name(path),
        path=place.path if labelled else name,
        contents=contents,
        texts=texts,
        text_column=text,
        label_column=label,
        labels={} if task else None if label is None else in_order(contents.columns[label].counts),
        has_test=place.has_test,
        groups=groups,
        notes=[],
        texts_beside=place.beside if labelled else [],
        is_plain=plain,
        characters=_characters(place.train, contents.more, texts),
        task=task,
        pair_column=pair,
        label_columns=one_each,
    )


def _characters(tables: list[Table], more: bool, texts: Texts) -> int:
    """Characters of all texts; where not all rows were looked at, as the size of the files tells."""
    if not more:
        return texts.total
    packed = dict.fromkeys(decoding.COMPRESSIONS, 3)
    return sum(table.path.stat().st_size * packed.get(table.path.suffix.lower(), 1) for table in tables)


def _texts(tables: list[Table], column: str, pair: str | None = None) -> Iterator[tuple[str, int]]:
    """The text of each row that can be read, with its line; of a pair both, as a model reads them."""
    names = [column] if pair is None else [column, pair]
    for table in tables:
        if set(names) <= set(table.columns):
            places = [table.columns.index(name) for name in names]
            for row in table.rows():
                if row.problem is None:
                    values = [cell(row.values[place]) for place in places]
                    yield " ".join(values) if all(value.strip() for value in values) else "", row.number


def _class_folders(path: Path) -> dict[str, dict[str, list[Path]]]:
    """Text files by split and class, of train/CLASS/*.txt and test/CLASS/*.txt, or of CLASS/*.txt as train alone.

    Two classes or more make it class folders.
    """

    def classes(folder: Path) -> dict[str, list[Path]]:
        inside = sorted(one for one in folder.glob("*") if one.is_dir() and not one.name.startswith((".", "unsup")))
        files = {one.name: sorted(one.glob("*.txt*")) for one in inside}
        return {name: members for name, members in files.items() if members}

    if not path.is_dir() or any(one.is_file() and formats.format_of(one) for one in path.glob("*")):
        return {}
    found = {split: classes(path / split) for split in ("train", "test")}
    if not found["train"]:
        found = {"train": classes(path), "test": {}}
    return found if len(found["train"]) > 1 else {}


def _look_at_folders(path: Path, name: str, folders: dict[str, dict[str, list[Path]]]) -> Findings:
    files = [file for members in folders["train"].values() for file in members]
    looked_at = files[:: 1 + len(files) // LOOKED_AT]
    contents = ["".join(formats.read_text(file)) for file in looked_at]
    texts = measure(zip(contents, range(1, len(contents) + 1), strict=True))
    # Of aclImdb's folders training calls the classes positive and negative.
    called = imdb.LABELS if isinstance(locate(Source(path=name)), Reviews) else {}
    labels = {called.get(label) or label: len(members) for label, members in folders["train"].items()}
    has_test = bool(folders["test"])
    check_rare(name, labels, has_test)
    return Findings(
        name=recipe_name(path),
        path=name,
        contents=Contents(len(contents), len(contents) < len(files), {}, 0, None),
        texts=texts,
        text_column="text",
        label_column=None,
        labels=labels,
        has_test=has_test,
        groups=[],
        notes=["the folders are the classes; if they are not, add --unlabelled"],
        is_plain=True,
        characters=texts.total * len(files) // len(contents),
    )


def _place(name: str, unlabelled: bool) -> _Place:
    place = locate(Source(path=name))
    if not isinstance(place, Files):
        raise UserError(f"{name} is an archive; unpack it, and give the folder")
    tables = {file: split for file, split in place.paths.items() if formats.format_of(file) != ".txt"}
    if not tables:
        return _Place([open_table(file) for file in place.paths], False, [], name)
    splits: dict[str | None, list[Path]] = {}
    for file, split in tables.items():
        splits.setdefault(split, []).append(file)
    alone = unlabelled or len(splits) == 1  # labels of a file without a split are not read beside files that have one
    train = splits.get("train") or (splits.get(None) if alone else None)
    if train is None:
        listed = ", ".join(split for split in splits if split)
        raise UserError(f"{name} has no train split, but {listed}; call one of its files train")
    beside = {file: split for file, split in place.paths.items() if file not in tables}
    # Where the recipe named the folder, training would read these with the table, and refuse them: they have no labels.
    read = [split for split in beside.values() if "train" not in splits or split in ("train", "test")]
    if read and not unlabelled:
        if len(tables) > 1:
            raise UserError(
                f"{name} holds text files beside its tables, and training would read both; move the text files to "
                "another folder, or add --unlabelled to pre-train on all of them"
            )
        name = str(train[0])
    return _Place([open_table(file) for file in train], "test" in splits, list(beside), name)


def _table(found: Findings) -> str:
    texts: Texts = found.texts
    title = "lines" if found.is_plain and found.labels is None else "rows"
    rows = [(title, f"{'the first ' if found.contents.more else ''}{texts.rows:,}")]
    low, middle, high = texts.characters
    if found.tagged is not None:
        rows.append((found.task or "tags", ", ".join(found.tagged.values()) or "tokens, tags"))
    elif not found.is_plain:
        own = [name for name in (found.text_column, found.pair_column) if name is not None]
        others = [
            str(name) for name in found.contents.columns if name not in (*own, found.label_column, *found.label_columns)
        ]
        listed = " and ".join(own) + (f" (others: {', '.join(others)})" if others else "")
        rows.append(("text columns" if len(own) > 1 else "text column", listed))
    vocabulary, known = "the bundled vocabulary", texts.known
    if texts.of_encoder is not None:
        vocabulary, known = f"the vocabulary of {texts.of_encoder[0]}", texts.of_encoder[1]
    rows.append(("language", f"{texts.language}; {vocabulary} knows {100 * known:.0f} % of the words"))
    rows.append(
        ("length", f"{low:,} to {high:,} characters, median {middle:,}; 99 % within {texts.tokens[1]:,} tokens")
    )
    rows += _rows_of_labels(found)
    running_text = found.is_plain and found.labels is None  # whose blank lines are no rows that lack something
    if texts.empty and not running_text:
        first = decoding.numbered(texts.first_empty or 0)
        rows.append(("empty", f"{_counted(texts.empty)} without text; the first: {first}"))
    if texts.duplicates and not running_text:
        rows.append(("duplicates", f"{_counted(texts.duplicates)} with the text of an earlier one"))
    problem = found.contents.first_problem
    if problem is not None:
        first = f"{decoding.numbered(problem.number)}, {problem.problem}"
        rows.append(("unreadable", f"{_counted(found.contents.problems)}; the first, {first}"))
    rows += [("group", f"{name} looks like a group: see the recipe") for name in found.groups[:1]]
    rows += [("note", note) for note in found.notes]
    return "\n".join([f"{found.path}", *(f"  {title:<13} {value}" for title, value in rows)])


def _rows_of_labels(found: Findings) -> list[tuple[str, str]]:
    if found.labels is None:
        return []
    rows = []
    if found.label_column is not None:
        rows.append(("label column", found.label_column + (f" ({found.task})" if found.task else "")))
    if found.label_columns:
        counts = {name: found.contents.columns[name].counts for name in found.label_columns}
        listed = ", ".join(f"{name} {one['1'] + one['true']:,}" for name, one in counts.items())
        rows.append(("labels", f"{len(counts)} columns of 0 and 1, one for each label ({found.task}): {listed}"))
    largest = sorted(found.labels.items(), key=lambda item: -item[1])
    if largest:
        listed = ", ".join(f"{label} {count:,}" for label, count in largest[:8]) + (", …" if len(largest) > 8 else "")
        kind = "classes" if found.tagged is None or found.task else "entities"
        rows.append((kind, f"{len(largest)}: {listed}"))
    rare = [label for label, count in largest if count < 5]
    if rare:
        rows.append(("few rows", f"fewer than 5 of: {', '.join(rare[:8])}; too few to learn from and to test on"))
    part = f"{100 * TEST_RATIO:.0f} % of the rows{', of each class' if found.by_class else ''}"
    return [*rows, ("test set", "its own split" if found.has_test else part)]


def _counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"
