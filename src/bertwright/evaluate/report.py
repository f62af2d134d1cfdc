"""The report of a run: one HTML page that stands alone, made from the files in the run folder, and its plots.

Every part is optional: the page leaves out what the run did not do. Nothing here computes a metric; the page shows
`results.json` and the metrics files, beside one comparison of saved predictions.
"""

from __future__ import annotations

import base64
import importlib.resources
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
import markupsafe
import yaml

from bertwright.evaluate import plots
from bertwright.evaluate.comparison import (
    SYSTEM_NAMES,
    column_name,
    comparison,
    metric_name,
    positive_label,
    primary_metric,
    saved_predictions,
    system_name,
)
from bertwright.evaluate.curves import finetune_figures, pretrain_figures, read_metrics
from bertwright.evaluate.tables import (
    class_rows,
    data_tables,
    has_intervals,
    heldout_rows,
    labelled_tables,
    metric_keys,
    number_of_seeds,
    plain,
    readable,
    results_table,
    score_rows,
)
from bertwright.files import read_json, write_text

__all__ = ["SYSTEM_NAMES", "comparison", "results_table", "saved_predictions", "score_rows", "write_report"]

_SHORTEN_OVER = 320
_BETWEEN_BACKTICKS = re.compile(r"`([^`]+)`")
_CONSTANT = ("most_frequent", "mean", "label_frequencies")
"""Systems that give every text the same answer."""


def write_report(run_folder: Path) -> Path:
    """Make `report.html` and `plots/*.png` from the files of a run folder; absent files leave their part out.

    Args:
        run_folder: the folder of a run, finished or not.

    Returns:
        The path of report.html.
    """
    folder = run_folder / "plots"
    context = _context(run_folder, folder)
    filters: dict[str, Callable[..., Any]] = {
        "score": lambda value: f"{value:.4f}",
        "short": lambda value: f"{value:.3f}",
        "percent": lambda value: f"{100 * value:.1f} %",
        "duration": format_duration,
        "plain": plain,
        "metric": lambda key: coded(column_name(key, context["results"])),
        "coded": coded,
        "system": lambda key: system_name(key, context["results"]),
        "unbroken": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),
        "png": lambda name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode("ascii"),
    }
    target = run_folder / "report.html"
    write_text(target, page("report.html.j2", filters, **context))
    return target


def page(template: str, filters: Mapping[str, Callable[..., Any]], **context: Any) -> str:
    """A page in our style, which stands alone.

    Args:
        template: its file in this package.
        filters: of the template.
        context: what the template shows.
    """
    own = importlib.resources.files("bertwright.evaluate")
    # Autoescape: reviews, file names and recipes are other people's text and must not become markup.
    engine = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    engine.filters.update(filters)
    style = markupsafe.Markup(own.joinpath("report.css").read_text(encoding="utf-8"))  # our own text, no user's
    return engine.from_string(own.joinpath(template).read_text(encoding="utf-8")).render(context, style=style)


