"""What each change on the way from the paper's recipe to imdb-mini adds.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/ablation.py --books '/path/books-*.jsonl.xz' --imdb /path/imdb

A row is `recipes/bert-mini-original.yaml` with the changes of `recipes/ablation/` up to it; two more leave out
pre-training and next-sentence prediction. Each gets the budget of `recipes/ablation/short.yaml`, twelve minutes of
pre-training on one core and one pass of fine-tuning, and is judged on the validation part of train, for each seed: the
test split is not read. The last changes, self-training and co-training, take longer than all else in such a row and are
left out here: every run of imdb-mini shows what both add, since the teacher is what the run would end with without
them, and `benchmarks/co_training.py` parts one from the other. To run a row by hand:

    bertwright finetune recipes/bert-mini-original.yaml --recipe recipes/ablation/1-an-hour.yaml ...

Rows share a run folder, so that the corpus is prepared only when a row changes it. The result is written after each
row, and a row that it has with the same recipe is not done again: the same command goes on after a stop.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from bertwright.cli import load_recipe, main
from bertwright.recipe import to_dict
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import read_json
from common import Json, described, kept_evaluation, last_evaluation, write

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
CHANGES = (
    "1-an-hour",
    "2-reviews",
    "3-whole-reviews",
    "4-two-layers",
    "5-masks",
    "6-local",
    "7-counted",
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
    "+ local first weights": CHANGES[:6],
    "+ counted first embeddings": CHANGES[:7],
    "+ Muon": CHANGES[:8],
    "+ averaging block": CHANGES[:9],
    "all of these without next sentences": (*CHANGES, "without-next-sentence"),
    "all of these without pre-training": (*CHANGES, "without-pretraining"),
}


def words(changes: Sequence[str], books: str, imdb: str, work: Path) -> list[str]:
    """The recipe and options of a row, as on the command line."""
    numbered = [change for change in changes if change in CHANGES]
    extra = [change for change in changes if change not in CHANGES]
    files = [RECIPES / "ablation" / f"{change}.yaml" for change in (*numbered, "short", *extra)]
    recipes = [word for path in files for word in ("--recipe", str(path))]
    return [*recipes, "--data.books", books, "--data.imdb", imdb, "--out", str(work)]


def measure(base: str, options: Sequence[str], work: Path, seeds: Sequence[int]) -> Json:
    """Run a row; returns its figures."""
    for stage in ("prepare", "pretrain", "finetune"):
        if main([stage, base, *options]) != 0:
            raise SystemExit(1)
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
    lines = ["| recipe | validation accuracy | MLM loss | NSP accuracy | tokens, millions |", "|---" * 5 + "|"]
    for name, row in rows.items():
        accuracy, heldout = mean_and_spread(row["validation_accuracy"]), row["heldout"]
        spread = f" ± {accuracy['std']:.4f}" if accuracy["n"] > 1 else ""
        pairs = f"{heldout['nsp_accuracy']:.1%}" if "nsp_accuracy" in heldout else ""
        lines.append(
            f"| {name} | {accuracy['mean']:.4f}{spread} | {heldout['mlm_loss']:.3f} | {pairs} | "
            f"{row['pretrain_tokens'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


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
    base = str(RECIPES / "bert-mini-original.yaml")
    for name, changes in ROWS.items():
        options = [*words(changes, books, imdb, Path(work)), "--finetune.seeds", str(list(seeds))]
        recipe = to_dict(load_recipe(base, *options))
        if done.get(name, {}).get("recipe") != recipe:
            start = time.monotonic()
            done[name] = {**measure(base, options, Path(work), seeds), "recipe": recipe}
            write({"rows": done}, out)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    print(table({name: done[name] for name in ROWS}))


if __name__ == "__main__":
    auto_cli(ablation, as_positional=False)
