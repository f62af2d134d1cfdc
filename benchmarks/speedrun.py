"""The best encoder of an hour: one entry of the ledger in results/speedrun.

    python benchmarks/speedrun.py imdb-mini --books '/path/books-*.jsonl.xz' --imdb /path/imdb --tasks /path/tasks

An entry is a recipe in recipes/speedrun. `rules.yaml` there is laid over it: all entries have the same texts, known by
their hash, the same minutes of pre-training, the compiler's not counted, and the same fine-tuning. Entries in `gpu/`
are of the track of one GPU, whose own rules change the budget. The score is threefold:

- `bits_per_character` of held-out text, comparable between vocabularies (tasks/heldout.py): the same text for all
  entries, of all corpora, in sequences of `LENGTH` tokens without pairs, whatever an entry's phases read;
- `imdb_f1` on the official test split, the mean over three seeds of fine-tuning;
- `suite`, the mean over the tasks of `bertwright suite`.

Settings are chosen by the first one and by validation sets, and the test split is read once, by the entry. The folder
of the entry gets its recipe, as it was written and resolved, its log and result.json with commit and processor;
README.md of the track gets the table of all entries. `--small true` runs an entry on the bundled sample with a
budget of seconds, and writes nothing: does it still work? What is done is not done again: the same command resumes
after an interruption.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

import bertwright
from bertwright.apps.suite import suite
from bertwright.evaluate.heldout import HeldoutMetrics
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import read_json, write_json
from bertwright.models.checkpoints import load_pretraining_model
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import Recipe
from bertwright.settings import Phase
from bertwright.train.engine import Engine
from common import Json, data_hash, described, last_evaluation, markdown, read_lines, write_lines, write_table

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "speedrun"
LEDGER = ROOT / "results" / "speedrun"
LENGTH = 512
"""Tokens of a sequence of held-out text, for the score."""

SMALL: Json = {
    "pretrain": {"max_minutes": 0.1, "batch_tokens": 2048, "micro_batch_tokens": 2048},
    "finetune": {"epochs": 1, "max_length": 64, "seeds": [0]},
    "system": {"compile": "off"},
}
"""Over the rules, to try an entry out."""


def recipe_of(entry: str, **changes: Json) -> Recipe:
    """The recipe of an entry under the rules, and those of its track."""
    path = RECIPES / f"{entry}.yaml"
    rules = [RECIPES / "rules.yaml", path.with_name("rules.yaml")]
    return bertwright.load_recipe([path, *dict.fromkeys(rules)], **changes)


def small_data(folder: Path) -> Json:
    """The sample in the form of the data: books, and reviews of which half have no labels."""
    rows = read_lines(ROOT / "sample" / "reviews" / "train.jsonl")
    parts = {
        "train": rows[::2],
        "unsupervised": [{"text": row["text"]} for row in rows[1::2]],
        "test": read_lines(ROOT / "sample" / "reviews" / "test.jsonl"),
    }
    for name, own in parts.items():
        write_lines(folder / f"{name}.jsonl", own)
    return {"books": str(ROOT / "sample" / "books"), "imdb": str(folder)}


def check_data(found: str) -> None:
    """See that an entry reads the texts of all others.

    Args:
        found: the hash of its texts.

    Raises:
        SystemExit: if not.
    """
    for path in sorted(LEDGER.rglob("result.json")):
        if read_json(path)["data"] != found:
            raise SystemExit(
                f"these are not the texts of {path.parent.relative_to(LEDGER)}: their hash is {found}, and "
                f"{read_json(path)['data']} in {path}; give the same --books and --imdb"
            )


def bits_of(model: PretrainingModel, recipe: Recipe, prepare: Path) -> float:
    """Bits per character of held-out text, which is the same text for all entries.

    Args:
        model: pre-trained.
        recipe: of the entry.
        prepare: the folder of its prepare stage.
    """
    # Without pairs and without phases of their own corpora: all held-out text.
    pretrain = replace(
        recipe.pretrain,
        next_sentence=False,
        phases=(Phase(sequence_length=LENGTH),),
        batch_tokens=8 * LENGTH,  # an entry's own may not hold such sequences
        micro_batch_tokens=8 * LENGTH,
    )
    text = HeldoutMetrics.read(prepare, replace(recipe, pretrain=pretrain), Engine(recipe.system, print))
    return text.of(model.eval())["mlm_bits_per_character"]


def score(run: bertwright.Run, recipe: Recipe, tables: Json | None) -> Json:
    """The score of an entry.

    Args:
        run: whole.
        recipe: of the entry.
        tables: the suite's figures of its encoder, by task; None leaves them out.
    """
    f1 = mean_and_spread([one["f1"] for one in run.results["bert_seeds"].values()])
    last = last_evaluation(run.path / "pretrain")
    model = load_pretraining_model(run.path / "pretrain" / "model")
    return {
        "bits_per_character": bits_of(model, recipe, run.path / "prepare"),
        "imdb_f1": f1["mean"],
        "imdb_f1_sd": f1["std"],
        "suite": float(np.mean([one["mean"] for one in tables.values()])) if tables else None,
        "tasks": {task: one["mean"] for task, one in tables.items()} if tables else None,
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "environment": described(),
    }


def table(entries: dict[str, Json]) -> str:
    """The ledger, the fewest bits per character first."""
    lines = []
    for name, found in sorted(entries.items(), key=lambda item: item[1]["bits_per_character"]):
        suite_mean = "" if found["suite"] is None else f"{100 * found['suite']:.1f}"
        f1 = f"{found['imdb_f1']:.4f} ± {found['imdb_f1_sd']:.4f}"
        bits, tokens = f"{found['bits_per_character']:.3f}", f"{found['tokens'] / 1e6:.0f}"
        lines.append((f"[{name}]({name}/recipe.yaml)", bits, f1, suite_mean, tokens, found["environment"]["machine"]))
    return markdown(("entry", "bits per character", "IMDB, F1", "suite", "million tokens", "processor"), lines)


def main(
    entry: str,
    books: str = "",
    imdb: str = "",
    tasks: str | None = None,
    small: bool = False,
    work: str = "runs/speedrun",
) -> None:
    """Run an entry.

    Args:
        entry: the name of a recipe in recipes/speedrun, such as imdb-mini or gpu/medium.
        books: general text.
        imdb: labelled and unlabelled reviews.
        tasks: the folder with the data of the suite's tasks; without it the suite is left out.
        small: run it on the bundled sample, and write nothing down.
        work: a folder to work in.
    """
    name = entry.replace("/", "-")
    folder = Path(work).resolve() / f"{name}{'-small' if small else ''}"
    data = small_data(folder / "reviews") if small else {"books": books, "imdb": imdb}
    recipe = recipe_of(entry, out=str(folder / "run"), data=data, **(SMALL if small else {}))
    texts = data_hash(recipe)
    if not small:
        check_data(texts)
    run = bertwright.run(recipe)
    tables = None
    if tasks and not small:
        suite(str(run.path / "pretrain" / "model"), data=tasks, name=name, out=str(folder / "suite"))
        tables = read_json(folder / "suite" / "results.json")[name]
    found = score(run, recipe, tables)
    print(table({name: found}))
    if small:
        return
    place = LEDGER / entry
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "result.json", {**found, "data": texts})
    shutil.copy(RECIPES / f"{entry}.yaml", place)  # with the comment that says what it tries
    shutil.copy(run.path / "recipe.yaml", place / "recipe.yaml")
    shutil.copy(run.path / "pretrain" / "metrics.jsonl", place / "pretrain.jsonl")
    track = place.parent
    entries = {path.parent.name: read_json(path) for path in sorted(track.glob("*/result.json"))}
    write_table(track / "README.md", table(entries))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