def _context(run_folder: Path, folder: Path) -> dict[str, Any]:
    """What the template shows; plots are drawn into `folder`."""
    results = _json(run_folder / "results.json")
    environment = _json(run_folder / "environment.json")
    rows = score_rows(results)
    predictions = saved_predictions(run_folder / "evaluate" / "predictions")
    recipe_path = run_folder / "recipe.yaml"
    recipe = recipe_path.read_text(encoding="utf-8") if recipe_path.is_file() else None
    asked = yaml.safe_load(recipe) if recipe else {}
    phases = asked["pretrain"]["phases"] if recipe else []
    encoder, start = (asked.get(stage, {}).get("encoder") for stage in ("finetune", "pretrain"))
    is_unlabelled = asked.get("finetune", {}).get("data") == ""  # what lies in finetune/ is an earlier run's
    pretraining, data = [], {}
    if not encoder:  # with one, what lies in these folders is an earlier run's
        pretraining = read_metrics(run_folder / "pretrain" / "metrics.jsonl")
        data = _json(run_folder / "prepare" / "data_report.json")
    lengths = [phase["sequence_length"] for phase in phases]
    without = results.get("without_train_duplicates", {})
    return {
        "title": results.get("recipe") or run_folder.resolve().name,
        "results": results,
        "primary": primary_metric(results),
        "metrics": metric_keys(results),
        "of_class": positive_label(results),
        "classes": class_rows(results),
        "bert": results.get("scores", {}).get("bert"),
        "encoder": encoder and without_folders(encoder),
        "start": start and without_folders(start),
        "heldout_rows": heldout_rows(results) if "heldout_before" in results else [],
        "comparison": comparison(results, predictions),
        "rows": rows,
        "seeds": number_of_seeds(results),
        "first_seed": next(iter(results.get("bert_seeds") or {}), None),
        "has_intervals": has_intervals(rows, primary_metric(results)),
        "removed": without.get("count_removed", 0),
        "rows_without_duplicates": score_rows({**results, "published": {}, "scores": {}, **without}),
        "pretrain": pretrain_figures(pretraining, lengths, folder),
        "finetune": finetune_figures(
            {} if is_unlabelled else _finetune_metrics(run_folder / "finetune"),
            folder,
            primary_metric(results),
            quoted(metric_name(primary_metric(results), results)),
        ),
        "score_figures": _score_figures(results, rows, predictions, folder),
        "calibration": _calibration(results, folder),
        "confusion": _confusion(results),
        "examples": _examples(run_folder / "evaluate" / "examples.json"),
        "data": data_tables(without_folders(data)),
        "labelled": labelled_tables(without_folders(results)),
        "environment": {
            readable(key): plain(without_folders(value)) for key, value in environment.items() if key != "command"
        },
        "recipe": _recipe_text(recipe),
        "command": _command(results, environment),
        "perplexity": math.exp(min(loss, 50)) if (loss := (results.get("heldout") or {}).get("mlm_loss")) else None,
    }


def format_duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: 0.2 s, 45 s, 12 min 5 s, 40 min, 2 h 48 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min")] if hours else [(minutes, "min"), (rest, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount)


def coded(text: str) -> markupsafe.Markup:
    """A sentence as HTML, with what stands between backticks as code."""
    return markupsafe.Markup(_BETWEEN_BACKTICKS.sub(r"<code>\1</code>", str(markupsafe.escape(text))))


def quoted(text: str) -> str:
    """A sentence for a picture, with quotation marks for backticks."""
    return _BETWEEN_BACKTICKS.sub(r"“\1”", text)


def _json(path: Path) -> dict[str, Any]:
    """The file's content without its nulls, so that a page asks only whether a thing is there; {} without the file."""
    content: dict[str, Any] = _without_nulls(read_json(path)) if path.is_file() else {}
    return content


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _finetune_metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    seeds = [path.parent.name.removeprefix("seed-") for path in folder.glob("seed-*/metrics.jsonl")]
    return {
        seed: read_metrics(folder / f"seed-{seed}" / "metrics.jsonl")
        for seed in sorted(seeds, key=lambda seed: (len(seed), seed))
    }


def _score_figures(
    results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], predictions: Mapping[str, Any], folder: Path
) -> dict[str, list[dict[str, str]]]:
    figures: dict[str, list[dict[str, str]]] = {"intervals": [], "roc": []}
    key = primary_metric(results)
    name = quoted(metric_name(key, results))
    if len(rows) > 1:
        shown = [(row["name"], row[key], row.get(f"{key}_low"), row.get(f"{key}_high")) for row in rows]
        # A constant answer far below the others would squeeze their intervals into a corner.
        shown = [one for one, row in zip(shown, rows, strict=True) if row["system"] not in _CONSTANT]
        plots.save_intervals(folder, "intervals", shown, x_label=name, emphasis=SYSTEM_NAMES["bert"])
        listed = "; ".join(f"{row['name']} {row[key]:.4f}" for row in rows)
        of = f"{name} with 95 % intervals" if has_intervals(rows, key) else name
        figures["intervals"] = [{"name": "intervals", "alt": f"{of}. {listed}."}]
    labels = predictions.get("labels")
    order = [row["system"] for row in rows if row["system"] in predictions and "roc_auc" in row]
    order = [system for system in order if predictions[system].ndim == 2 and predictions[system].shape[1] == 2]
    names, label = results.get("label_names", []), positive_label(results)
    positive = names.index(label) if label in names else 1
    order = [system for system in order if system != "most_frequent"]  # its curve is the diagonal
    if labels is not None and order and 0 < (labels == positive).sum() < len(labels):
        of = labels == positive
        curves = {
            system_name(system, results).partition(",")[0]: plots.roc_points(of, predictions[system][:, positive])
            for system in order
        }
        areas = "; ".join(f"{row['name']} {row['roc_auc']:.4f}" for row in rows if "roc_auc" in row)
        for file, corner in (("roc", False), ("roc-corner", True)):
            plots.save_roc(folder, file, curves, corner=corner)
            part = "the upper left corner, enlarged" if corner else "the whole range"
            mean = " (BERT's is the mean over seeds)" if number_of_seeds(results) > 1 else ""
            figures["roc"].append({"name": file, "alt": f"ROC curves, {part}. Areas under them{mean}: {areas}."})
    return figures


