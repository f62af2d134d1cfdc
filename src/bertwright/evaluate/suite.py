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
    saved_labels,
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

    def evaluated_like(self, other: Entry) -> bool:
        """Whether the figures of two encoders compare: they have the same test rows and the same metric.

        Results of earlier versions hold no digest of the test rows: labels tell, or where they are not saved either,
        how many there are.
        """
        keys = ("task", "label_names", "positive_label")
        if self.metric != other.metric or any(self.results.get(key) != other.results.get(key) for key in keys):
            return False
        digests = [one.results.get("test_digest") for one in (self, other)]
        if None not in digests:
            return bool(digests[0] == digests[1])
        ours, theirs = (saved_labels(one.folder / "evaluate" / "predictions") for one in (self, other))
        if ours is None or theirs is None:
            ours, theirs = ([one.results["scores"]["bert"]["count"]] for one in (self, other))
        return len(ours) == len(theirs) and all(_equal(one, another) for one, another in zip(ours, theirs, strict=True))

    def summary(self) -> dict[str, Any]:
        """What results.json of the suite holds: metric, mean, sd over seeds, interval, seeds, and the best baseline.

        There is no sd (None) of one seed.
        """
        key, bert = self.metric, self.results["scores"]["bert"]
        baselines = {name: one[key] for name, one in self.results["scores"].items() if name != "bert" and key in one}
        best = max(baselines, key=lambda name: baselines[name]) if baselines else None
        by_seed = [one[key] for one in self.results["bert_seeds"].values()]
        return {
            "metric": key,
            "mean": bert[key],
            "sd": mean_and_spread(by_seed)["std"] if len(by_seed) > 1 else None,
            "low": bert.get(f"{key}_low"),
            "high": bert.get(f"{key}_high"),
            "seeds": [int(seed) for seed in self.results["bert_seeds"]],
            "baseline": None if best is None else baselines[best],
            "baseline_name": best,
            "seconds": round(self.results["stage_seconds"]["finetune"], 1),
            "test_rows": bert["count"],
            "test_digest": self.results.get("test_digest"),
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
            if not entries[first].evaluated_like(entries[second]):
                continue
            if not runs[0] or runs[0].keys() != runs[1].keys():
                continue
            ordered = [[one[key] for key in sorted(one)] for one in runs]
            paired = paired_difference(entries[first].results, saved[first], *ordered)
            found.append({"task": task, "metric": entries[first].metric, "first": first, "second": second, **paired})
    return found


def unlike(suite: Suite) -> dict[str, str]:
    """By task, that its encoders were not evaluated alike, in a sentence that says which; none of the other tasks."""
    found = {}
    for task in suite.tasks:
        entries = {name: suite.entries[name][task] for name in suite.encoders if task in suite.entries.get(name, {})}
        groups: list[list[str]] = []  # of encoders that compare
        for name, entry in entries.items():
            own = next((group for group in groups if entry.evaluated_like(entries[group[0]])), None)
            groups.append([name]) if own is None else own.append(name)
        if len(groups) > 1:
            others = ", ".join(name for group in groups[1:] for name in group)
            found[task] = (
                f"{task}: test texts, labels or metric of {others} are not those of {', '.join(groups[0])}, so that "
                "the figures do not compare; fine-tune all of them on the same data"
            )
    return found


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
            unlike=list(unlike(suite).values()),
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
    """A row for each task: its metric, the best baseline, and the encoders' figures, the best of which is marked.

    Where encoders were not evaluated alike, none is the best, and there is no baseline of all.
    """
    rows, apart = [], unlike(suite)
    for task in suite.tasks:
        cells = {name: found[task] for name, found in summaries.items() if task in found}
        known = [name for name in suite.encoders if name in cells]
        first = suite.entries[known[0]][task]
        best = max(known, key=lambda name: cells[name]["mean"]) if len(known) > 1 and task not in apart else None
        baselines = {name: cells[name]["baseline"] for name in known}
        baseline = None if task in apart else baselines[known[0]]
        rows.append(
            {
                "task": task,
                "metric": metric_name(first.metric, first.results),
                "test_rows": cells[known[0]]["test_rows"],
                "baseline": baseline,
                "baseline_name": baseline is not None and system_name(cells[known[0]]["baseline_name"], first.results),
                "cells": cells,
                "best": best,
                "above": {name: one is not None and cells[name]["mean"] > one for name, one in baselines.items()},
                "unlike": task in apart,
            }
        )
    return rows


def _with_spread(cell: Mapping[str, Any]) -> str:
    mean = f"{100 * cell['mean']:.1f}"
    return mean if cell["sd"] is None else f"{mean} ± {100 * cell['sd']:.1f}"


def table(suite: Suite) -> str:
    """The figures as text: a row for each task, a column for each encoder, in percent.

    They are means, with the standard deviation where there are several seeds. A line below says where encoders were
    not evaluated alike.
    """
    encoders = suite.encoders
    head, apart = ["task", "metric", "best baseline", *encoders], unlike(suite)
    rows: list[Sequence[str]] = [head]
    for task in suite.tasks:
        cells = {name: suite.entries[name][task].summary() for name in encoders if task in suite.entries.get(name, {})}
        one = next(iter(cells.values()))
        baseline = "-" if one["baseline"] is None or task in apart else f"{100 * one['baseline']:.1f}"
        shown = [_with_spread(cells[name]) if name in cells else "-" for name in encoders]
        metric = metric_name(one["metric"]) if len({cell["metric"] for cell in cells.values()}) == 1 else "-"
        rows.append([task, metric, baseline, *shown])
    if suite.minimal_pairs:
        shown = [f"{100 * suite.minimal_pairs[n]['mean']:.1f}" if n in suite.minimal_pairs else "-" for n in encoders]
        rows.append(["minimal pairs", "accuracy", "50.0", *shown])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:], *apart.values()])
