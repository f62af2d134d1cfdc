"""The results of a suite: encoders on the same tasks, with paired intervals of the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from bertwright.evaluate.comparison import (
    metric_name,
    paired_difference,
    primary_metric,
    saved_predictions,
    system_name,
)
from bertwright.evaluate.report import page
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import read_json, write_json, write_text


@dataclass(frozen=True)
class Entry:
    """An encoder on a task.

    Args:
        results: the content of results.json.
        folder: of the run.
    """

    results: Mapping[str, Any]
    folder: Path

    @property
    def metric(self) -> str:
        """The metric that the task is measured by."""
        return primary_metric(self.results)

    def summary(self) -> dict[str, Any]:
        """What results.json of the suite holds: metric, mean, sd over seeds, interval, seeds, and the best baseline."""
        key, bert = self.metric, self.results["scores"]["bert"]
        baselines = {name: one[key] for name, one in self.results["scores"].items() if name != "bert" and key in one}
        best = max(baselines, key=lambda name: baselines[name]) if baselines else None
        return {
            "metric": key,
            "mean": bert[key],
            "sd": mean_and_spread([one[key] for one in self.results["bert_seeds"].values()])["std"],
            "low": bert.get(f"{key}_low"),
            "high": bert.get(f"{key}_high"),
            "seeds": [int(seed) for seed in self.results["bert_seeds"]],
            "baseline": None if best is None else baselines[best],
            "baseline_name": best,
            "seconds": round(self.results["stage_seconds"]["finetune"], 1),
            "test_rows": bert["count"],
            "machine": self.results["machine"],
            "commit": self.results["commit"],
        }


@dataclass
class Suite:
    """All that the folder of a suite holds.

    Args:
        entries: by encoder, then by task.
        minimal_pairs: by encoder: what `minimal_pairs.json` in its folder holds.
        notes: why a task has no figure, by encoder, then by task.
    """

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    minimal_pairs: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def encoders(self) -> list[str]:
        """The encoders' names; random weights first, the others in alphabetical order."""
        return sorted({*self.entries, *self.minimal_pairs, *self.notes}, key=lambda name: (name != "random", name))

    @property
    def tasks(self) -> list[str]:
        """The tasks that any encoder has a figure of, in alphabetical order."""
        return sorted({task for found in self.entries.values() for task in found})


def read_suite(folder: Path) -> Suite:
    """The finished runs of a suite's folder: ENCODER/TASK/results.json.

    Args:
        folder: of the suite.
    """
    suite = Suite()
    for path in sorted(folder.glob("*/*/results.json")):
        results = read_json(path)
        if "bert" in results.get("scores", {}):
            suite.entries.setdefault(path.parts[-3], {})[path.parts[-2]] = Entry(results, path.parent)
    for path in sorted(folder.glob("*/minimal_pairs.json")):
        suite.minimal_pairs[path.parts[-2]] = read_json(path)
    for path in sorted(folder.glob("*/not_run.json")):
        suite.notes[path.parts[-2]] = read_json(path)
    return suite


def differences(suite: Suite) -> list[dict[str, Any]]:
    """How much better an encoder is than another on a task, for each two, with the paired 95 % interval.

    Both predict the same rows, seed by seed. Two whose test rows or numbers of seeds differ are left out.

    Returns:
        task, metric, first, second, difference, and where they exist low and high; the first has the higher figure.
    """
    found = []
    for task in suite.tasks:
        entries = {name: suite.entries[name][task] for name in suite.encoders if task in suite.entries.get(name, {})}
        saved = {name: saved_predictions(one.folder / "evaluate" / "predictions") for name, one in entries.items()}
        for pair in combinations(entries, 2):
            first, second = sorted(pair, key=lambda name: -entries[name].summary()["mean"])
            runs = [
                {key: values for key, values in saved[name].items() if key.startswith("bert-seed-")}
                for name in (first, second)
            ]
            if not _comparable(entries[first], entries[second], saved[first], saved[second]):
                continue
            if runs[0].keys() != runs[1].keys():
                continue
            ordered = [[one[key] for key in sorted(one)] for one in runs]
            paired = paired_difference(entries[first].results, saved[first], *ordered)
            found.append({"task": task, "metric": entries[first].metric, "first": first, "second": second, **paired})
    return found


