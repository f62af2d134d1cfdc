"""BERT against the best baseline in one sentence, with the evidence for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.evaluate import significance
from bertwright.tasks.registry import TASKS

SYSTEM_NAMES = {
    "bert": "BERT (this run)",
    "naive_bayes": "Naive Bayes, word counts",
    "logistic_regression": "Logistic regression, TF-IDF, 1-2 grams",
    "nb_logistic_regression": "NB-weighted logistic regression, 1-3 grams",
}
"""How systems are called in tables; others by their own names."""


def primary_metric(results: Mapping[str, Any]) -> str:
    """The metric that systems are compared by; F1 in results of versions that had no other."""
    return str(results.get("primary_metric", "f1"))


def metric_name(key: str) -> str:
    """A metric's name for people."""
    return {"f1": "F1", "roc_auc": "ROC AUC"}.get(key, key.replace("_", " "))


def saved_predictions(folder: Path) -> dict[str, Any]:
    """What `evaluate` saved: by system, float32 probabilities (rows, classes), and `labels`, int64 (rows,).

    {} without labels; systems of another number of rows are left out.
    """
    if not (folder / "labels.npy").is_file():
        return {}
    labels = np.load(folder / "labels.npy")
    found = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy")) if path.stem != "labels"}
    return {"labels": labels, **{system: values for system, values in found.items() if len(values) == len(labels)}}


def comparison(results: Mapping[str, Any], predictions: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One sentence on BERT against the best baseline, and whether BERT `wins`, `loses`, or the outcome is `open`.

    With saved predictions it rests on the paired bootstrap, which evaluates both systems on the same resampled rows;
    without, on whether the two intervals overlap, which is a blunter test. BERT's figure is the mean over its
    fine-tuning seeds, and so is the interval of the difference, end by end.

    Args:
        results: the content of results.json.
        predictions: by system, (rows, ...), BERT's as `bert` or, seed by seed, as `bert-seed-<n>`; `labels`, (rows,).

    Returns:
        text and outcome; outcome is None where there is nothing to compare.
    """
    scores = results.get("scores", {})
    baselines = {system: values for system, values in scores.items() if system != "bert"}
    if "bert" not in scores:
        return {"text": "This run has no fine-tuned BERT to evaluate yet.", "outcome": None}
    if not baselines:
        return {"text": "No baseline was run, so there is nothing to compare this figure with.", "outcome": None}
    key = primary_metric(results)
    bert = scores["bert"]
    best = max(baselines, key=lambda system: baselines[system][key])
    difference = bert[key] - baselines[best][key]
    against = f"the best baseline, {SYSTEM_NAMES.get(best, best)} ({metric_name(key)} {baselines[best][key]:.4f})"
    outcome, evidence = _paired(results, predictions or {}, best) or _overlap(bert, baselines[best], key)
    text = {
        "wins": f"BERT beats {against}, by {abs(difference):.4f}: {evidence}.",
        "loses": f"BERT loses to {against}, by {abs(difference):.4f}: {evidence}.",
        "open": f"BERT cannot be told apart from {against}: it is {abs(difference):.4f} "
        f"{'higher' if difference >= 0 else 'lower'}, but {evidence}.",
    }[outcome]
    return {"text": text, "outcome": outcome}


def _paired(results: Mapping[str, Any], saved: Mapping[str, Any], best: str) -> tuple[str, str] | None:
    """Outcome and evidence by the paired bootstrap; None without saved predictions of both."""
    runs = [values for system, values in saved.items() if system.startswith("bert-seed-")]
    runs = runs or [saved[system] for system in ("bert",) if system in saved]
    task = TASKS.get(results.get("task", ""), TASKS["classification"])  # older results name their data there
    if not runs or best not in saved:
        return None
    paired = [significance.difference(task, saved["labels"], run, saved[best]) for run in runs]
    low, high = (float(np.mean([one[end] for one in paired])) for end in ("low", "high"))
    outcome = "wins" if low > 0 else "loses" if high < 0 else "open"
    return outcome, f"on the same test texts the 95 % interval of the difference is {low:+.4f} to {high:+.4f}"


def _overlap(bert: Mapping[str, Any], best: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Outcome and evidence by whether the intervals of both overlap."""
    if not all(f"{key}_{end}" in system for end in ("low", "high") for system in (bert, best)):
        return "open", "no interval was computed"
    if bert[f"{key}_low"] > best[f"{key}_high"]:
        return "wins", "their 95 % intervals do not overlap"
    if bert[f"{key}_high"] < best[f"{key}_low"]:
        return "loses", "their 95 % intervals do not overlap"
    return "open", "their 95 % intervals overlap"
