"""Files that are either whole or absent: everything Bertwright writes goes through here.

A file or folder is written under a temporary name, synced to disk and renamed, so that a killed process leaves the old
one or the new one and never a half.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from safetensors import SafetensorError

from bertwright.errors import UserError

RUN_FILES = ("begun.json", "stage.json")
"""What a run writes into the folder of each stage, in which nobody looks for data."""

CARD = "README.md"
"""The file in a model's folder that tells people of it, and decides nothing."""

_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target` when the block ends well, and vanishes when it does not.

    The block may make a file or a folder there. A folder replaces an existing one; a file replaces a file alone, since
    a folder may hold anything.

    Raises:
        UserError: if the disk is full, the place can't be written, or a folder is where the file is to be.
    """
    given = target
    try:
        target = given.resolve()  # `.` has no name beside which to write
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
    except OSError as error:
        raise UserError(f"{given} can't be written ({error.strerror}); give another place") from error
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    try:
        yield temporary
        for path in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            if path.is_file():  # safetensors keeps its files from everyone else
                path.chmod(0o666 & ~_UMASK)
            _sync(path)
        if not target.is_dir():
            temporary.replace(target)
        elif temporary.is_dir():
            old = target.parent / f".{target.name}.old-{os.getpid()}"
            target.rename(old)
            temporary.rename(target)
            _remove(old)  # what is left of it goes with the next `recover`
        else:
            raise UserError(f"{given} is a folder, which no file replaces; give the name of a file")
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        if means_disk_full(error):
            raise UserError(f"no space left on the disk while writing {given}; free some and run again") from error
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(f"{given} can't be written ({error}); give another place") from error
        raise
    finally:
        _remove(temporary)


def user_path(name: str) -> Path:
    """A path that a user wrote, which may begin with ~ or ~name.

    Raises:
        UserError: if there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} begins with ~, but there is no such home folder; write the whole path") from error


def recover(target: Path) -> None:
    """Tidy up after a process that was killed while it wrote `target`.

    What it had half-written goes. A folder that it had moved aside comes back, if the new one did not take its place.
    """
    target = target.resolve()
    for left in target.parent.glob(f".{glob.escape(target.name)}.*-*"):
        kind, _, owner = left.name.rpartition(".")[2].rpartition("-")
        if not owner.isdecimal() or (int(owner) != os.getpid() and psutil.pid_exists(int(owner))):
            continue
        if kind == "old" and not target.exists():
            left.rename(target)
        elif kind in ("old", "tmp"):
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def means_disk_full(error: Exception) -> bool:
    """Whether a disk, a quota or a size limit is exhausted.

    safetensors and `shutil.copytree` tell the number in their messages only, and NumPy tells none.
    """
    numbers = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    signs = {sign for n in numbers for sign in (f"os error {n})", f"[Errno {n}]")}
    if getattr(error, "errno", None) in numbers or any(sign in str(error) for sign in signs):
        return True
    return re.fullmatch(r"\d+ requested and \d+ written", str(error)) is not None


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    if not path.is_dir():
        with path.open("rb+") as file:  # Windows syncs what is open for writing only
            os.fsync(file.fileno())
        return
    with suppress(OSError):  # Windows opens no folder, and some file systems sync none: a rename is in order there
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write a JSON file atomically, indented and in UTF-8."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is not there, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error


def write_array(target: Path, values: npt.NDArray[Any]) -> None:
    """Write an array as .npy, atomically."""
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def given_files(path: str | Path | None) -> list[list[str]]:
    """Digests of the files of a tokenizer or an encoder that a recipe names by path, without its card and folders."""
    place = user_path(str(path or ""))
    # Beside a vocab.txt another file may hold its tokenizer's options.
    files = sorted(place.iterdir()) if place.is_dir() else [place, place.with_name("tokenizer_config.json")]
    return digests([file for file in files if file.is_file() and file.name != CARD], True) if path else []


def digests(paths: Sequence[Path], remembered: bool = False) -> list[list[str]]:
    """Name and SHA-256 of each file's content: the same for copies in another place, and for files only touched.

    Args:
        paths: the files; a name is the path from the deepest folder that holds them all.
        remembered: whether a file that was digested in this process is read again only if its size or the time of its
            last change is another one.

    Raises:
        UserError: if one may not be read.
    """
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    found = []
    for path in paths:
        try:
            now = path.stat() if remembered else None
            content = _digest(path) if now is None else _known_digest(path.resolve(), now.st_size, now.st_mtime_ns)
        except PermissionError as error:
            raise UserError(f"{path} may not be read ({error.strerror}); change its permissions") from error
        found.append([Path(os.path.relpath(path, root)).as_posix(), content])
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _known_digest(path: Path, size: int, changed: int) -> str:
    return _digest(path)
