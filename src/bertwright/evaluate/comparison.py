"""BERT against the best baseline in one sentence, with the evidence for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.evaluate import significance
from bertwright.files import read_json, write_array, write_json
from bertwright.tasks.registry import TASKS
from bertwright.tasks.resampling import Units

SYSTEM_NAMES = {
    "bert": "BERT (this run)",
    "most_frequent": "The most frequent class",
    "mean": "The mean of the training labels",
    "label_frequencies": "How frequent each label is",
    "ridge": "Ridge regression, TF-IDF, 1-2 grams",
    "overlap_ridge": "Ridge regression, crossed TF-IDF and overlap",
    "overlap_logistic_regression": "Logistic regression, overlap of the texts",
    "crossed_nb_logistic_regression": "NB-weighted logistic regression, crossed 1-3 grams",
    "sliding_window": "Sliding window, TF-IDF",
    "no_answer": "No answer to any question",
    "ngram_overlap": "N-gram overlap with the context",
    "most_frequent_tag": "Each word's most frequent tag",
    "crf": "Conditional random field, words and their letters",
    "tfidf_cosine": "Cosine of TF-IDF vectors",
    "tfidf_cosine_characters": "Cosine of TF-IDF vectors, character 1-3 grams",
    "naive_bayes": "Naive Bayes, word counts",
    "logistic_regression": "Logistic regression, TF-IDF, 1-2 grams",
    "nb_logistic_regression": "NB-weighted logistic regression, 1-3 grams",
    "naive_bayes_characters": "Naive Bayes, character 1-3 grams",
    "logistic_regression_characters": "Logistic regression, TF-IDF, character 1-3 grams",
    "nb_logistic_regression_characters": "NB-weighted logistic regression, character 1-3 grams",
}
"""How systems are called in tables; others by their own names."""

_NAMES = {
    "f1": "F1",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "roc_auc": "ROC AUC",
    "entity_f1": "entity F1",
    "answerable_f1": "F1 where there is an answer",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "rmse": "RMSE",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "mrr": "mean reciprocal rank",
}
_OF_A_CLASS = ("f1", "precision", "recall", "roc_auc")


def system_name(system: str, results: Mapping[str, Any]) -> str:
    """A system's name for people; that of the most frequent class says which one it is."""
    most = results.get("most_frequent_label")
    return f"Always `{most}`" if system == "most_frequent" and most else SYSTEM_NAMES.get(system, system)


def primary_metric(results: Mapping[str, Any]) -> str:
    """The metric that systems are compared by; F1 in results of versions that had no other."""
    return str(results.get("primary_metric", "f1"))


def positive_label(results: Mapping[str, Any]) -> str | None:
    """The class that F1 speaks of; with two classes the second, in results of versions that did not say it."""
    names = results.get("label_names", [])
    are_classes = TASKS.get(results.get("task", ""), TASKS["classification"]).name == "classification"
    old = names[1] if are_classes and len(names) == 2 and primary_metric(results) == "f1" else None
    label = results.get("positive_label", old)
    return None if label is None else str(label)


def metric_name(key: str, results: Mapping[str, Any] | None = None) -> str:
    """A metric's name for people; with results of classes, it names the class that it speaks of, or says macro.

    Args:
        key: the metric's in results.json.
        results: the content of results.json; None leaves the class out.
    """
    name = _NAMES.get(key, key.replace("_", " "))
    if results is None or key not in _OF_A_CLASS:
        return name
    label = positive_label(results)
    if label is not None:
        return f"{name} of `{label}`"
    return f"macro-{name}" if len(results.get("label_names", [])) > 2 else name


def column_name(key: str, results: Mapping[str, Any]) -> str:
    """A metric's name above a column: all that are means over classes say so; of a class, the primary one names it.

    Args:
        key: the metric's in results.json.
        results: the content of results.json.
    """
    named = key == primary_metric(results) or positive_label(results) is None
    return metric_name(key, results if named else None)


def save_labels(folder: Path, labels: Any) -> None:
    """Write the labels of a test split: numbers as labels.npy; objects, such as a row of tags each, as labels.json."""
    if labels.dtype != object:
        write_array(folder / "labels.npy", labels)
        return
    write_json(folder / "labels.json", [one.tolist() if isinstance(one, np.ndarray) else one for one in labels])


def saved_labels(folder: Path) -> Any:
    """What `save_labels` wrote; a list of numbers is an array again. None without labels."""
    if (folder / "labels.npy").is_file():
        return np.load(folder / "labels.npy")
    if not (folder / "labels.json").is_file():
        return None
    rows = read_json(folder / "labels.json")
    labels = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        is_numbers = isinstance(row, list) and all(isinstance(one, int) for one in row)
        labels[number] = np.array(row, np.int64) if is_numbers else row
    return labels


