"""The report of a run: one HTML page that stands alone, made from the files in the run folder, and its plots.

Every part is optional: what a run did not do, its page leaves out. Nothing here computes a score; the page shows what
`results.json` and the metrics files say, beside one comparison of saved predictions that backs its verdict.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from bertwright.evaluate import plots
from bertwright.evaluate.curves import finetune_figures, pretrain_figures, read_metrics
from bertwright.evaluate.significance import f1_difference
from bertwright.files import read_json, write_text

SYSTEM_NAMES = {
    "bert": "BERT (this run)",
    "naive_bayes": "Naive Bayes, word counts",
    "logistic_regression": "Logistic regression, TF-IDF, 1-2 grams",
    "nb_logistic_regression": "NB-weighted logistic regression, 1-3 grams",
}
NOTEBOOK_NAME = "the notebook that inspired the project (published figure)"
NOTEBOOK_F1 = 0.7947
_SHORTEN_OVER = 320


def write_report(run_folder: Path) -> Path:
    """Make `report.html` and `plots/*.png` from the files of a run folder; absent files leave their part out.

    In evaluate/examples.json, `label` of judged texts and mistakes is the true class; `probability` is that of class 1
    with two classes, and that of the model's own answer, which an optional `prediction` names, with more.

    Args:
        run_folder: the folder of a run, finished or not.

    Returns:
        The path of report.html.
    """
    results = _json(run_folder / "results.json")
    environment = _json(run_folder / "environment.json")
    folder = run_folder / "plots"
    rows = score_rows(results)
    names = results.get("label_names") or []
    predictions = saved_predictions(run_folder / "evaluate" / "predictions")
    recipe_path = run_folder / "recipe.yaml"
    recipe = recipe_path.read_text(encoding="utf-8") if recipe_path.is_file() else None
    asked = yaml.safe_load(recipe) if recipe else {}
    phases = asked["pretrain"]["phases"] if recipe else []
    encoder = asked.get("finetune", {}).get("encoder")
    if encoder:  # what lies in these folders is an earlier run's
        pretraining, data = [], {}
    else:
        pretraining = read_metrics(run_folder / "pretrain" / "metrics.jsonl")
        data = _json(run_folder / "prepare" / "data_report.json")
    lengths = [phase["sequence_length"] for phase in phases]
    context = {
        "title": results.get("recipe") or run_folder.resolve().name,
        "results": results,
        "bert": results.get("scores", {}).get("bert"),
        "encoder": encoder,
        "verdict": verdict(results, predictions),
        "rows": rows,
        "removed": results.get("without_train_duplicates", {}).get("count_removed", 0),
        "rows_without_duplicates": score_rows(results.get("without_train_duplicates", {})),
        "pretrain": pretrain_figures(pretraining, lengths, folder),
        "finetune": finetune_figures(_finetune_metrics(run_folder / "finetune"), folder),
        "score_figures": _score_figures(rows, predictions, folder),
        "confusion": _confusion(results, names),
        "examples": _examples(run_folder / "evaluate" / "examples.json", names),
        "data": _data_tables(data),
        "environment": {_label(key): _plain(value) for key, value in environment.items() if key != "command"},
        "recipe": recipe,
        "command": _command(results, environment),
        "perplexity": math.exp(min(loss, 50)) if (loss := (results.get("heldout") or {}).get("mlm_loss")) else None,
    }
    template = importlib.resources.files("bertwright.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    # Autoescape: reviews, file names and recipes are other people's text and must not become markup.
    engine = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    engine.filters.update(
        score=lambda value: f"{value:.4f}",
        short=lambda value: f"{value:.3f}",
        percent=lambda value: f"{100 * value:.1f} %",
        duration=format_duration,
        plain=_plain,
        png=lambda name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode("ascii"),
    )
    target = run_folder / "report.html"
    write_text(target, engine.from_string(template).render(context))
    return target


def results_table(results: Mapping[str, Any], run_folder: Path | None = None) -> str:
    """The scores of all systems as plain text for a terminal, best F1 first, with 95 % intervals.

    Args:
        results: the content of results.json.
        run_folder: adds the page's verdict, which needs the predictions saved there; without them a blunter test
            could contradict the page.
    """
    header = ("system", "accuracy", "F1", "95 % interval", "precision", "recall", "ROC AUC")
    lines: list[tuple[str, ...]] = [header]
    for row in score_rows(results):
        cells = [_score(row, key) for key in ("accuracy", "f1", "precision", "recall", "roc_auc")]
        low, high = _score(row, "f1_low"), _score(row, "f1_high")
        lines.append((row["name"], *cells[:2], f"{low}-{high}" if low and high else "", *cells[2:]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, tuple("-" * width for width in widths))
    text = [
        "  ".join(
            [line[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]
    if spread := seeds_sentence(results):
        text += ["", spread]
    if run_folder is not None:
        text += ["", verdict(results, saved_predictions(run_folder / "evaluate" / "predictions"))["text"]]
    return "\n".join(line.rstrip() for line in text)


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per system with its scores, best F1 first; on IMDB with the notebook's published figure."""
    rows = [
        {**scores, "system": system, "name": SYSTEM_NAMES.get(system, system)}
        for system, scores in results.get("scores", {}).items()
    ]
    if rows and results.get("task") == "imdb":
        rows.append({"system": "notebook", "name": NOTEBOOK_NAME, "f1": NOTEBOOK_F1})
    return sorted(rows, key=lambda row: -row["f1"])


