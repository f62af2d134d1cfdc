"""The guard of what is evaluated on: no split of it is trained on, by name or by content, through any door.

By name: an entry of the recipe that would read the test split is refused before any work. By content: documents,
their lines, and unlabelled texts that are equal to a text that is evaluated on are left out and counted. Texts are
equal if they differ in white space only; a text that stands within a line, or over several, is not found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bertwright.errors import UserError
from bertwright.recipe import Recipe
from bertwright.text.corpus import Document, parse_corpus_name, parts_read
from bertwright.text.holdout import digest
from bertwright.text.records import LabelledSplit, Record, read_split
from bertwright.text.sources import canonical

LEFT_OUT = "equal to a text that is evaluated on"
"""Why a document or an unlabelled text is left out."""

_CONTENT = (
    *("text", "text_pair", "negative", "label", "labels", "number"),
    *("words", "tags", "answers", "choices", "group"),
)
"""Fields of a record that its digest is of, by name: a field that records get later changes no digest of today."""

LINES = "without lines that are equal to a text that is evaluated on"
"""What was done to a document."""


def evaluated_splits(recipe: Recipe) -> list[str]:
    """The splits of the labelled data that are evaluated on: finetune.test_split, and validation if the data name one.

    Raises:
        UserError: if the source does not exist.
    """
    source = recipe.source(recipe.finetune.data)
    names = {canonical(split) for split in parts_read(source, None).values() if split is not None}
    test = canonical(recipe.finetune.test_split)
    return [test, *(["validation"] if "validation" in names - {test} else [])]


def check_entry(recipe: Recipe, entry: str, option: str) -> None:
    """See that an entry of the recipe reads no split of the labelled data that is evaluated on.

    Args:
        recipe: the whole recipe.
        entry: such as imdb:train.
        option: where the recipe has it.

    Raises:
        UserError: if it does, with what to write instead; or if a source or a split does not exist.
    """
    if recipe.finetune.data == "":
        return
    name, splits = parse_corpus_name(entry)
    source, labelled = recipe.source(name), recipe.source(recipe.finetune.data)
    read = parts_read(source, splits) if source.test_ratio is None else parts_read(source, None)
    evaluated = evaluated_splits(recipe)
    for split in evaluated:
        if split == "test" and labelled.test_ratio is not None:
            continue  # it has no name; its texts are left out
        own = parts_read(labelled, [split])
        if own.keys() & read.keys():
            others = [one for part, one in parts_read(source, None).items() if part not in own and one]
            kept = dict.fromkeys(one for one in others if canonical(one) not in evaluated)
            if option == "finetune.unlabelled":
                kept.pop("train", None)  # its texts have labels
            instead = f"write {name}:{'+'.join(kept)}" if kept else "name other texts, or leave it out"
            use = "that the report evaluates on" if split == evaluated[0] else "that checkpoints are chosen by"
            raise UserError(f"{option} is `{entry}`, which reads the {split} split {use}; {instead}")


def evaluated_texts(recipe: Recipe, columns: Sequence[str]) -> frozenset[bytes]:
    """Digests of all texts that are evaluated on; none where the recipe has no labelled texts.

    Args:
        recipe: the whole recipe.
        columns: of the task.

    Raises:
        UserError: if they cannot be read.
    """
    if recipe.finetune.data == "":
        return frozenset()
    source = recipe.source(recipe.finetune.data)
    return texts_of(read_split(source, split, columns) for split in evaluated_splits(recipe))


def without_lines(
    documents: Iterable[Document], evaluated: Collection[bytes], changed: Counter[str]
) -> Iterator[Document]:
    """Documents without the lines that are equal to a text that is evaluated on: a file may hold a text in each line.

    Args:
        documents: of a corpus; one that is such a text as a whole is given as it was read.
        evaluated: digests, from `evaluated_texts`.
        changed: counts, under `LINES`, the documents that lost some.
    """
    for document in documents:
        if evaluated and "\n" in document.text and digest(document.text) not in evaluated:
            lines = document.text.split("\n")
            kept = [line for line in lines if digest(line) not in evaluated]
            if len(kept) < len(lines):
                changed[LINES] += 1
                document = replace(document, text="\n".join(kept))
        yield document


def texts_of(splits: Iterable[LabelledSplit]) -> frozenset[bytes]:
    """Digests of all texts of some splits."""
    return frozenset(key for split in splits for record in split.records for key in digests_of(record))


def digests_of(record: Record) -> Iterable[bytes]:
    """Digests of the texts of a record."""
    return (digest(text) for text in (record.text, record.text_pair) if text)


def fingerprint_of(digests: Collection[bytes]) -> str:
    """A hash of a set of digests; empty for none."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16] if digests else ""