def saved_predictions(folder: Path) -> dict[str, Any]:
    """What `evaluate` saved: by system, float32 predictions (rows, ...); `labels` and `groups`, (rows,).

    `bert` is the first seed's, also where only `bert-seed-<n>` are kept. {} without labels; systems of another number
    of rows are left out.
    """
    labels = saved_labels(folder)
    if labels is None:
        return {}
    found = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy")) if path.stem != "labels"}
    seeds = [system for system in found if system.startswith("bert-seed-")]
    if seeds and "bert" not in found:
        found["bert"] = found[min(seeds, key=lambda system: int(system.rpartition("-")[2]))]
    groups = folder.parent / "groups.npy"
    own = {"labels": labels} | ({"groups": np.load(groups)} if groups.is_file() else {})
    return {**own, **{system: values for system, values in found.items() if len(values) == len(labels)}}


def comparison(results: Mapping[str, Any], predictions: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One sentence on BERT against the best baseline, and whether BERT `wins`, `loses`, or the outcome is `open`.

    With saved predictions it rests on the paired bootstrap, which evaluates both systems on the same resampled rows;
    without, on whether the two intervals overlap, which is a blunter test. BERT's figure is the mean over its
    fine-tuning seeds, whose spread is in the interval of the difference.

    Args:
        results: the content of results.json.
        predictions: by system, (rows, ...), BERT's as `bert` or, seed by seed, as `bert-seed-<n>`; `labels` and, where
            the data have them, `groups`, (rows,).

    Returns:
        text and outcome; outcome is None where there is nothing to compare.
    """
    scores = results.get("scores", {})
    baselines = {system: values for system, values in scores.items() if system != "bert"}
    if "heldout" in results and not scores:
        return {"text": "This run has no labels: it ends with an encoder, evaluated on held-out text.", "outcome": None}
    if "bert" not in scores:
        return {"text": "This run has no fine-tuned BERT to evaluate yet.", "outcome": None}
    if not baselines:
        return {"text": "No baseline was run, so there is nothing to compare this figure with.", "outcome": None}
    key = primary_metric(results)
    bert = scores["bert"]
    best = max(baselines, key=lambda system: baselines[system][key])
    difference = bert[key] - baselines[best][key]
    name = system_name(best, results)
    against = f"the best baseline, {name} ({metric_name(key, results)} {baselines[best][key]:.4f})"
    outcome, evidence = _paired(results, predictions or {}, best) or _overlap(bert, baselines[best], key)
    if difference == 0:
        return {"text": f"BERT is level with {against}: both have the same figure, and {evidence}.", "outcome": outcome}
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
    if not runs or best not in saved:
        return None
    paired = paired_difference(results, saved, runs, saved[best])
    if "low" not in paired:
        return None
    outcome = "wins" if paired["low"] > 0 else "loses" if paired["high"] < 0 else "open"
    over = f" over {len(runs)} seeds" if len(runs) > 1 else ""
    return outcome, (
        f"on the same test texts{over} the 95 % interval of the difference is {paired['low']:+.4f} to "
        f"{paired['high']:+.4f}"
    )


def paired_difference(
    results: Mapping[str, Any], saved: Mapping[str, Any], first: Any, second: Any
) -> dict[str, float]:
    """How much higher the metric of a run's results is for one system than for another, with a paired interval.

    Args:
        results: the content of results.json.
        saved: from `saved_predictions`: labels and groups.
        first: predictions of one system, or a list of those of its seeds.
        second: of the other.

    Returns:
        As `significance.difference`.
    """
    task = TASKS.get(results.get("task", ""), TASKS["classification"])  # older results name their data there
    task = task.about(results.get("positive_label"), results.get("label_names", []))
    labels, drawn = saved["labels"], results.get("resampled", {})
    units = Units(len(labels), saved.get("groups"), drawn.get("run_length", 1), tuple(drawn.get("parts", ())))
    return significance.difference(task, labels, first, second, units, metric=primary_metric(results))


def _overlap(bert: Mapping[str, Any], best: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Outcome and evidence by whether the intervals of both overlap."""
    if not all(f"{key}_{end}" in system for end in ("low", "high") for system in (bert, best)):
        return "open", "no interval was computed"
    if bert[f"{key}_low"] > best[f"{key}_high"]:
        return "wins", "their 95 % intervals do not overlap"
    if bert[f"{key}_high"] < best[f"{key}_low"]:
        return "loses", "their 95 % intervals do not overlap"
    return "open", "their 95 % intervals overlap"