def seeds_sentence(results: Mapping[str, Any]) -> str | None:
    """Mean and spread of BERT's F1 over several fine-tuning seeds, in one sentence."""
    spread = (results.get("spread") or {}).get("f1")
    if not spread or spread["n"] < 2:
        return None
    return (
        f"BERT over {spread['n']} fine-tuning seeds: F1 {spread['mean']:.4f}, standard deviation {spread['std']:.4f}."
    )


def verdict(results: Mapping[str, Any], predictions: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One sentence on BERT against the best baseline, and whether it `wins`, `loses` or the matter is `open`.

    With saved predictions it rests on the paired bootstrap, which judges both systems on the same resampled rows;
    without, on whether the two intervals overlap, which is a blunter test. BERT's figure is the mean over its
    fine-tuning seeds, and so is the interval of the difference, end by end.

    Args:
        results: the content of results.json.
        predictions: by system, probabilities (rows, classes), BERT's as `bert` or, seed by seed, as `bert-seed-<n>`;
            `labels`, (rows,).

    Returns:
        text and outcome; outcome is None where there is nothing to compare.
    """
    scores = results.get("scores", {})
    baselines = {system: values for system, values in scores.items() if system != "bert"}
    if "bert" not in scores:
        return {"text": "This run has no fine-tuned BERT to judge yet.", "outcome": None}
    if not baselines:
        return {"text": "No baseline was run, so there is nothing to compare this figure with.", "outcome": None}
    bert = scores["bert"]
    rival = max(baselines, key=lambda system: baselines[system]["f1"])
    best, name = baselines[rival], SYSTEM_NAMES.get(rival, rival)
    gap = bert["f1"] - best["f1"]
    against = f"the best baseline, {name} (F1 {best['f1']:.4f})"
    saved = predictions or {}
    runs = [values for system, values in saved.items() if system.startswith("bert-seed-")]
    runs = runs or [saved[system] for system in ("bert",) if system in saved]
    if runs and rival in saved:
        paired = [f1_difference(saved["labels"], run, saved[rival]) for run in runs]
        low, high = (float(np.mean([one[end] for one in paired])) for end in ("low", "high"))
        outcome = "wins" if low > 0 else "loses" if high < 0 else "open"
        evidence = f"on the same test texts the 95 % interval of the difference is {low:+.4f} to {high:+.4f}"
    elif all(f"f1_{end}" in system for end in ("low", "high") for system in (bert, best)):
        apart = bert["f1_low"] > best["f1_high"], bert["f1_high"] < best["f1_low"]
        outcome = "wins" if apart[0] else "loses" if apart[1] else "open"
        evidence = "their 95 % intervals overlap" if outcome == "open" else "their 95 % intervals do not overlap"
    else:
        outcome, evidence = "open", "no interval was computed"
    text = {
        "wins": f"BERT beats {against}, by {abs(gap):.4f}: {evidence}.",
        "loses": f"BERT loses to {against}, by {abs(gap):.4f}: {evidence}.",
        "open": f"BERT cannot be told apart from {against}: it is {abs(gap):.4f} "
        f"{'higher' if gap >= 0 else 'lower'}, but {evidence}.",
    }[outcome]
    return {"text": text, "outcome": outcome}


def format_duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: 0.2 s, 45 s, 12 min 5 s, 40 min, 2 h 48 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min")] if hours else [(minutes, "min"), (rest, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount)


def _score(row: Mapping[str, Any], key: str) -> str:
    return "" if row.get(key) is None else f"{row[key]:.4f}"


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


def saved_predictions(folder: Path) -> dict[str, Any]:
    """What `evaluate` saved: by system, float32 probabilities (rows, classes), and `labels`, int64 (rows,).

    {} without labels; systems of another number of rows are left out.
    """
    if not (folder / "labels.npy").is_file():
        return {}
    labels = np.load(folder / "labels.npy")
    found = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy")) if path.stem != "labels"}
    return {"labels": labels, **{system: values for system, values in found.items() if len(values) == len(labels)}}


def _score_figures(
    rows: Sequence[Mapping[str, Any]], predictions: Mapping[str, Any], folder: Path
) -> dict[str, list[dict[str, str]]]:
    figures: dict[str, list[dict[str, str]]] = {"intervals": [], "roc": []}
    if len(rows) > 1:
        shown = [
            ("the notebook (published)" if row["system"] == "notebook" else row["name"], row["f1"], row.get("f1_low"),
             row.get("f1_high"))
            for row in rows
        ]  # fmt: skip
        plots.save_intervals(folder, "intervals", shown, x_label="F1", emphasis=SYSTEM_NAMES["bert"])
        listed = "; ".join(f"{row['name']} {row['f1']:.4f}" for row in rows)
        figures["intervals"] = [{"name": "intervals", "alt": f"F1 with 95 % intervals. {listed}."}]
    labels = predictions.get("labels")
    order = [row["system"] for row in rows if row["system"] in predictions and predictions[row["system"]].shape[1] == 2]
    if labels is not None and order and 0 < (labels == 1).sum() < len(labels):
        curves = {
            SYSTEM_NAMES.get(system, system).partition(",")[0]: plots.roc_curve(labels, predictions[system][:, 1])
            for system in order
        }
        areas = "; ".join(f"{row['name']} {row['roc_auc']:.4f}" for row in rows if "roc_auc" in row)
        for name, corner in (("roc", False), ("roc-corner", True)):
            plots.save_roc(folder, name, curves, corner=corner)
            part = "the upper left corner, enlarged" if corner else "the whole range"
            figures["roc"].append({"name": name, "alt": f"ROC curves, {part}. Areas under them: {areas}."})
    return figures


def _confusion(results: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    matrix = results.get("scores", {}).get("bert", {}).get("confusion")
    if not matrix:
        return None
    labels = [_label_name(index, names) for index in range(len(matrix))]
    rows = []
    for label, counts in zip(labels, matrix, strict=True):
        total = sum(counts)
        rows.append({"label": label, "cells": [{"count": n, "share": n / total if total else 0.0} for n in counts]})
    return {"labels": labels, "rows": rows}


def _examples(path: Path, names: Sequence[str]) -> dict[str, Any]:
    examples = _json(path)
    for item in examples.get("filled_masks", []):
        item["parts"] = item["text"].split("[MASK]")
        item["right"] = bool(item["guesses"]) and item["guesses"][0]["token"].lower() == item["answer"].lower()
    for kind in ("judged", "mistakes"):
        for item in examples.get(kind, []):
            said = item.get("prediction")
            if len(names) == 2:
                said = int(item["probability"] > 0.5)
                item["probability"] = max(item["probability"], 1 - item["probability"])
            item["said"] = None if said is None else _label_name(said, names)
            item["truth"] = _label_name(item["label"], names)
            item["beginning"] = None
            if len(item["text"]) > _SHORTEN_OVER:
                item["beginning"] = item["text"][: _SHORTEN_OVER - 60].rsplit(" ", 1)[0] + " …"
    return examples


def _data_tables(report: dict[str, Any]) -> dict[str, Any]:
    """The data report as one table: a row per figure, a column per corpus and one for all of them."""
    if not report:
        return {}
    columns = dict(report.get("sources", {}))
    if len(columns) != 1 and report.get("total"):
        columns["all"] = report["total"]
    keys = list(dict.fromkeys(
        key for values in columns.values() for key, value in values.items() if isinstance(value, int | float)
    ))  # fmt: skip
    rows = []
    for key in keys:
        share = key.endswith("_share")
        cells = [values.get(key) for values in columns.values()]
        shown = ["" if cell is None else f"{100 * cell:.3f} %" if share else _plain(cell) for cell in cells]
        rows.append((_label(key), shown))
    return {
        "columns": list(columns),
        "rows": rows,
        "how": {name: values["how"] for name, values in columns.items() if values.get("how")},
        "left_out": {name: values["left_out"] for name, values in columns.items() if values.get("left_out")},
        "changed": {name: values["changed"] for name, values in columns.items() if values.get("changed")},
        "parts": {part: report[part] for part in ("train", "heldout") if report.get(part)},
        "warnings": report.get("warnings", []),
    }


def _command(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """What was typed, where it is recorded; otherwise what repeats the run from the recipe saved in its folder."""
    command = results.get("command") or environment.get("command") or "bertwright run recipe.yaml"
    return command if isinstance(command, str) else shlex.join(command)


def _label_name(label: Any, names: Sequence[str]) -> str:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return str(names[label])
    return str(label)


def _label(key: str) -> str:
    return key.replace("_gib", " (GiB)").replace("_", " ")


def _plain(value: Any) -> str:
    """A value for a table cell: thousands separated, lists joined, anything deeper as JSON."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