def _comparable(first: Entry, second: Entry, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    same = all(first.results.get(key) == second.results.get(key) for key in ("task", "label_names", "positive_label"))
    if not same or first.metric != second.metric or "labels" not in ours or "labels" not in theirs:
        return False
    pairs = zip(ours["labels"], theirs["labels"], strict=False)
    return len(ours["labels"]) == len(theirs["labels"]) and all(_equal(one, other) for one, other in pairs)


def _equal(one: Any, other: Any) -> bool:
    found = one == other
    return bool(found.all()) if hasattr(found, "all") else bool(found)


def write_suite(suite: Suite, folder: Path) -> Path:
    """Write results.json, differences.json and suite.html.

    Args:
        suite: from `read_suite`.
        folder: of the suite.

    Returns:
        The path of suite.html.
    """
    summaries = {
        name: {task: entry.summary() for task, entry in suite.entries.get(name, {}).items()}
        | ({"minimal-pairs": suite.minimal_pairs[name]} if name in suite.minimal_pairs else {})
        for name in suite.encoders
    }
    paired = differences(suite)
    write_json(folder / "results.json", {name: found for name, found in summaries.items() if found})
    write_json(folder / "differences.json", paired)
    target = folder / "suite.html"
    write_text(
        target,
        page(
            "suite.html.j2",
            {"score": lambda value: f"{100 * value:.1f}", "signed": lambda value: f"{100 * value:+.1f}"},
            encoders=[name for name in suite.encoders if summaries[name]],
            rows=_rows(suite, summaries),
            pairs=suite.minimal_pairs,
            differences=[{**one, "name": metric_name(one["metric"])} for one in paired],
            notes=suite.notes,
            seeds=sorted({len(one["seeds"]) for found in summaries.values() for one in found.values() if one["seeds"]}),
            machines=sorted(
                {str(one["machine"]) for found in summaries.values() for one in found.values() if "machine" in one}
            ),
        ),
    )
    return target


def _rows(suite: Suite, summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task: its metric, the best baseline, and the encoders' figures, the best of which is marked."""
    rows = []
    for task in suite.tasks:
        cells = {name: found[task] for name, found in summaries.items() if task in found}
        known = [name for name in suite.encoders if name in cells]
        first = suite.entries[known[0]][task]
        best = max(known, key=lambda name: cells[name]["mean"])
        baseline = cells[known[0]]["baseline"]
        rows.append(
            {
                "task": task,
                "metric": metric_name(first.metric, first.results),
                "test_rows": cells[known[0]]["test_rows"],
                "baseline": baseline,
                "baseline_name": baseline is not None and system_name(cells[known[0]]["baseline_name"], first.results),
                "cells": cells,
                "best": best if len(known) > 1 else None,
                "above": {name: baseline is not None and cells[name]["mean"] > baseline for name in known},
            }
        )
    return rows


def table(suite: Suite) -> str:
    """The figures as text: a row for each task, a column for each encoder, mean and standard deviation, in percent."""
    encoders = suite.encoders
    head = ["task", "metric", "best baseline", *encoders]
    rows: list[Sequence[str]] = [head]
    for task in suite.tasks:
        cells = {name: suite.entries[name][task].summary() for name in encoders if task in suite.entries.get(name, {})}
        one = next(iter(cells.values()))
        baseline = "-" if one["baseline"] is None else f"{100 * one['baseline']:.1f}"
        shown = [f"{100 * cells[n]['mean']:.1f} ± {100 * cells[n]['sd']:.1f}" if n in cells else "-" for n in encoders]
        rows.append([task, metric_name(one["metric"]), baseline, *shown])
    if suite.minimal_pairs:
        shown = [f"{100 * suite.minimal_pairs[n]['mean']:.1f}" if n in suite.minimal_pairs else "-" for n in encoders]
        rows.append(["minimal pairs", "accuracy", "50.0", *shown])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
