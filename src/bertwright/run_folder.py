"""A run folder: who may write to it, which stages are done, and whether their results are still valid.

A stage is done when its folder has a stage.json with the fingerprint of all that decides its result. While an earlier
result stands in NAME, a new one is made in NAME.new; when it is whole, the earlier one becomes NAME.before-1 and the
new one takes its place. So a stage that fails, or is killed at any moment, leaves what was there before.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from bertwright.errors import UserError
from bertwright.files import read_json, write_json, write_text
from bertwright.recipe import Recipe, to_dict

FORMAT = 2
"""Version of what a stage's files and fingerprint mean; raised when an earlier result can no longer be used."""

RECORD_EVERY = 10.0
"""Seconds between two records of the time that a stage has taken: a kill loses no more than this."""

_REPORT = ("report.html", "plots", "results.json")
"""What the report stage writes; results.json, moved last, says whether all of it is set aside."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a stage.

    Args:
        name: of the stage.
        fingerprint: of all that decides its result.
        lineage: of the same without its budget: results that differ in the budget alone continue one another.
        recipe: the whole recipe, kept with the result.
        environment: versions and machine, kept with the result.
    """

    name: str
    fingerprint: str
    lineage: str
    recipe: Recipe
    environment: dict[str, Any]


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
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another bertwright command is at work in {self.path}; wait for it, or give another folder: --out"
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.path} can't be used as a run folder ({error.strerror}); give another: --out"
            ) from error
        try:
            self.settle()
            yield
        finally:
            lock.release()

    def settle(self) -> None:
        """Put results that are whole in their places, and set aside a report that belongs to earlier ones.

        It ends what a process that was killed between two renames had begun.
        """
        for new in sorted(self.path.glob("*.new")):
            if (new / "stage.json").exists():
                folder = self.stage(new.stem)
                if folder.exists():
                    folder.rename(_free_name(folder))
                new.rename(folder)
                self._show(folder)
        if not self._report_is_valid():
            aside = _free_name(self.path / "report", "results.json")
            for part in _REPORT:
                if (self.path / part).exists():
                    aside.mkdir(exist_ok=True)
                    (self.path / part).rename(aside / part)

    def _report_is_valid(self) -> bool:
        """Whether results.json belongs to the results that stand in the folder."""
        path = self.path / "results.json"
        if not path.exists():
            return not (self.path / "report.html").exists()
        fingerprints: dict[str, str] = read_json(path).get("fingerprints", {})
        if not fingerprints:  # of an older version, as all stages that it is made from
            return all(read_json(stage).get("format", 1) == 1 for stage in self.path.glob("*/stage.json"))
        return all((self.finished(name) or {}).get("fingerprint") == found for name, found in fingerprints.items())

    def _show(self, stage: Path) -> None:
        """Keep recipe and environment of the newest result at the top of the folder, too."""
        for name in ("recipe.yaml", "environment.json"):
            if (stage / name).exists():
                write_text(self.path / name, (stage / name).read_text(encoding="utf-8"))

    def write_recipe(self, recipe: Recipe, folder: Path | None = None) -> None:
        """Keep the resolved recipe, every default included; but not of a network and a tokenizer that are given."""
        plain = to_dict(recipe)
        if recipe.pretrain.encoder is not None:
            del plain["model"]
            plain["tokenizer"] = {name: plain["tokenizer"][name] for name in ("html_line_breaks", "new_words")}
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        write_text((folder or self.path) / "recipe.yaml", text)

    def stage(self, name: str) -> Path:
        """The folder of a stage's result."""
        return self.path / name

    def place(self, name: str) -> Path:
        """The folder in which a stage is made: its own, or NAME.new while an earlier result stands there."""
        return self.stage(name) if self.finished(name) is None else self.path / f"{name}.new"

    def finished(self, name: str) -> dict[str, Any] | None:
        """What a finished stage left in stage.json, or None while it is not finished."""
        path = self.stage(name) / "stage.json"
        found: dict[str, Any] | None = read_json(path) if path.exists() else None
        return found

    def perform(
        self,
        asked: Asked,
        work: Callable[[Path], None],
        notice: Callable[[str], None],
        is_main: bool = True,
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Do the work of a stage, unless it is done already.

        Args:
            asked: the stage, and what decides its result.
            work: fills the folder that it is given; may be interrupted and called again with the same one.
            notice: told what is skipped, resumed or set aside.
            is_main: whether this process keeps the books.
            together: a block that the processes which share the stage end together (`Engine.together`): all have seen
                the same before one of them changes something, and the place is ready before they begin.
        """
        name = asked.name
        with together():
            done, place = self.finished(name), self.place(name)
        if done is not None and done["fingerprint"] == asked.fingerprint:
            notice(f"{name}: nothing has changed; using the earlier result ({_duration(done['seconds'])} of work)")
            return
        spent, start = 0.0, time.monotonic()

        def state() -> dict[str, Any]:
            return {
                "format": FORMAT,
                "fingerprint": asked.fingerprint,
                "lineage": asked.lineage,
                "seconds": round(spent + time.monotonic() - start, 3),
            }

        with together():
            if is_main:
                spent = self._begin(asked, place, done, notice)
                write_json(place / "begun.json", state())  # here, where the others hear of a failure
        try:
            with together(), _recording(place / "begun.json", state) if is_main else nullcontext():
                work(place)
        except UserError:
            if is_main and [path.name for path in place.iterdir()] == ["begun.json"]:
                shutil.rmtree(place)  # refused before anything was done
            raise
        with together():
            if is_main:
                self.write_recipe(asked.recipe, place)
                write_json(place / "environment.json", asked.environment)
                write_json(place / "stage.json", last := state())
                if place == self.stage(name):
                    self._show(place)
                self.settle()
                notice(f"{name}: done in {_duration(last['seconds'])}")

    def _begin(self, asked: Asked, place: Path, done: dict[str, Any] | None, notice: Callable[[str], None]) -> float:
        """Make the place of a stage's work ready; returns the seconds that were spent on it before."""
        name, begun = asked.name, place / "begun.json"
        before = read_json(begun) if begun.exists() else None
        if place.exists() and (before is None or before.get("lineage") != asked.lineage):
            aside = _free_name(self.stage(name))
            place.rename(aside)
            notice(f"{name}: unfinished work for another recipe or other data is kept in {aside}")
            before = None
        if done is not None and done.get("format", 1) != FORMAT:
            notice(
                f"{name}: the earlier result was made by an older version of Bertwright (format "
                f"{done.get('format', 1)}; this is {FORMAT}); it is made again, and that one kept as {name}.before-N"
            )
        elif done is not None:
            notice(
                f"{name}: recipe or data have changed since; the earlier result stays in {self.stage(name)} until the "
                f"new one is whole, and is then kept as {name}.before-N"
            )
        spent = 0.0 if before is None else float(before["seconds"])
        notice(f"{name}: {'starting' if before is None else 'resuming'}")
        return spent


@contextmanager
def _recording(path: Path, state: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Write `state` every `RECORD_EVERY` seconds of the block, and at its end, well or not."""
    ended = threading.Event()

    def record() -> None:
        while not ended.wait(RECORD_EVERY):
            with suppress(UserError, OSError):  # a full disk is for the work to say
                write_json(path, state())

    recorder = threading.Thread(target=record, daemon=True)
    recorder.start()
    try:
        yield
    finally:
        ended.set()
        recorder.join()
        with suppress(UserError, OSError):
            write_json(path, state())


def _free_name(folder: Path, within: str = "") -> Path:
    """NAME.before-N with the first N that is free; with `within`, whose folder lacks that file."""
    number = 1
    while ((aside := folder.with_name(f"{folder.name}.before-{number}")) / within).exists():
        number += 1
    return aside


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