def content_digest(records: Iterable[Record]) -> str:
    """A hash of texts, labels and groups of records in their order, wherever their files lie."""
    hashed = hashlib.sha256()
    for record in records:
        content = {name: getattr(record, name) for name in _CONTENT}
        hashed.update(repr(content).encode("utf-8", "replace"))
    return hashed.hexdigest()[:16]


def train_overlap(train: Sequence[Record], test: Sequence[Record]) -> dict[str, int]:
    """How many test texts stand in train, as `test_texts` of `all_test_texts`, and `texts_of_train_groups` of them."""
    return {"test_texts": sum(in_train(train, test)), "all_test_texts": len(test), **group_overlap(train, test)}


def in_train(train: Sequence[Record], test: Sequence[Record]) -> list[bool]:
    """Which test texts stand in train, white space aside; of pairs, with the same second text."""
    known = {(digest(record.text), digest(record.text_pair or "")) for record in train}
    return [(digest(record.text), digest(record.text_pair or "")) in known for record in test]


def group_overlap(train: Sequence[Record], other: Sequence[Record]) -> dict[str, int]:
    """How many texts of another split are of groups that train has, as `texts_of_train_groups`; {} without groups."""
    known = {record.group for record in train if record.group is not None}
    return {"texts_of_train_groups": sum(record.group in known for record in other)} if known else {}


def check_train(train: Sequence[Record], test: Sequence[Record], where: str) -> None:
    """See that train and test are not the same rows.

    Raises:
        UserError: if they are.
    """
    rows = [sorted(_row(record) for record in records) for records in (train, test)]
    if rows[0] == rows[1]:
        raise UserError(
            f"{where}: the test split has the same {len(test)} rows as train, so that nothing could be measured; give "
            "other texts as test, or one of the files alone with a test_ratio"
        )


def check_overlap(splits: Mapping[str, LabelledSplit], where: str) -> list[str]:
    """See that train and test are not the same rows; what else the evaluated splits share with train, in sentences.

    Args:
        splits: train, the split that the report evaluates on, and validation if the data have one, in this order.
        where: the data are, for a message.

    Raises:
        UserError: if they are the same rows.
    """
    train, *others = (split.records for split in splits.values())
    check_train(train, others[0], where)
    found = []
    if copies := train_overlap(train, others[0])["test_texts"]:
        found.append(f"{copies:,} of {len(others[0]):,} test texts stand in train, too")
    for what, records in zip(("test", "validation"), others, strict=False):
        if shared := group_overlap(train, records).get("texts_of_train_groups"):
            found.append(f"{shared:,} of {len(records):,} {what} texts belong to groups that train has, too")
    return found


def _row(record: Record) -> tuple[bytes, bytes, str]:
    return digest(record.text), digest(record.text_pair or ""), repr((record.label, record.labels, record.number))


def pretraining_overlap(report: dict[str, Any] | None, evaluated: Collection[bytes]) -> dict[str, Any] | str:
    """What is known of the evaluated texts in pre-training.

    Args:
        report: the data report of the pre-training; None where there is none, as for an encoder from elsewhere.
        evaluated: digests of the texts that are evaluated on.

    Returns:
        `test_texts` that were pre-trained on and `documents_left_out`; or "unknown", if that pre-training did not leave
        out these texts.
    """
    found = (report or {}).get("overlap", {})
    if found.get("evaluated") != fingerprint_of(evaluated) or not evaluated:
        return "unknown"
    return {"test_texts": 0, "documents_left_out": found["documents_left_out"]}