def _calibration(results: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    found = results.get("calibration")
    if not found:
        return None
    confidence, accuracy = ([one[key] for one in found["bins"]] for key in ("confidence", "accuracy"))
    plots.save_reliability(folder, "reliability", confidence, accuracy)
    listed = "; ".join(
        f"{100 * c:.1f} % claimed, {100 * a:.1f} % right" for c, a in zip(confidence, accuracy, strict=True)
    )
    mean, right = (
        sum(one[key] * one["count"] for one in found["bins"]) / sum(one["count"] for one in found["bins"])
        for key in ("confidence", "accuracy")
    )
    figure = {"name": "reliability", "alt": f"Accuracy over confidence in bins of equal size: {listed}."}
    return {"ece": found["ece"], "mean": mean, "right": right, "bins": len(confidence), "figure": figure}


def _confusion(results: Mapping[str, Any]) -> dict[str, Any] | None:
    matrix = results.get("scores", {}).get("bert", {}).get("confusion")
    if not matrix:
        return None
    labels = results.get("label_names") or [str(index) for index in range(len(matrix))]
    rows = []
    for label, counts in zip(labels, matrix, strict=True):
        total = sum(counts)
        rows.append({"label": label, "cells": [{"count": n, "ratio": n / total if total else 0.0} for n in counts]})
    return {"labels": labels, "rows": rows}


def _examples(path: Path) -> dict[str, Any]:
    """The examples, with what the template needs: texts around masks, and the beginnings of long texts."""
    examples = _json(path)
    for item in examples.get("filled_masks", []):
        item["parts"] = item["text"].split("[MASK]")
        item["right"] = bool(item["predictions"]) and item["predictions"][0]["token"].lower() == item["answer"].lower()
    for kind in ("classified", "mistakes"):
        for item in examples.get(kind, []):
            item["beginning"] = None
            if len(item["text"]) > _SHORTEN_OVER:
                item["beginning"] = item["text"][: _SHORTEN_OVER - 60].rsplit(" ", 1)[0] + " …"
    return examples


def without_folders(value: Any) -> Any:
    """Settings or sentences with absolute paths cut to their last name: one machine's folders are its owner's matter.

    Args:
        value: a string, or what JSON and YAML nest.
    """
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"(?:/|~|[A-Za-z]:[/\\])[^,:;]*", value):  # a path as a whole, which may hold spaces
        return PureWindowsPath(value).name  # knows both kinds of slashes
    return _PATH.sub(lambda found: PureWindowsPath(found[0]).name, value)


_PATH = re.compile(r"""(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'",:;]+[/\\])+[^\s/\\'",:;]*""")
"""An absolute path within a sentence; addresses of the web are none."""


def _recipe_text(text: str | None) -> str | None:
    """The recipe as it was saved; written anew where paths in it must be cut."""
    settings = yaml.safe_load(text) if text else None
    cut = without_folders(settings)
    return text if cut == settings else yaml.safe_dump(cut, sort_keys=False, allow_unicode=True)


def _command(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """What was typed, where it is recorded; otherwise what repeats the run from the recipe saved in its folder."""
    command = results.get("command") or environment.get("command") or "bertwright run recipe.yaml"
    parts = shlex.split(command) if isinstance(command, str) else command
    cut = []
    for part in parts:
        option, equals, value = part.partition("=")
        cut.append(option + equals + without_folders(value) if equals else without_folders(part))
    return shlex.join(cut)
