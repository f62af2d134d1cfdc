"""What else could make a short pre-training better: one lever at a time on imdb-mini's, at equal time.

    texts=(--books '/path/books-0[0-2].jsonl.xz' --imdb /path/imdb)
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/levers.py "${texts[@]}" --seeds '[0]' &
    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/levers.py "${texts[@]}" --seeds '[1]' &

A row is the pre-training of `recipes/imdb-mini.yaml` with one change. Some are settings of a recipe; the others stand
in lever_variants.py, since the package has no option that no recipe uses. Each row has the same minutes of pre-training
on one core, after its kernels have been compiled, then one plain epoch of fine-tuning, and is evaluated on the
validation set, a fifth of train: the test split is not used. `compile_seconds` of a row are those of its run after
that: most of them fall into its first step, which the minutes do not count.
The loss on masked tokens is that of held-out text; a row whose objective or whose held-out sequences are others has
none to compare.

`LEVERS` describes each. All rows read one prepared corpus; those whose network has all parts of the first one's begin
with the same weights in them. The result is written after each row, and what it has is not done again: the same command
resumes after an interruption, or after a row that has failed. `results/ablation-2/README.md` shows the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from jsonargparse import auto_cli

import bertwright
from bertwright.evaluate.significance import mean_and_spread
from bertwright.recipe import ModelConfig, Recipe, TokenizerConfig
from bertwright.recipe_file import change_recipe
from bertwright.train import optim
from common import (
    Json,
    begin_with,
    described,
    differences,
    kept_evaluation,
    last_evaluation,
    markdown,
    measure_rows,
    prepare_once,
    register,
    settings_of,
)
from continued import CAUSAL_RATIO, copy_of
from lever_variants import VARIANTS, NorMuon, error_weighted_masks, replaced_tokens, zero_outputs

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "ablation-2"
REVIEWS = "imdb:train+unsupervised"


def phases(*parts: tuple[float, Json]) -> list[Json]:
    """Phases of 512 tokens: the first one of all texts with pairs, the others of reviews."""
    first, *others = parts
    pairs = {"sequence_length": 512, "budget_ratio": first[0], **first[1]}
    reviews = {"sequence_length": 512, "corpora": [REVIEWS], "next_sentence": False}
    return [pairs, *({**reviews, "budget_ratio": ratio, **own} for ratio, own in others)]


@dataclass(frozen=True)
class Lever:
    """A change of imdb-mini's pre-training.

    Args:
        changes: of the recipe.
        patched: a block in which the package is changed.
        causal_first: whether next tokens are predicted from the left for the first third of the time.
        comparable: whether its loss is of the same held-out sequences and objective as the first row's: without pairs
            held-out text has none either.
    """

    changes: Json = field(default_factory=dict)
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext
    causal_first: bool = False
    comparable: bool = True


LEVERS: dict[str, Lever] = {
    "imdb-mini": Lever(),
    "masks from 30 to 15 %": Lever(
        {"pretrain": {"phases": phases((0.1, {}), (0.45, {}), (0.45, {"masking_rate": 0.15}))}}
    ),
    "error-weighted masks": Lever(patched=error_weighted_masks),
    "next tokens for the first third": Lever(causal_first=True),
    "no pairs": Lever({"pretrain": {"next_sentence": False}}, comparable=False),
    "no pairs, ModernBERT's shape": Lever(
        {
            # The mean of all tokens, as all ModernBERTs of recipes/models: [CLS] sees few tokens in a local layer.
            "model": {
                "architecture": "modernbert",
                "intermediate_size": 680,
                "max_position_embeddings": 512,
                "classifier_pooling": "mean",
            },
            "pretrain": {"next_sentence": False, "initialization": "paper"},
        },
        comparable=False,
    ),
    "zero-initialised outputs": Lever(patched=zero_outputs),
    "value residuals": Lever({"model": {"architecture": "bert-value-residuals"}}),
    "normalised queries and keys": Lever({"model": {"architecture": "bert-normed"}}),
    "NorMuon": Lever(patched=lambda: patch.object(optim, "Muon", NorMuon)),
    "half the batch at first": Lever(
        {"pretrain": {"phases": phases((0.1, {"batch_tokens": 9216}), (0.4, {"batch_tokens": 9216}), (0.5, {}))}}
    ),
    "replaced-token detection": Lever(patched=replaced_tokens, comparable=False),
}
"""The rows, by name; the first one is what the others are compared with."""


def recipe_of(lever: Lever, data: Json, minutes: float, seed: int, out: Path) -> Recipe:
    """The recipe of a row, with plain fine-tuning."""
    base = bertwright.load_recipe(
        ROOT / "recipes" / "imdb-mini.yaml",
        data=data,
        seed=seed,
        out=str(out),
        pretrain={"max_minutes": minutes},
        system={"compile": "on"},
        finetune={
            "unlabelled": None,
            "co_training": False,
            "averaging_block": False,
            "epochs": 1,
            "max_length": 128,
            "truncation": "head-tail",
            "validation_ratio": 0.2,
            "evaluations_per_epoch": 1,
            "seeds": [seed],
        },
    )
    return change_recipe(base, **lever.changes)


def pretrained(recipe: Recipe, lever: Lever, corpus: Path) -> tuple[Recipe, Json]:
    """Pre-train a row; returns the recipe whose run folder holds the encoder, and tokens and seconds of all of it."""
    begin_with(corpus, Path(recipe.out or ""))
    place = Path(recipe.out or "") / "pretrain"
    if not lever.causal_first:
        bertwright.run(recipe, stages=["prepare", "pretrain"])
        return recipe, spent(place)
    left = change_recipe(recipe, model={"is_decoder": True}, pretrain={"next_sentence": False, **part(recipe, True)})
    bertwright.run(left, stages=["prepare", "pretrain"])
    before = spent(place)
    start = copy_of(place / "model", False, Path(f"{recipe.out}-start"))
    # Words, shape and weights are now those of the first part; another seed reads the texts in another order.
    own = replace(
        recipe,
        model=ModelConfig(),
        tokenizer=TokenizerConfig(html_line_breaks=recipe.tokenizer.html_line_breaks),
        pretrain=replace(
            recipe.pretrain,
            initialization="paper",
            embedding_initialization="paper",
            encoder=start,
            **part(recipe, False),
        ),
        seed=recipe.seed + 1_000,
    )
    bertwright.run(own, stages=["prepare", "pretrain"])
    return own, {name: value + before[name] for name, value in spent(place).items()}


def part(recipe: Recipe, is_first: bool) -> Json:
    """The budget of the causal part or of the rest, in minutes or in steps as the whole one."""
    ratio = CAUSAL_RATIO if is_first else 1 - CAUSAL_RATIO
    if recipe.pretrain.max_minutes is not None:
        return {"max_minutes": recipe.pretrain.max_minutes * ratio}
    return {"max_steps": max(1, round((recipe.pretrain.max_steps or 0) * ratio))}


def spent(pretrain: Path) -> Json:
    """Tokens and seconds of a finished pretrain stage."""
    last = last_evaluation(pretrain)
    return {"tokens": last["tokens"], "seconds": last["seconds"]}


@contextmanager
def compiled_once() -> Iterator[None]:
    """What is compiled in the block stays: each run of the package would drop what the one before it has compiled.

    That is how it forgets other networks, since the compiler gives up on a function after eight compilations. Here a
    row has two networks at most, and more compilations are allowed; beyond them it fails, where it would otherwise
    train uncompiled.
    """
    torch.compiler.reset()
    with (
        patch.object(torch.compiler, "reset", lambda: None),
        torch._dynamo.config.patch(recompile_limit=32, fail_on_recompile_limit_hit=True),
    ):
        yield


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling."""
    return torch._dynamo.utils.calculate_time_spent()["total_wall_time"]


