"""What the `path` of a `Source` stands for: files, the aclImdb reviews, or a data set of the hub; and its splits."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.text import formats


@dataclass(frozen=True)
class Files:
    """Files, each with its split.

    Args:
        paths: the files in reading order; None marks a file whose name says no split.
    """

    paths: dict[Path, str | None]


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
    path = Path(name).expanduser()
    if path.is_dir():
        if any((path / split / kind).is_dir() for split in ("train", "test") for kind in ("pos", "neg")):
            return Reviews(path)
        inside = sorted(found for found in path.rglob("*") if formats.format_of(found) and _is_visible(found, path))
        if not inside:
            raise UserError(f"the folder {name} holds no file to read; Bertwright reads {' '.join(formats.FORMATS)}")
        return Files({found: _split_of((path.name, *found.relative_to(path).parts)) for found in inside})
    if path.exists():
        if path.name.lower().endswith(_ARCHIVES):
            return Reviews(path)
        if formats.format_of(path) is None:
            raise UserError(
                f"{name} is of no known format; Bertwright reads {' '.join(formats.FORMATS)}, each also with "
                f"{' '.join(formats.COMPRESSIONS)}"
            )
        return Files({path: _split_of(path.parts[-2:])})
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        readable = [match for match in matches if match.is_file() and formats.format_of(match)]
        if not readable:
            raise UserError(f"no readable file matches {name}; check the pattern, and quote it on the command line")
        return Files({match: _split_of(match.parts[-2:]) for match in readable})
    if _HUB_ID.fullmatch(name) and formats.format_of(path) is None:
        return Preset(name, subset=source.subset)
    raise UserError(
        f"{name} does not exist; give a file, a folder, a glob, a hub id such as stanfordnlp/imdb, or one of "
        f"{', '.join(PRESETS)}"
    )


def _is_visible(found: Path, root: Path) -> bool:
    return found.is_file() and not any(part.startswith(".") for part in found.relative_to(root).parts)


def canonical(split: str) -> str:
    """A split's usual name: dev and valid are validation, unsup is unsupervised, others stay as they are."""
    matched = _SPLIT.fullmatch(split)
    return _CANONICAL[matched[0][:2].lower()] if matched else split


def _split_of(parts: Sequence[str]) -> str | None:
    """The split that a file belongs to: a folder's whole name says it, or else how the file's name begins."""
    for folder in reversed(parts[:-1]):
        if _SPLIT.fullmatch(folder):
            return canonical(folder)
    matched = _SPLIT.match(parts[-1])
    return canonical(matched[0]) if matched else None


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
            raise UserError(
                f"{source.path} has no split `{split}`; it has: "
                + (", ".join(names) or "none, for a file's split is how its own or its folder's name begins")
            )
        chosen.append(found[0])
    return list(dict.fromkeys(chosen))
