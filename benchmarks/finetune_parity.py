"""Whole fine-tunings: ours against transformers' Trainer, in score and in time, on five tasks of the paper.

    python benchmarks/finetune_parity.py --data /path/to/tasks --encoder /path/to/all-MiniLM-L6-v2

`--data` has a folder for each task with its parts as .jsonl, also compressed, in the form that recipes/suite tells.
Both sides start from the same encoder and have the same rows, seeds and settings (`FINETUNE`). Both evaluate the same
validation set after each epoch and keep the epoch with the lowest validation loss (of SQuAD, ours keeps the one with
the highest F1). RTE and SQuAD have no public test labels: they are scored on dev, and a tenth of train is the
validation set.

- `ours`: `bertwright.run`; bf16 and compiled where the machine can and it repays.
- `transformers`: Trainer as it is by default, float32 and batches in random order.
- `transformers_bf16`: Trainer with bf16 and batches of like length, with the first seed: it is there for its time.

The systems take turns, each in a process of its own, in which it fine-tunes all seeds one after the other, and without
a compiler's cache of earlier ones. `seconds` is the wall time of a seed, the mean: reading and tokenizing, training,
evaluation on the validation set, checkpoints, and compilation, which our first seed does for all; not of imports and
downloads, nor of the score. `ratio_seconds` is ours against Trainer by default, `ratio_seconds_best` against the faster
of the two. All fine-tuned folders are scored by the same code: ours reads transformers' models
(tests/models/test_parity.py). What is done is not done again: the same command resumes after an interruption.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jsonargparse import auto_cli

import bertwright
from bertwright.files import read_json, write_text
from bertwright.models.checkpoints import load_tokenizer
from bertwright.recipe import FinetuneConfig, OptimizerConfig, Recipe, Source, SystemConfig, fingerprint, to_dict
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.registry import recipe_task
from bertwright.text.decoding import open_bytes
from bertwright.text.records import read_records
from bertwright.train.engine import Engine
from common import Json, described, markdown, read_lines, write

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("ours", "transformers", "transformers_bf16")
GENTLE = OptimizerConfig(learning_rate=1e-4, warmup_ratio=0.1)
PAIRS = FinetuneConfig(epochs=4, batch_size=16, max_length=256, truncation="head", optimizer=GENTLE)
FINETUNE = {
    "rte": PAIRS,
    "mrpc": replace(PAIRS, positive_label="equivalent"),
    "stsb": replace(PAIRS, task="regression"),
    "conll2003": replace(PAIRS, task="token-classification", epochs=3, batch_size=32, max_length=128),
    "squad": replace(PAIRS, task="question-answering", epochs=2, batch_size=8, max_length=384),
}
"""The settings of both sides, chosen beforehand and for neither: usual ones of small encoders.

