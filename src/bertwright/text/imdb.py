"""IMDB, the Large Movie Review Dataset (Maas et al. 2011), as its authors publish it: the aclImdb folder or archive.

What is particular to it elsewhere stands in the recipes: `<br />` for a line break (tokenizer.html_line_breaks), the
names of the classes where a copy has 0 and 1 (finetune.label_names), and a published figure (evaluate.published).
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bertwright.errors import UserError
from bertwright.text import formats
from bertwright.text.decoding import decode

SPLITS = ("train", "test", "unsupervised")
"""The splits, by their usual names."""

LABELS = {"pos": "positive", "neg": "negative", "unsup": None}
"""The class of a review, by the name of its folder, in an archive or folder that has no others."""

_REVIEW = re.compile(r"(?:^|/)((train|test)/([^/]+)/[^/]+)\.txt$")


def _split_of(matched: re.Match[str]) -> str:
    return "unsupervised" if matched[3] == "unsup" else matched[2]


def is_folder(path: Path) -> bool:
    """Whether a folder is aclImdb: train and test with pos, neg and unsup, and no other texts in other places."""
    splits = _folders(path)
    inside = [folder for split in splits for folder in _folders(split)]
    kinds = {folder.name for folder in inside if next(folder.glob("*.txt"), None) is not None}
    return (
        {split.name for split in splits} <= {"train", "test"}
        and kinds <= LABELS.keys()
        and not kinds.isdisjoint({"pos", "neg"})
        and not any(_folders(folder) for folder in inside)
        and all(file.name.startswith("urls_") for split in splits for file in split.glob("*.txt"))
    )


def _folders(path: Path) -> list[Path]:
    if not os.access(path, os.R_OK | os.X_OK):  # such as the lost+found of a disk
        return []
    with os.scandir(path) as found:  # which knows what is a folder without asking for each of 50,000 files
        return [Path(one) for one in found if one.is_dir() and not one.name.startswith(".")]


def classes_of(kinds: Iterable[str]) -> dict[str, str | None]:
    """The class that each folder stands for: by `LABELS`, or by its own name if there are others than those."""
    found = set(kinds)
    own: dict[str, str | None] = {kind: kind if kind != "unsup" else None for kind in found}
    return {kind: LABELS[kind] for kind in found} if found <= LABELS.keys() else own


def read_reviews(path: Path, splits: Sequence[str], kinds: set[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """The reviews of some splits: of a folder by name, of an archive in its own order.

    Args:
        path: the aclImdb folder or its archive.
        splits: of `SPLITS`.
        kinds: receives the names of all folders of texts, of other splits, too; complete when all is read.

    Yields:
        Id (split, folder and file), folder and text of each review.

    Raises:
        UserError: if there is none, or one is not UTF-8.
    """
    found = False
    for name, content in _archived(path) if path.is_file() else _in_folder(path):
        matched = _REVIEW.search(name)
        if matched and kinds is not None:
            kinds.add(matched[3])
        if matched and _split_of(matched) in splits:
            found = True
            yield matched[1], matched[3], decode(content, path / name, 1)
    if not found:
        raise UserError(
            f"{path} holds no reviews of {' or '.join(splits)}, such as aclImdb/train/pos/0_9.txt; give the whole "
            "aclImdb folder or archive"
        )


def _in_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in review_files(path):
        with formats.clear_errors(file):
            yield file.relative_to(path).as_posix(), file.read_bytes()


def review_files(path: Path) -> list[Path]:
    """The reviews in a folder, by name."""
    return sorted(file for file in path.rglob("*.txt") if _REVIEW.search(file.relative_to(path).as_posix()))


def _archived(path: Path) -> Iterator[tuple[str, bytes]]:
    # Read as a stream and never unpacked: a name in an archive cannot reach any file of ours.
    with formats.clear_errors(path), tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and _REVIEW.search(member.name) and (content := archive.extractfile(member)):
                yield member.name, content.read()
