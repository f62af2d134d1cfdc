"""A run folder: who may write to it, which stages are done, and whether their results are still valid.

A stage is done when its folder has a stage.json with the fingerprint of all that decides its result. When the recipe
asks for something else, the stage's old folder is set aside under another name and the stage starts anew: nothing is
lost.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from bertwright.errors import UserError
from bertwright.files import read_json, write_json, write_text
from bertwright.recipe import Recipe, to_dict


class RunFolder:
    """The folder of one recipe's run.

    Args:
        path: the folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes' commands out of the folder for the duration of the block.

        Raises:
            UserError: if another command is at work in it, or it can't be made or written.
        """
        with ExitStack() as opened:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = opened.enter_context((self.path / ".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another bertwright command is at work in {self.path}; wait for it, or give another folder: --out"
                ) from error
            except OSError as error:
                raise UserError(
                    f"{self.path} can't be used as a run folder ({error.strerror}); give another: --out"
                ) from error
            yield

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the resolved recipe, every default included."""
        write_text(self.path / "recipe.yaml", yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True))

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.path / name

    def finished(self, name: str) -> dict[str, Any] | None:
        """What a finished stage left in stage.json, or None while it is not finished."""
        path = self.stage(name) / "stage.json"
        found: dict[str, Any] | None = read_json(path) if path.exists() else None
        return found

    def perform(
        self,
        name: str,
        fingerprint: str,
        work: Callable[[], None],
        notice: Callable[[str], None],
        is_main: bool = True,
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        """Do the work of a stage, unless it is done already.

        Args:
            name: of the stage.
            fingerprint: of all that decides its result.
            work: fills the stage's folder; may be interrupted and called again.
            notice: told what is skipped, resumed or set aside.
            is_main: whether this process keeps the books.
            barrier: waits for the processes that share the stage: none begins before an earlier result is set aside.
        """
        done = self.finished(name)
        if done is not None and done["fingerprint"] == fingerprint:
            notice(f"{name}: nothing has changed; using the earlier result ({_duration(done['seconds'])} of work)")
            return
        folder = self.stage(name)
        begun = folder.with_name(f".{name}.begun.json")
        before = read_json(begun) if begun.exists() else done  # a copy of a folder may lack its hidden files
        if is_main:
            if before is not None and before["fingerprint"] != fingerprint and folder.exists():
                aside = _free_name(folder)
                folder.rename(aside)
                notice(f"{name}: recipe or data have changed since; the earlier result is kept in {aside}")
                before = None
            if before is None or before["fingerprint"] != fingerprint:
                write_json(begun, {"fingerprint": fingerprint, "seconds": 0.0})
        barrier()
        spent = before["seconds"] if before is not None and before["fingerprint"] == fingerprint else 0.0
        notice(f"{name}: {'resuming' if spent else 'starting'}")
        start = time.monotonic()
        finished = False
        try:
            work()
            finished = True
        finally:
            seconds = spent + time.monotonic() - start
            if is_main:
                write_json(begun, {"fingerprint": fingerprint, "seconds": seconds})
                if finished:
                    write_json(folder / "stage.json", {"fingerprint": fingerprint, "seconds": seconds})
        notice(f"{name}: done in {_duration(seconds)}")


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return aside


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
