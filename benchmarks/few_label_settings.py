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
from bertwright.recipe import FinetuneConfig, OptimizerConfig
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
    "rate 3e-4": {"optimizer": OptimizerConfig(learning_rate=3e-4, warmup_ratio=0.1)},
    "half the epochs": {"epochs": 0.5},
    "no averaging block": {"averaging_block": False},
    "balanced": {"class_weights": "balanced"},
}
PATIENCES = (3, 5, 10)


def rows(path: Path, start: int, count: int) -> str:
    """Lines of a compressed file."""
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        return "".join(islice(stream, start, start + count))


def change(config: FinetuneConfig, variant: str) -> FinetuneConfig | None:
    """The variant's fine-tuning; None where it is what init writes, or the task does not have it."""
    changes = dict(VARIANTS[variant])
    if "epochs" in changes:
        changes["epochs"] *= config.epochs
    if variant == "balanced" and config.task != "classification":
        return None
    if variant == "no averaging block" and not config.averaging_block:
        return None
    return replace(config, **changes)


def stopped(losses: Sequence[float], patience: int) -> dict[str, Any]:
    """Where a patience would have ended a run, as a fraction of it, and whether that keeps the same checkpoint."""
    best = 0
    for place, loss in enumerate(losses):
        if loss < losses[best]:
            best = place
        if place - best >= patience:
            return {"fraction": (place + 1) / len(losses), "same": losses[best] == min(losses)}
    return {"fraction": 1.0, "same": True}


def main(
    tasks: str, seeds: tuple[int, ...] = (0, 1), work: str = "runs/few-label-settings",
    variants: tuple[str, ...] = tuple(VARIANTS), out: str = "results/few-labels/settings.json",
) -> None:  # fmt: skip
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
        for name, (training, development) in SETS.items():
            folder = Path(work).resolve() / name
            source = Path(tasks) / name
            own = (source / "dev.jsonl.xz").exists()
            write_text(folder / "data" / "train.jsonl", rows(source / "train.jsonl.xz", 0, training))
            held = rows(source / f"{'dev' if own else 'train'}.jsonl.xz", 0 if own else 2_000, development)
            write_text(folder / "data" / "test.jsonl", held)
            pair = PAIRS if "text_pair" in json.loads(held.partition("\n")[0]) else []
            recipe_path = folder / "recipe.yaml"
            assert command(["init", str(folder / "data"), *pair, "--out", str(recipe_path), "--overwrite"]) == 0
            recipe = load_recipe(recipe_path)
            for seed in seeds:
                config = change(replace(recipe.finetune, seeds=(seed,), early_stopping_patience=None), variant)
                measured = found.setdefault(name, {}).setdefault(variant, {})
                if config is None or str(seed) in measured:
                    continue
                start = time.perf_counter()
                run = bertwright.run(
                    replace(recipe, finetune=config), stages=["finetune"], out=str(folder / variant / str(seed))
                )
                seconds = time.perf_counter() - start
                task = recipe_task(recipe)
                records = read_records(recipe.source("data"), "test", task.columns)
                labelled = read_records(recipe.source("data"), "train", task.columns)
                names = task.label_names(labelled, None, name)
                labels = task.labels(records, names, labelled, name)
                task = task.about(config.positive_label, names)
                model = run.path / "finetune" / f"seed-{seed}" / "model"
                inputs = task.encode(records, load_tokenizer(model), config.max_length, config.truncation)
                predictions = predict_saved(model, inputs, config, Engine(recipe.system, print))
                lines = map(json.loads, (model.parent / "metrics.jsonl").read_text().splitlines())
                losses = [line["loss"] for line in lines if line["kind"] == "eval"]
                measured[str(seed)] = {
                    "primary": task.primary_metric,
                    "metrics": task.metrics(predictions, labels),
                    "seconds": seconds,
                    "evaluations": len(losses),
                    "best": losses.index(min(losses)) + 1,
                    "patience": {str(patience): stopped(losses, patience) for patience in PATIENCES},
                    "settings": {key: getattr(config, key) for key in ("epochs", "batch_size", "validation_ratio")},
                }
                write({**described(), "sets": found}, out)
                print(name, variant, seed, measured[str(seed)], flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
