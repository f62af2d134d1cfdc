"""What `bertwright init` should pick where there are few labels: its recipe and variants of it, on small sets of tasks.

    python benchmarks/few_label_settings.py --tasks /path/to/tasks

A set is a part of the training data of a public one; the metric is that of its development data. Nothing is measured
on a test split. For early stopping no run of its own is needed: the losses on the validation set say where each
patience would have ended, and which checkpoint it would have kept. The result is written after each run, and what it
has is not done again.
"""

from __future__ import annotations

import json
import lzma
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

import bertwright
from bertwright.cli import main as command
from bertwright.files import read_json, write_text
from bertwright.models.checkpoints import load_tokenizer
from bertwright.recipe import OptimizerConfig, Recipe
from bertwright.recipe_file import load_recipe
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.registry import recipe_task
from bertwright.text.records import read_records
from bertwright.train.engine import Engine
from common import described, write

SETS = {"copa": (400, 100), "cb": (250, 56), "trec6": (200, 500), "stsb": (400, 500), "wnut17": (400, 500)} | {
    "goemotions": (400, 500)
}
"""Rows of the training data, and of the development data."""

PAIRS = ["--text-column", "text", "--text-pair-column", "text_pair"]
VARIANTS: dict[str, dict[str, Any]] = {
    "init": {},
    "balanced": {"class_weights": "balanced"},
    "rate 3e-4": {"optimizer": OptimizerConfig(learning_rate=3e-4, warmup_ratio=0.1)},
}
PATIENCES = (3, 5, 10)


def with_known_labels(held: str, training: str) -> str:
    """The rows of several labels that have those of the training data alone, since others are refused; else all."""
    known = {label for row in training.splitlines() for label in json.loads(row).get("labels", [])}
    return "".join(row for row in held.splitlines(True) if set(json.loads(row).get("labels", [])) <= known)


def rows(path: Path, start: int, count: int) -> str:
    """Lines of a compressed file."""
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        return "".join(islice(stream, start, start + count))


def written_recipe(tasks: Path, name: str, folder: Path) -> Recipe:
    """The data of a set in a folder, and the recipe that init writes for them."""
    training, development = SETS[name]
    own = (tasks / name / "dev.jsonl.xz").exists()
    labelled = rows(tasks / name / "train.jsonl.xz", 0, training)
    held = rows(tasks / name / f"{'dev' if own else 'train'}.jsonl.xz", 0 if own else 2_000, development)
    write_text(folder / "data" / "train.jsonl", labelled)
    write_text(folder / "data" / "test.jsonl", with_known_labels(held, labelled))
    pair = PAIRS if "text_pair" in json.loads(held.partition("\n")[0]) else []
    assert command(["init", str(folder / "data"), *pair, "--out", str(folder / "recipe.yaml"), "--overwrite"]) == 0
    return load_recipe(folder / "recipe.yaml")


def stopped(losses: Sequence[float], patience: int) -> dict[str, Any]:
    """Where a patience would have ended a run, as a fraction of it, and whether that keeps the same checkpoint."""
    best = 0
    for place, loss in enumerate(losses):
        if loss < losses[best]:
            best = place
        if place - best >= patience:
            return {"fraction": (place + 1) / len(losses), "same": losses[best] == min(losses)}
    return {"fraction": 1.0, "same": True}


def measure(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Fine-tune with the recipe's one seed, and evaluate on the development data."""
    config, start = recipe.finetune, time.perf_counter()
    run = bertwright.run(recipe, stages=["finetune"], out=str(folder))
    seconds = time.perf_counter() - start
    task = recipe_task(recipe)
    labelled, held = (read_records(recipe.source("data"), split, task.columns) for split in ("train", "test"))
    names = task.label_names(labelled, None, recipe.name)
    labels = task.labels(held, names, labelled, recipe.name)
    task = task.about(config.positive_label, names)
    model = run.path / "finetune" / f"seed-{config.seeds[0]}" / "model"
    inputs = task.encode(held, load_tokenizer(model), config.max_length, config.truncation)
    predictions = predict_saved(model, inputs, config, Engine(recipe.system, print))
    lines = map(json.loads, (model.parent / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["kind"] == "eval"]
    return {
        "primary": task.primary_metric,
        "metrics": task.metrics(predictions, labels),
        "seconds": seconds,
        "evaluations": len(losses),
        "best": losses.index(min(losses)) + 1,
        "patience": {str(patience): stopped(losses, patience) for patience in PATIENCES},
        "settings": {key: getattr(config, key) for key in ("epochs", "batch_size", "validation_ratio")},
    }


def main(
    tasks: str,
    seeds: tuple[int, ...] = (0, 1),
    work: str = "runs/few-label-settings",
    variants: tuple[str, ...] = tuple(VARIANTS),
    out: str = "results/few-labels/settings.json",
) -> None:
    """Measure.

    Args:
        tasks: the folder of the sets, a folder each with train.jsonl.xz, and dev.jsonl.xz if it has one.
        seeds: of fine-tuning.
        work: receives data and models.
        variants: those to measure.
        out: receives the result.
    """
    target = Path(__file__).resolve().parents[1] / out
    found: dict[str, Any] = read_json(target)["sets"] if target.exists() else {}
    for variant in variants:
        for name in SETS:
            folder = Path(work).resolve() / name
            recipe = written_recipe(Path(tasks), name, folder)
            if variant == "balanced" and recipe.finetune.task != "classification":
                continue
            measured = found.setdefault(name, {}).setdefault(variant, {})
            for seed in (seed for seed in seeds if str(seed) not in measured):
                changes = {"seeds": (seed,), "early_stopping_patience": None, **VARIANTS[variant]}
                own = replace(recipe, finetune=replace(recipe.finetune, **changes))
                measured[str(seed)] = measure(own, folder / variant / str(seed))
                write({**described(), "sets": found}, out)
                print(name, variant, seed, measured[str(seed)], flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
