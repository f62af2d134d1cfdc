"""What each change on the way from the paper's recipe to imdb-mini adds.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/ablation.py --books '/path/books-*.jsonl.xz' --imdb /path/imdb

A row is `recipes/bert-mini-original.yaml` with the changes of `recipes/ablation/` up to it; two more leave out
pre-training and next-sentence prediction. Each gets the budget of `recipes/ablation/short.yaml`, twelve minutes of
pre-training on one core and one epoch of fine-tuning, and is evaluated on the validation set, for each seed: the test
split is not used. The last changes, self-training and co-training, take longer than all else in such a row and are
left out here: every run of imdb-mini shows what both add, since the teacher is what the run would end with without
them, and `benchmarks/co_training.py` parts one from the other. To run a row by hand:

    bertwright finetune recipes/bert-mini-original.yaml --recipe recipes/ablation/1-an-hour.yaml ...

Rows share a run folder, so that the corpus is prepared only when a row changes it. The result is written after each
row, and a row that it has with the same recipe is not done again: the same command resumes after an interruption.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

import bertwright
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import read_json
from bertwright.recipe import Recipe, to_dict
from common import Json, described, kept_evaluation, last_evaluation, markdown, write

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
CHANGES = (
    "1-an-hour",
    "2-reviews",
    "3-whole-reviews",
    "4-two-layers",
    "5-masks",
    "6-local",
    "7-pmi",
    "8-muon",
    "9-averaging",
)
ROWS: dict[str, tuple[str, ...]] = {
    "the paper's recipe": (),
    "+ smaller batches, higher rates": CHANGES[:1],
    "+ reviews, read last": CHANGES[:2],
    "+ whole reviews, most of the way without pairs": CHANGES[:3],
    "+ two layers": CHANGES[:4],
    "+ 30 % masks, no dropout": CHANGES[:5],
    "+ local attention initialization": CHANGES[:6],
    "+ PMI embeddings": CHANGES[:7],
    "+ Muon": CHANGES[:8],
    "+ averaging block": CHANGES[:9],
    "all of these without next sentences": (*CHANGES, "without-next-sentence"),
    "all of these without pre-training": (*CHANGES, "without-pretraining"),
}


EARLIER = {
    "+ local first weights": "+ local attention initialization",
    "+ counted first embeddings": "+ PMI embeddings",
}
"""Rows that a result of version 0.1 has under another name."""


def recipe_of_row(changes: Sequence[str], books: str, imdb: str, **overrides: Any) -> Recipe:
    """The recipe of a row: the paper's, with the changes and the budget of the study."""
    numbered = [change for change in changes if change in CHANGES]
    extra = [change for change in changes if change not in CHANGES]
    files = [RECIPES / "ablation" / f"{change}.yaml" for change in (*numbered, "short", *extra)]
    base = RECIPES / "bert-mini-original.yaml"
    return bertwright.load_recipe([base, *files], data={"books": books, "imdb": imdb}, **overrides)


def measure(recipe: Recipe, work: Path, seeds: Sequence[int]) -> Json:
    """Run a row; returns its metrics."""
    bertwright.run(recipe, stages=["prepare", "pretrain", "finetune"])
    last = last_evaluation(work / "pretrain")
    chosen = [kept_evaluation(work / "finetune" / f"seed-{seed}") for seed in seeds]
    return {
        "validation_accuracy": [seed["accuracy"] for seed in chosen],
        "validation_loss": [seed["loss"] for seed in chosen],
        "pretrain_tokens": last["tokens"],
        "pretrain_seconds": last["seconds"],
        "finetune_seconds": [read_json(work / "finetune" / f"seed-{s}" / "done.json")["seconds"] for s in seeds],
        "heldout": last["heldout"],
        "environment": described(),
    }


def table(rows: dict[str, Json]) -> str:
    """A line per row."""
    lines = []
    for name, row in rows.items():
        accuracy, heldout = mean_and_spread(row["validation_accuracy"]), row["heldout"]
        spread = f" ± {accuracy['std']:.4f}" if accuracy["n"] > 1 else ""
        pairs = f"{heldout['nsp_accuracy']:.1%}" if "nsp_accuracy" in heldout else ""
        tokens = f"{row['pretrain_tokens'] / 1e6:.1f}"
        loss = f"{heldout['mlm_loss']:.3f}"
        lines.append((EARLIER.get(name, name), f"{accuracy['mean']:.4f}{spread}", loss, pairs, tokens))
    return markdown(("recipe", "validation accuracy", "MLM loss", "NSP accuracy", "tokens, millions"), lines)


def ablation(
    books: str,
    imdb: str,
    seeds: tuple[int, ...] = (0,),
    work: str = "runs/ablation",
    out: str = "results/ablation/ablation.json",
) -> None:
    """Run all rows and print the table.

    Args:
        books: general text.
        imdb: labelled and unlabelled reviews.
        seeds: of fine-tuning.
        work: the run folder.
        out: the JSON file; a relative path starts at the repository.
    """
    target = ROOT / out
    done: dict[str, Json] = read_json(target)["rows"] if target.exists() else {}
    for name, changes in ROWS.items():
        recipe = recipe_of_row(changes, books, imdb, out=work, finetune={"seeds": seeds})
        if done.get(name, {}).get("recipe") != to_dict(recipe):
            start = time.monotonic()
            done[name] = {**measure(recipe, Path(work), seeds), "recipe": to_dict(recipe)}
            write({"rows": done}, out)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    print(table({name: done[name] for name in ROWS}))


if __name__ == "__main__":
    auto_cli(ablation, as_positional=False)
