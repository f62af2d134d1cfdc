"""A run: the stages of a recipe in order, by the command line or from Python; what is done and unchanged is skipped."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertwright.files import read_json, write_json
from bertwright.recipe import Recipe
from bertwright.recipe_file import change_recipe, load_recipe
from bertwright.run_folder import RunFolder
from bertwright.stages import STAGES, Work
from bertwright.train.engine import Engine, environment


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        path: the run folder; `bertwright.load(run.path)` opens its models.
        results: the content of results.json; empty before the report stage.
    """

    path: Path
    results: dict[str, Any]


def run(recipe: Recipe | str | Path, *, stages: Sequence[str] | None = None, **overrides: Any) -> Run:
    """Do a recipe's stages, from raw text to report; what is done and unchanged is skipped.

    Args:
        recipe: a recipe, or the YAML file of one.
        stages: those to do, such as ["prepare", "pretrain"]; the default is all of the recipe.
        overrides: settings that replace the recipe's, as for `load_recipe`: `out="runs/x"`,
            `pretrain={"max_steps": 100}`.

    Returns:
        The run folder and its results.

    Raises:
        UserError: if something in the recipe, the data or the folder cannot be used.
    """
    if isinstance(recipe, Recipe):
        recipe = change_recipe(recipe, **overrides) if overrides else recipe
    else:
        recipe = load_recipe(recipe, **overrides)
    early: list[str] = []
    engine = Engine(recipe.system, early.append)

    def notice(text: str) -> None:
        if engine.is_main:
            tqdm.write(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr)

    for text in early:
        notice(text)
    folder = RunFolder(Path(recipe.out or f"runs/{recipe.name}"))
    work = Work(recipe, folder, engine, notice)
    chosen = list(work.stages if stages is None else stages)
    if engine.is_main:
        _lead(work, chosen)
    else:
        _follow(work, chosen)
    path = folder.path / "results.json"
    return Run(folder.path, read_json(path) if path.exists() else {})


def _lead(work: Work, stages: list[str]) -> None:
    """The main process: it looks at everything first, and does all stages."""
    with work.folder.locked():
        work.check(stages[0])
        if not {"finetune", "baselines"}.isdisjoint(stages):
            work.labelled()  # hours before they are needed: a fault in the labels is said now
        if "finetune" in stages:
            work.check_unlabelled()
        # Only now: a refused command must not leave a recipe that was never run beside an earlier result.
        work.folder.write_recipe(work.recipe)
        if any(stage not in ("evaluate", "report") and not work.is_done(stage) for stage in stages):
            write_json(work.folder.path / "environment.json", environment(work.engine))  # where the models come from
        for stage in stages:
            work.perform(stage)
            work.engine.barrier()


def _follow(work: Work, stages: list[str]) -> None:
    """The other processes of a distributed run: they train, and wait while the first does the rest."""
    for stage in stages:
        if STAGES[stage].on_all:
            work.perform(stage)
        work.engine.barrier()
