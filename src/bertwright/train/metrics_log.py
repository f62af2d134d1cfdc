"""What a training run writes while it works: metrics.jsonl, the same lines for a tracker, and a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertwright.files import write_text
from bertwright.train.checkpoint import Position
from bertwright.train.tracking import Tracker

STEPS_BEFORE_AN_ESTIMATE = 5
"""Timed steps before the progress bar says how long the rest will take."""


class MetricsLog:
    """metrics.jsonl, whose lines a tracker gets, too; those after the step that a run resumes from are dropped first.

    Args:
        folder: receives the file.
        step: that the run resumes from.
        tracker: one that has none of the lines yet gets all that are kept.
    """

    def __init__(self, folder: Path, step: int, tracker: Tracker) -> None:
        path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._tracker = tracker
        for line in kept if tracker.is_new else ():
            tracker.log(json.loads(line))

    def write(self, kind: str, position: Position, metrics: dict[str, float]) -> None:
        """Add a line.

        Args:
            kind: train or eval.
            position: where the run stands.
            metrics: by name.
        """
        head: dict[str, Any] = {"kind": kind, "step": position.step, "seconds": round(position.seconds, 2)}
        line = head | {"tokens": position.tokens} | metrics
        self._file.write(json.dumps(line) + "\n")
        self._tracker.log(line)

    def close(self) -> None:
        """Close the file, and end the tracker's run."""
        self._file.close()
        self._tracker.finish()


def _lines(path: Path) -> Iterator[str]:
    """Whole lines of a file that may be missing or end in half a line."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("}\n"):
                yield line.rstrip("\n")


class Window:
    """Sums over the steps since the last log line.

    Args:
        untimed_tokens: of a first step, whose time is not counted.
    """

    def __init__(self, untimed_tokens: float = 0.0) -> None:
        self._start = time.perf_counter()
        self._untimed_tokens = untimed_tokens
        self._steps = 0
        self._sums: dict[str, float] = {}

    def add(self, metrics: dict[str, float]) -> None:
        """Count a step."""
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def restart_if_empty(self) -> None:
        """Have what was not a step left out of the speed."""
        if not self._steps:
            self._start = time.perf_counter()

    def averages(self) -> dict[str, float]:
        """Per scored item for losses and accuracies, per step for the rest, and real tokens per second."""
        sums, seconds = self._sums, max(1e-9, time.perf_counter() - self._start)
        line = {name: sums[name] / self._steps for name in ("loss", "grad_norm")}
        line["data_wait_ratio"] = sums["data_wait"] / seconds
        for name in [key.removesuffix("_loss") for key in sums if key.endswith("_loss")]:
            if count := sums[f"{name}_count"]:  # a phase can leave an objective out
                line[f"{name}_loss"] = sums[f"{name}_loss"] / count
                if f"{name}_correct" in sums:
                    line[f"{name}_accuracy"] = sums[f"{name}_correct"] / count
        timed = sums["tokens"] - self._untimed_tokens
        if timed > 0:
            line["tokens_per_second"] = timed / seconds
        return line


class ProgressBar:
    """Steps or seconds done, with the metrics of the last log line.

    Args:
        max_steps: the budget in steps, or
        max_seconds: the budget in seconds.
        position: where the run stands.
        visible: whether this process shows it.
    """

    def __init__(self, max_steps: int | None, max_seconds: float | None, position: Position, visible: bool) -> None:
        self._by_time = max_steps is None
        self._total = round((max_seconds if max_steps is None else max_steps) or 0)
        self._bar = tqdm(
            total=self._total,
            initial=round(self._done(position)),
            unit="s" if self._by_time else "step",
            disable=not visible,
            dynamic_ncols=True,
            mininterval=1.0,
        )
        self._begin: Position | None = None
        self._first = "starting"
        self._describe(None)
        self._describe(position)

    def _done(self, position: Position) -> float:
        return position.seconds if self._by_time else position.step

    def say(self, doing: str) -> None:
        """Show what is done until the first step has ended."""
        self._first = doing
        self._describe(None)
        self._bar.refresh()

    def _describe(self, position: Position | None) -> None:
        """Show the time that is left, once enough steps have been timed: the first ones compile and warm up."""
        left = self._first
        if position is not None and self._begin is not None:
            steps, seconds = position.step - self._begin.step, position.seconds - self._begin.seconds
            if self._by_time:
                left = f"{tqdm.format_interval(max(0.0, self._total - position.seconds))} left"
            elif steps >= STEPS_BEFORE_AN_ESTIMATE:
                left = f"{tqdm.format_interval((self._total - position.step) * seconds / steps)} left"
            else:
                left = "estimating the time left"
        self._bar.bar_format = "{l_bar}{bar:20}| {n:.0f}/{total:.0f} {unit}, " + left + " {postfix}"

    def advance(self, position: Position) -> None:
        """Show how much of the budget is spent, and how long the rest will take."""
        if self._begin is None:
            self._begin = replace(position)
        self._describe(position)
        self._describe(position)
        self._bar.update(min(self._done(position), self._total) - self._bar.n)

    def show(self, line: dict[str, float]) -> None:
        """Show the loss, accuracies and speed of a log line."""
        shown = {"loss": f"{line['loss']:.3f}"}
        shown |= {key.replace("_accuracy", ""): f"{value:.1%}" for key, value in line.items() if "accuracy" in key}
        if "tokens_per_second" in line:
            shown["tok/s"] = f"{line['tokens_per_second']:,.0f}"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
