"""What the `path` of a `Source` stands for: files, the aclImdb reviews, or a data set of the hub; and its splits."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from bertwright.errors import UserError
from bertwright.files import RUN_FILES, user_path
from bertwright.recipe import Source
from bertwright.text import formats, imdb
from bertwright.text.decoding import COMPRESSIONS


@dataclass(frozen=True)
class Files:
    """Files, each with its split.

    Args:
        paths: the files in reading order; None marks a file whose name says no split.
        classes: of plain text in class folders, such as train/spam/1.txt, the folder's name.
    """

    paths: dict[Path, str | None]
    classes: dict[Path, str]


@dataclass(frozen=True)
class Reviews:
    """The Large Movie Review Dataset as its authors publish it.

    Args:
        path: the aclImdb folder or its archive.
    """

    path: Path


@dataclass(frozen=True)
class Preset:
    """A well-known data set of the hub, by a short name.

    Args:
        repository: the hub id.
        revision: the branch or reference to read; None is the main branch.
        subset: the configuration, unless the source names another.
        rows: what a row is, whatever the source says.
    """

    repository: str
    revision: str | None = None
    subset: str | None = None
    rows: Literal["documents", "sentences"] = "documents"


PRESETS = {
    # Its main branch is a script, which we never run; the hub itself converted it to Parquet.
    "bookcorpus": Preset("bookcorpus/bookcorpus", revision="refs/convert/parquet", rows="sentences"),
    "wikipedia": Preset("wikimedia/wikipedia", subset="20231101.en"),
    "imdb": Preset("stanfordnlp/imdb"),
}

_SPLIT = re.compile(r"(train(?:ing)?|test|val(?:id(?:ation)?)?|dev|unsup(?:ervised)?)(?![a-z])", re.IGNORECASE)
_CANONICAL = {"tr": "train", "te": "test", "va": "validation", "de": "validation", "un": "unsupervised"}
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def rows_are(source: Source) -> Literal["documents", "sentences"]:
    """What a row of the source is: a preset knows better than the source's default."""
    preset = PRESETS.get(source.path)
    return "sentences" if preset is not None and preset.rows == "sentences" else source.rows


def locate(source: Source) -> Files | Reviews | Preset:
    """What a source's path stands for.

    A preset's name means a local file only when written with a separator (./imdb); any other path that exists is
    local; what is left and looks like owner/name is a hub id.

    Raises:
        UserError: if the path is none of these, or holds nothing that can be read.
    """
    name = source.path
    if preset := PRESETS.get(name):
        return Preset(preset.repository, preset.revision, source.subset or preset.subset, preset.rows)
    path = user_path(name)
    if path.is_dir():
        if imdb.is_folder(path):
            return Reviews(path)
        inside = sorted(found for found in path.rglob("*") if formats.format_of(found) and _is_visible(found, path))
        inside = _without_runs(inside, path)
        if not inside:
            raise UserError(f"the folder {name} holds no file to read; Bertwright reads {' '.join(formats.FORMATS)}")
        return _files(path, inside)
    if path.exists():
        if path.name.lower().endswith(_ARCHIVES):
            return Reviews(path)
        if formats.format_of(path) is None:
            raise UserError(
                f"{name} is of no known format; Bertwright reads {' '.join(formats.FORMATS)}, each also with "
                f"{' '.join(COMPRESSIONS)}"
            )
        return _files(path.parent, [path])
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        first = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        readable = [match for match in matches if match.is_file() and formats.format_of(match)]
        readable = _without_runs(readable, first)
        if not readable:
            raise UserError(f"no readable file matches {name}; check the pattern, and quote it on the command line")
        return _files(first, readable)
    if _HUB_ID.fullmatch(name) and formats.format_of(path) is None and not path.parent.is_dir():
        return Preset(name, subset=source.subset)
    raise UserError(
        f"{name} does not exist{meant(path)}; give a file, a folder, a glob, a hub id such as stanfordnlp/imdb, or "
        f"one of {', '.join(PRESETS)}"
    )


def as_local(name: str) -> str:
    """A name by which `locate` finds the file or folder that is there: ./imdb in place of imdb, which is a preset."""
    return f"./{name}" if name in PRESETS and Path(name).exists() else name


def meant(path: Path) -> str:
    """A hint at the file or folder that is nearly called like the first missing part of a path; or nothing."""
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    if there is None:
        return ""
    near = difflib.get_close_matches(path.parts[len(there.parts)], [found.name for found in there.iterdir()], n=1)
    return f" (did you mean {there / near[0]}?)" if near else ""