Few questions need small batches: after 94 steps with 1,500 questions in batches of 32, F1 varies by eight points
between seeds.
"""
METRICS = {"rte": "accuracy", "mrpc": "f1", "stsb": "spearman", "conll2003": "entity_f1", "squad": "f1"}
"""The tasks, and what each is scored by."""
SCORED_ON_DEV = ("rte", "squad")
"""Tasks whose test labels are not public."""


@dataclass(frozen=True)
class Caps:
    """The most rows of each part; both sides have the same.

    Args:
        train: to train on.
        validation: to choose the epoch by.
        test: to score.
    """

    train: int | None
    validation: int | None
    test: int | None


def lines_of(folder: Path, part: str) -> list[str]:
    """The rows of a part, a JSON object each."""
    (path,) = sorted(folder.glob(f"{part}.jsonl*"))
    with open_bytes(path) as stream:
        return [line for line in stream.read().decode().split("\n") if line.strip()]


def write_data(source: Path, task: str, caps: Caps, folder: Path) -> dict[str, int]:
    """Draw the rows that all systems get, the same ones at each call; returns how many of each part there are."""
    parts = {"train": lines_of(source / task, "train")}
    order = np.random.default_rng(0).permutation(len(parts["train"]))
    shuffled = [parts["train"][i] for i in order]
    if task in SCORED_ON_DEV:
        held = len(shuffled) // 10
        parts = {"train": shuffled[held:], "validation": shuffled[:held], "test": lines_of(source / task, "dev")}
    else:
        parts |= {"train": shuffled, **{to: lines_of(source / task, of) for to, of in _OFFICIAL.items()}}
    for part, rows in parts.items():
        cap = getattr(caps, part)
        if cap is not None and part != "train":
            rows = [rows[i] for i in np.sort(np.random.default_rng(0).permutation(len(rows))[:cap])]
        parts[part] = rows[:cap]
        write_text(folder / f"{part}.jsonl", "".join(f"{row}\n" for row in parts[part]))
    return {part: len(rows) for part, rows in parts.items()}


_OFFICIAL = {"validation": "dev", "test": "test"}


def recipe_of(task: str, data: Path, encoder: Path, seeds: tuple[int, ...], out: Path) -> Recipe:
    """The recipe of a task; Trainer has the same settings."""
    config = replace(FINETUNE[task], data=task, encoder=str(encoder), seeds=seeds)
    pairs = "text_pair" if task in ("rte", "mrpc", "stsb") else None
    return Recipe(name=task, data={task: Source(path=str(data), text_pair_column=pairs)}, finetune=config, out=str(out))


def train_ours(recipe: Recipe) -> list[Path]:
    """Our fine-tuning; returns each seed's folder of the model."""
    run = bertwright.run(recipe, stages=["finetune"])
    return [run.path / "finetune" / f"seed-{seed}" / "model" for seed in recipe.finetune.seeds]


def train_theirs(recipe: Recipe, *, fast: bool) -> list[Path]:
    """The same with Trainer."""
    import parity_trainer

    config, task = recipe.finetune, recipe_task(recipe)
    source, where = recipe.source(config.data), config.data
    parts = {part: read_records(source, part, task.columns) for part in ("train", "validation")}
    names = task.label_names(parts["train"], config.label_names, where)
    training, validation = ((part, task.labels(part, names, parts["train"], where)) for part in parts.values())
    assert config.encoder is not None
    assert recipe.out is not None
    folder, models = Path(recipe.out), []
    for seed in config.seeds:
        own = replace(config, seeds=(seed,))
        out = folder / f"seed-{seed}"
        models.append(parity_trainer.train(own, Path(config.encoder), names, training, validation, out, fast=fast))
    return models


def score(recipe: Recipe, model: Path) -> dict[str, float]:
    """The metrics of a fine-tuned folder on the test rows, by our inference."""
    config, task = recipe.finetune, recipe_task(recipe)
    source, where = recipe.source(config.data), config.data
    train, test = (read_records(source, part, task.columns) for part in ("train", "test"))
    names = task.label_names(train, config.label_names, where)
    task = task.about(config.positive_label, names)
    inputs = task.encode(test, load_tokenizer(model), config.max_length, config.truncation)
    predictions = predict_saved(model, inputs, config, Engine(SystemConfig(), print))
    return task.metrics(predictions, task.labels(test, names, train, where))


def unit(recipe: Recipe, side: str) -> Json:
    """One system's fine-tunings of a task: the wall time of a seed, and each seed's metrics on the test rows."""
    assert recipe.out is not None
    fast = side == "transformers_bf16"
    if fast:  # it is there for its time
        recipe = replace(recipe, finetune=replace(recipe.finetune, seeds=recipe.finetune.seeds[:1]))
    shutil.rmtree(recipe.out, ignore_errors=True)  # what an interruption left
    if side != "ours":
        import parity_trainer  # noqa: F401 (before the clock starts, and not in our side's process)
    start = time.perf_counter()
    models = train_ours(recipe) if side == "ours" else train_theirs(recipe, fast=fast)
    seconds = (time.perf_counter() - start) / len(models)
    found = {"seconds": round(seconds, 2), "metrics": [score(recipe, model) for model in models]}
    shutil.rmtree(recipe.out)
    return found


