"""How many labels each system needs: BERT and the baselines, trained on 100 to all labelled reviews.

    python benchmarks/few_labels.py --imdb /path/to/imdb

The encoder is the bundled one, or one that a run has pre-trained; its corpus has the reviews of train without their
labels, unlike the paper's: anyone with unlabelled text of their own can do so. Each number of labels is drawn
several times, as many of each class, and all systems get the same draws. BERT holds up to a fifth of its labels out to
choose the checkpoint; the baselines train on all of them. The recipe's fine-tuning is used without its self-training,
which would take fifteen times three quarters of an hour, and with more epochs where there are fewer labels; some
hundreds of labels get small batches and a gentle AdamW (docs/decisions.md, Training). All are evaluated on the same
part of the official test split, drawn once. The result is written after each draw, and what it has is not done again:
the same command resumes after an interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

import bertwright
from bertwright.evaluate.comparison import SYSTEM_NAMES
from bertwright.evaluate.plots import Series, save_curves
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import digests
from bertwright.models.checkpoints import find_model, load_tokenizer
from bertwright.recipe import FinetuneConfig, OptimizerConfig, Recipe, Source, SystemConfig, fingerprint, to_dict
from bertwright.tasks.baselines import SYSTEMS
from bertwright.tasks.finetune import finetune
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.sequence import Classification
from bertwright.text.records import Record, read_records
from bertwright.train.engine import Engine
from common import described, markdown, resumed, write, write_lines

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("bert", *SYSTEMS)
FEW = 1_000
MOST_EPOCHS = 30
TASK = Classification()
GENTLE = OptimizerConfig(learning_rate=1e-4, warmup_ratio=0.1)


def budget(config: FinetuneConfig, labels: int) -> FinetuneConfig:
    """The recipe's fine-tuning without self-training, with steps enough to learn something from few labels."""
    few = labels < FEW
    batch_size, steps = (16, 200) if few else (config.batch_size, 300)
    epochs = max(config.epochs, min(MOST_EPOCHS, math.ceil(steps * batch_size / (0.8 * labels))))
    return replace(
        config,
        unlabelled=None,
        co_training=False,
        batch_size=batch_size,
        epochs=epochs,
        validation_ratio=max(config.validation_ratio, min(0.2, 500 / labels)),
        evaluations_per_epoch=1 if epochs > 2 else config.evaluations_per_epoch,
        optimizer=GENTLE if few else config.optimizer,
    )


def draw(texts: Sequence[Record], labels: np.ndarray, size: int, number: int) -> np.ndarray:
    """Indices of `size` texts, as many of each class; all of them where the size says so."""
    if size >= len(texts):
        return np.arange(len(texts))
    rng = np.random.default_rng((size, number))
    classes = np.unique(labels)
    parts = [rng.choice(np.flatnonzero(labels == c), size // len(classes), replace=False) for c in classes]
    return np.sort(np.concatenate(parts))


def bert_classifier(
    recipe: Recipe, config: FinetuneConfig, encoder: Path, chosen: Sequence[Record], folder: Path
) -> Path:
    """Fine-tune on the chosen texts, with one seed; returns the model, beside which done.json has the seconds."""
    write_lines(folder / "data" / "train.jsonl", ({"text": text.text, "label": text.label} for text in chosen))
    own = replace(recipe, data={**recipe.data, config.data: Source(path=str(folder / "data"))}, finetune=config)
    finetune(own, encoder, folder / "finetune", fingerprint(config, str(encoder)), Engine(SystemConfig(), print), print)
    return folder / "finetune" / f"seed-{config.seeds[0]}" / "model"


def probabilities(model: Path, config: FinetuneConfig, texts: Sequence[Record]) -> np.ndarray:
    """The predictions of a fine-tuned model, (texts, classes)."""
    sequences = TASK.encode(texts, load_tokenizer(model), config.max_length, config.truncation)
    return predict_saved(model, sequences, config, Engine(SystemConfig(), print))


def table(f1: dict[str, list[dict[str, float]]]) -> str:
    """F1, mean and standard deviation over the draws, a row per number of labels."""
    rows = []
    for size, draws in f1.items():
        cells = [mean_and_spread([found[name] for found in draws]) for name in COMPARED]
        rows.append([f"{int(size):,}", *(f"{c['mean']:.3f} ± {c['std']:.3f}" for c in cells)])
    return markdown(["labels", *(SYSTEM_NAMES[name] for name in COMPARED)], rows)


def main(
    imdb: str,
    encoder: str = "bundled",
    recipe: str = "recipes/imdb-mini.yaml",
    sizes: tuple[int, ...] = (100, 500, 2_500, 10_000, 25_000),
    draws: int = 3,
    test_texts: int = 5_000,
    work: str = "runs/few-labels",
    out: str = "results/few-labels/few-labels.json",
) -> None:
    """Measure and draw the learning curves.

    Args:
        imdb: labelled reviews with a train and a test split.
        encoder: a folder with a pre-trained encoder, or bundled.
        recipe: whose fine-tuning is used.
        sizes: numbers of labels.
        draws: how often each number is drawn; also the number of fine-tuning seeds.
        test_texts: how many texts of the test split all are evaluated on.
        work: a folder to work in.
        out: the JSON file; a relative path starts at the repository, and the plot goes to the same folder.
    """
    loaded = bertwright.load_recipe(ROOT / recipe)
    source = Source(path=imdb)
    training, test = (read_records(source, split, TASK.columns) for split in ("train", "test"))
    names = TASK.label_names(training, loaded.finetune.label_names, imdb)
    labels = TASK.labels(training, names, training, imdb)
    test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:test_texts]]
    truth = TASK.labels(test, names, training, imdb)
    target = ROOT / out
    start_from = find_model(encoder, "encoder")
    budgets = {size: budget(loaded.finetune, size) for size in sizes}
    settings = {
        "encoder": encoder,
        "weights": digests([start_from / "model.safetensors"]),
        "finetune": {str(size): to_dict(config) for size, config in budgets.items()},
        "test_texts": len(test),
    }
    earlier = resumed(target, settings, {})
    settings, f1 = earlier["settings"], earlier.get("f1", {})
    folder = Path(work) / fingerprint(settings)
    for size in sizes:
        done = f1.setdefault(str(size), [])
        for number in range(len(done), draws):
            start = time.monotonic()
            rows = draw(training, labels, size, number)
            chosen = [training[i] for i in rows]
            found = dict(TASK.baselines(chosen, labels[rows], test, lambda _: None))
            config = replace(budgets[size], seeds=(number,))
            model = bert_classifier(loaded, config, start_from, chosen, folder / f"{size}-{number}")
            found["bert"] = probabilities(model, config, test)
            done.append({system: TASK.metrics(value, truth)["f1"] for system, value in found.items()})
            write({"settings": settings, "f1": f1, "environment": described()}, out)
            print(f"{size} labels, draw {number}: {done[-1]} ({time.monotonic() - start:.0f} s)", flush=True)
    print(table(f1))
    save_curves(
        target.parent,
        "few-labels",
        [
            Series(
                np.array([float(size) for size in f1]),
                np.array([np.mean([found[name] for found in done]) for done in f1.values()]),
                SYSTEM_NAMES[name],
                "points",
                color,
            )
            for color, name in enumerate(COMPARED)
        ],
        x_label="labelled reviews",
        y_label="F1 on test reviews, mean over draws",
        x_log=True,
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