def _without_runs(files: list[Path], root: Path) -> list[Path]:
    """Files that lie in no run's folder below a root: what a run writes is no data of its own or of others."""
    folders = {parent for file in files for parent in file.parents if root in parent.parents}
    runs = {folder for folder in folders for name in RUN_FILES if any(folder.glob(f"*/{name}"))}
    return [file for file in files if runs.isdisjoint(file.parents)]


def _is_visible(found: Path, root: Path) -> bool:
    return found.is_file() and not any(part.startswith(".") for part in found.relative_to(root).parts)


def canonical(split: str) -> str:
    """A split's usual name: dev and valid are validation, unsup is unsupervised, others stay as they are."""
    matched = _SPLIT.fullmatch(split)
    return _CANONICAL[matched[0][:2].lower()] if matched else split


def _files(root: Path, paths: Sequence[Path]) -> Files:
    """Files with their splits and classes.

    A folder's whole name says the split, the outermost folder first; or else how the file's name begins. The name of
    the folder that was given counts only where it leaves none of its files' names aside: dev/ may hold train.csv.

    Args:
        root: the folder that was given, or that holds all files.
        paths: the files.

    Raises:
        UserError: if two files are the same split in two formats.
    """
    splits: dict[Path, str | None] = {}
    classes: dict[Path, str] = {}
    for path in paths:
        *folders, name = path.relative_to(root).parts
        number = next((i for i, folder in enumerate(folders) if _SPLIT.fullmatch(folder)), None)
        if number is None:
            matched = _SPLIT.match(name)
            splits[path] = canonical(matched[0]) if matched else None
        else:
            unsupervised = any(canonical(folder) == "unsupervised" for folder in folders)
            splits[path] = "unsupervised" if unsupervised else canonical(folders[number])
        below = folders if number is None else folders[number + 1 :]
        if len(below) == 1 and formats.format_of(path) == ".txt" and splits[path] != "unsupervised":
            classes[path] = below[0]
    if not any(splits.values()) and _SPLIT.fullmatch(root.name):
        splits = dict.fromkeys(splits, canonical(root.name))
    _check_copies(splits)
    return Files(splits, classes)


def _check_copies(splits: dict[Path, str | None]) -> None:
    """See that no rows are read twice: train.csv and train.jsonl hold the same ones, and so do dev.csv and valid.csv.

    Raises:
        UserError: if they would be, with both names.
    """
    seen: dict[tuple[Path, str], Path] = {}
    for path, split in splits.items():
        stem = path.name.lower().removesuffix(path.suffix.lower() if formats.is_compressed(path) else "")
        stem = stem.removesuffix(formats.format_of(path) or "")
        key = (path.parent, canonical(stem))
        if split is not None and key in seen:
            raise UserError(
                f"{seen[key]} and {path} are both the split `{split}`, whose rows would be read twice; move one of "
                "them to another folder"
            )
        seen[key] = path


def choose(splits: Sequence[str] | None, existing: Iterable[str | None], source: Source) -> list[str]:
    """The splits to read, as the source spells them.

    Args:
        splits: those asked for; None is all.
        existing: the source's splits, repeated or None where a file has none.
        source: for the message.

    Raises:
        UserError: if the source lacks one.
    """
    names = [name for name in dict.fromkeys(existing) if name is not None]
    chosen = []
    for split in names if splits is None else splits:
        found = [name for name in names if name == split] or [n for n in names if canonical(n) == canonical(split)]
        if not found:
            listed = ", ".join(names) or "none, for a file's split is how its own or its folder's name begins"
            hint = "; to divide one file, set the source's test_ratio, for example to 0.2" if split == "test" else ""
            raise UserError(f"{source.path} has no split `{split}`; it has: {listed}{hint}")
        chosen.append(found[0])
    return list(dict.fromkeys(chosen))


def undivided(source: Source, existing: Iterable[str | None]) -> list[str] | None:
    """The splits that `test_ratio` divides into train and test: train, or everything where nothing has a split.

    Args:
        source: with a test_ratio.
        existing: its splits, None where a file has none.

    Raises:
        UserError: if there is a test split already, or splits without one called train.
    """
    names = {canonical(name) for name in existing if name is not None}
    if "test" in names:
        raise UserError(f"{source.path} has a test split; leave out the source's test_ratio")
    if names and "train" not in names:
        raise UserError(
            f"{source.path} has the splits {', '.join(sorted(names))} and none to divide; name a file or a split "
            "train, or leave out the source's test_ratio"
        )
    return ["train"] if names else None
