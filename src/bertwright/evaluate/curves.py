"""From the lines of metrics.jsonl to the figures of training in a report: files to plot, and a sentence for each.

A figure is a dictionary: `name`, the file name under plots/ without its ending, and `alt`, its text for those who do
not see it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertwright.evaluate.comparison import metric_name
from bertwright.evaluate.plots import Series, save_curves

Rows = list[dict[str, Any]]


def read_metrics(path: Path) -> Rows:
    """The lines of a metrics file, in order of steps; an absent file has none.

    The file of a run that is at work, or was killed, may end in half a line, which is left out. A run that resumes
    drops it, and the lines after its checkpoint, by itself (`train/loop.py`). In a file that came about in another way,
    a line that can't be read costs one point of a curve, and of several lines for one kind and step the last counts.
    """
    if not path.is_file():
        return []
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        latest[row["kind"], row["step"]] = row
    return sorted(latest.values(), key=lambda row: row["step"])


def pretrain_figures(rows: Rows, lengths: Sequence[int], folder: Path) -> list[dict[str, str]]:
    """Plot pre-training into a folder: loss and accuracies over time and tokens, learning rate, tokens per second.

    Args:
        rows: of pretrain/metrics.jsonl.
        lengths: the sequence length of each phase; a change is marked in the plots.
        folder: receives the plots.

    Returns:
        The figures.
    """
    train = [row for row in rows if row["kind"] == "train"]
    heldout = [row for row in rows if row["kind"] == "eval"]
    if len(train) < 2:
        return []
    figures = []
    axes = {"seconds": _time_unit(train[-1]["seconds"]), "tokens": _count_unit(train[-1].get("tokens", 0))}
    measures = (
        ("mlm_loss", "loss", "Masked language model: loss", None, None),
        ("mlm_accuracy", "mlm-accuracy", "Masked language model: accuracy", None, _percent),
        ("clm_loss", "loss", "Causal language model: loss", None, None),
        ("clm_accuracy", "clm-accuracy", "Causal language model: accuracy", None, _percent),
        ("nsp_accuracy", "nsp-accuracy", "Next-sentence prediction: accuracy", (0.5, "chance"), _percent),
    )
    for key, name, title, level, y_format in measures:
        for x_key, (scale, unit, over) in axes.items():
            raw = Series(*_columns(train, x_key, key, scale), label="training")
            evaluated = Series(*_columns(heldout, x_key, key, scale), label="held out", style="points", color=1)
            series = [line for line in (raw, evaluated) if len(line.x)]
            if len(raw.x) < 2:
                continue
            file = name if x_key == "seconds" else f"{name}-by-tokens"
            breaks = _length_changes(train, lengths, x_key, scale)
            save_curves(
                folder, file, series, x_label=unit, y_label=title, level=level, breaks=breaks, y_format=y_format
            )
            figures.append({"name": file, "alt": f"{title}, over {over}. {_course(series, y_format)}"})
    scale, unit, over = axes["seconds"]
    for key, name, title, style in (
        ("learning_rate", "learning-rate", "Learning rate", "plain"),
        ("tokens_per_second", "throughput", "Tokens per second", "smoothed"),
    ):
        line = Series(*_columns(train, "seconds", key, scale), style=style)
        if len(line.x) > 1:
            number = (lambda value: f"{value:g}") if key == "learning_rate" else _compact
            breaks = _length_changes(train, lengths, "seconds", scale)
            save_curves(
                folder, name, [line], x_label=unit, y_label=title, breaks=breaks, y_format=number, from_zero=True
            )
            middle, top = np.median(line.y), np.max(line.y)
            figures.append({"name": name, "alt": f"{title}, over {over}: median {middle:.3g}, highest {top:.3g}."})
    return figures


def finetune_figures(
    seeds: Mapping[str, Rows], folder: Path, metric: str = "f1", measured: str | None = None
) -> list[dict[str, str]]:
    """Plot fine-tuning into a folder: loss in training and on the validation set, and a metric on the latter.

    Args:
        seeds: by seed the rows of its metrics.jsonl.
        folder: receives the plots.
        metric: the metric's key in the rows.
        measured: its name for people; by default made from the key.
    """
    losses: list[Series] = []
    scores: list[Series] = []
    validated = False
    for index, (seed, rows) in enumerate(seeds.items()):
        train = [row for row in rows if row["kind"] == "train"]
        evaluated = [row for row in rows if row["kind"] == "eval"]
        one = len(seeds) == 1
        if len(train) > 1:
            label = "training" if one else f"seed {seed}"
            losses.append(Series(*_columns(train, "step", "loss", 1), label=label, color=index))
        if evaluated:
            # With one seed two colours tell training from validation; with several, colours tell seeds apart.
            color = 1 if one else index
            losses.append(
                Series(*_columns(evaluated, "step", "loss", 1), "validation" if one else None, "points", color)
            )
            label = "validation" if one else f"seed {seed}"
            scores.append(Series(*_columns(evaluated, "step", metric, 1), label, "points", color))
            validated = True
    figures = []
    dots = " (dots: validation set)" if validated and len(seeds) > 1 else ""
    measured = measured or metric_name(metric)
    for name, series, title in (
        ("finetune-loss", losses, f"Loss{dots}"),
        (f"finetune-{metric}", scores, f"{measured[0].upper()}{measured[1:]} on the validation set"),
    ):
        if series:
            save_curves(folder, name, series, x_label="step", y_label=title)
            figures.append({"name": name, "alt": f"Fine-tuning: {title}, over steps. {_course(series, None)}"})
    return figures


def _columns(
    rows: Sequence[Mapping[str, Any]], x_key: str, y_key: str, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two columns of the rows that have both, each (points,), the first divided by `scale`."""
    pairs = [
        (row[x_key] / scale, row[y_key]) for row in rows if row.get(x_key) is not None and row.get(y_key) is not None
    ]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _course(series: Sequence[Series], y_format: Any) -> str:
    """Where each line begins and ends, in words."""
    write = y_format or (lambda value: f"{value:.3g}")
    courses = []
    for line in series:
        finite = line.y[np.isfinite(line.y)]
        if len(finite):
            # Single steps are noisy: the mean of the last tenth is what a reader sees as the end of the line.
            end = finite[-max(1, len(finite) // 10) :].mean() if line.style == "smoothed" else finite[-1]
            courses.append(f"{line.label or 'the line'} goes from {write(finite[0])} to {write(end)}")
    return "; ".join(courses).capitalize() + "."


def _length_changes(
    rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], x_key: str, scale: float
) -> list[tuple[float, str]]:
    """Where pre-training moves on to another sequence length."""
    return [
        (after[x_key] / scale, f"length {lengths[after['phase']]}")
        for before, after in pairwise(rows)
        if max(before["phase"], after["phase"]) < len(lengths) and lengths[before["phase"]] != lengths[after["phase"]]
    ]


def _time_unit(seconds: float) -> tuple[float, str, str]:
    if seconds < 300:
        return 1.0, "seconds", "time"
    return (60.0, "minutes", "time") if seconds < 3 * 3600 else (3600.0, "hours", "time")


def _count_unit(count: float) -> tuple[float, str, str]:
    for size, unit in ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens")):
        if count >= 2 * size:
            return size, unit, "tokens seen"
    return 1.0, "tokens", "tokens seen"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _compact(value: float) -> str:
    """12,000 as 12k, so that axis labels stay short."""
    if abs(value) < 1e3:
        return f"{value:g}"
    power = 2 if abs(value) >= 1e6 else 1
    return f"{value / 1000**power:.4g}{'kM'[power - 1]}" if math.isfinite(value) else str(value)