def in_own_process(recipe: Recipe, side: str) -> Json:
    """`unit` in a fresh process, whose compiler has no cache yet."""
    with TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(unit, recipe, side).result()


def summary(task: str, lines: list[Json]) -> Json:
    """Mean scores, and how long ours takes for each second of the others.

    Args:
        task: of `METRICS`.
        lines: of all systems.
    """
    metric = METRICS[task]
    own = {side: [one[metric] for line in lines if line["side"] == side for one in line["metrics"]] for side in SIDES}
    means = {side: float(np.mean(own[side])) for side in SIDES}
    seconds = {line["side"]: line["seconds"] for line in lines}
    theirs = {side: seconds["ours"] / seconds[side] for side in SIDES[1:]}
    return {
        "metric": metric,
        **{side: round(value, 4) for side, value in means.items()},
        "difference": round(means["ours"] - means["transformers"], 4),
        "by_seed": {side: [round(value, 4) for value in own[side]] for side in SIDES},
        "seconds": {side: round(value, 1) for side, value in seconds.items()},
        "ratio_seconds": round(theirs["transformers"], 3),
        "ratio_seconds_best": round(max(theirs.values()), 3),
        "rows": lines[0]["rows"],
    }


def main(
    data: str,
    encoder: str,
    tasks: tuple[str, ...] = tuple(METRICS),
    seeds: tuple[int, ...] = (0, 1, 2),
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    work: str = "runs/finetune-parity",
    out: str = "results/speed/finetune-parity.json",
) -> None:
    """Compare whole fine-tunings with transformers.

    Args:
        data: a folder with a folder for each task.
        encoder: a BERT model folder.
        tasks: of rte, mrpc, stsb, conll2003, squad.
        seeds: of fine-tuning.
        train: the most rows to train on, drawn once; the default is all.
        validation: the most rows of the validation set.
        test: the most rows to score.
        work: a folder to work in; what it has is not done again.
        out: the JSON file; a relative path starts at the repository.
    """
    caps, folder = Caps(train, validation, test), Path(work).resolve()
    log = folder / "lines.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    environment = described()
    target = ROOT / out  # a task of an earlier call, with other caps, stays
    result: Json = read_json(target) if target.exists() else {}
    result |= {"environment": environment, "transformers_version": version("transformers")}
    for task in tasks:
        rows = write_data(Path(data), task, caps, folder / "data" / task)
        lines = []
        recipe = recipe_of(task, folder / "data" / task, Path(encoder).resolve(), seeds, folder / "now")
        key = fingerprint(to_dict(recipe.finetune), rows, to_dict(caps), environment["machine"])
        for side in SIDES:
            known = [line for line in (read_lines(log) if log.exists() else []) if line["key"] == [key, side]]
            if not known:
                known = [{"key": [key, side], "task": task, "side": side, "rows": rows}]
                known[0] |= in_own_process(recipe, side)
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(known[0]) + "\n")
            lines.append(known[0])
            print(f"{task}, {side}: {known[0]['metrics']}, {known[0]['seconds']} s a seed", flush=True)
        result[task] = {
            **summary(task, lines),
            "seeds": list(seeds),
            "caps": to_dict(caps),
            "processor": environment["machine"],
        }
        write(result, out)
    print(table({task: result[task] for task in tasks}))


def table(figures: dict[str, Json]) -> str:
    """Scores and seconds, a row per task."""
    header = ("task", "ours", *(others := ("Trainer", "Trainer, bf16")), "seconds", *others, "ratio", "to the faster")
    rows = []
    for task, found in figures.items():
        scores = (f"{found[side]:.3f}" for side in SIDES)
        seconds = (f"{found['seconds'][side]:,.0f}" for side in SIDES)
        ratios = (f"{found[key]:.2f}" for key in ("ratio_seconds", "ratio_seconds_best"))
        rows.append([task, *scores, *seconds, *ratios])
    return markdown(header, rows)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