def measure(recipe: Recipe, lever: Lever, corpus: Path) -> Json:
    """Run a row; returns its figures on held-out text and on the validation set."""
    place = Path(recipe.out or "")
    warm = change_recipe(recipe, out=f"{place}-warm", pretrain={"max_minutes": None, "max_steps": 20})
    with lever.patched(), compiled_once():
        # A few steps of each phase first, so that no row's minutes hold the compiler's.
        pretrained(warm, lever, corpus)
        before = compile_seconds()
        done, cost = pretrained(recipe, lever, corpus)
        cost["compile_seconds"] = round(compile_seconds() - before, 1)
    bertwright.run(done, stages=["finetune"])
    chosen = kept_evaluation(place / "finetune" / f"seed-{recipe.finetune.seeds[0]}")
    heldout = last_evaluation(place / "pretrain")["heldout"]
    for kind in ("", "-start", "-warm", "-warm-start"):  # by name: run-1* would be run-10's, too
        shutil.rmtree(f"{place}{kind}", ignore_errors=True)
    return {
        **heldout,
        **cost,
        "validation_accuracy": chosen["accuracy"],
        "validation_loss": chosen["loss"],
        "environment": described(),
    }


def table(rows: dict[str, list[Json]]) -> str:
    """A line per row."""
    base = rows.get("imdb-mini", [])
    lines = []
    for name, runs in rows.items():
        accuracy = mean_and_spread([one["validation_accuracy"] for one in runs])
        spread = f" ± {accuracy['std']:.4f}" if len(runs) > 1 else ""
        comparable = name in LEVERS and LEVERS[name].comparable
        lines.append(
            (
                name,
                f"{np.mean([one['mlm_loss'] for one in runs]):.3f}" if comparable else "–",
                f"{accuracy['mean']:.4f}{spread}",
                "" if name == "imdb-mini" else differences(runs, base, "validation_accuracy", 4),
                f"{np.mean([one['tokens'] for one in runs]) / 1e6:.1f}",
            )
        )
    header = ("pre-training", "masked-token loss", "validation accuracy", "differs by", "tokens, millions")
    return markdown(header, lines)


def main(
    books: str,
    imdb: str,
    minutes: float = 10,
    seeds: Sequence[int] = (0, 1),
    rows: Sequence[str] = tuple(LEVERS),
    work: str = "runs/levers",
    out: str = str(OUT),
) -> None:
    """Measure all rows and print the table.

    Args:
        books: general text.
        imdb: labelled and unlabelled reviews.
        minutes: of pre-training.
        seeds: of the weights, the masks, the order of the texts and the fine-tuning; odd ones take the rows backwards.
        rows: to measure.
        work: a folder to work in.
        out: a folder for results.json, whose README.md receives the table.
    """
    register(VARIANTS)
    place, data = Path(work).resolve(), {"books": books, "imdb": imdb}
    corpus = place / "corpus"
    base = recipe_of(LEVERS["imdb-mini"], data, minutes, 0, corpus)
    prepare_once(base, corpus)

    def measured(name: str, seed: int) -> Json:
        lever = LEVERS[name]
        return measure(recipe_of(lever, data, minutes, seed, place / f"run-{seed}"), lever, corpus)

    measure_rows(Path(out), settings_of(base), list(LEVERS), rows, seeds, measured, table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
