"""A run: the stages of a recipe in order, by the command line or from Python; what is done and unchanged is skipped."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertwright.errors import UserError
from bertwright.files import read_json, user_path
from bertwright.recipe import Recipe
from bertwright.recipe_file import change_recipe, load_recipe
from bertwright.run_folder import RunFolder
from bertwright.stages import STAGES, Work
from bertwright.tasks.initial import unseen_positions
from bertwright.tasks.self_training import check_unlabelled
from bertwright.train.engine import Engine


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        path: the run folder; `bertwright.load(run.path)` opens its models.
        results: the content of results.json; empty before the report stage.
    """

    path: Path
    results: dict[str, Any]


def say(text: str) -> None:
    """Print a sentence about the work with the time, above any progress bar."""
    tqdm.write(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr)


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
    folder = RunFolder(user_path(recipe.out or f"runs/{recipe.name}"))
    engine = Engine(recipe.system, early.append, folder.path)

    def notice(text: str) -> None:
        if engine.is_main:
            say(text)

    for text in early:
        notice(text)
    work = Work(recipe, folder, engine, notice)
    chosen = list(work.stages if stages is None else stages)
    with ExitStack() as held:
        with engine.together():
            if engine.is_main:
                held.enter_context(folder.locked())
                _check(work, chosen)
        for stage in chosen:
            with engine.together():  # on several processes, the others wait while the first prepares or evaluates
                if engine.is_main or STAGES[stage].on_all:
                    work.perform(stage)
    path = folder.path / "results.json"
    return Run(folder.path, read_json(path) if path.exists() else {})


def _check(work: Work, stages: list[str]) -> None:
    """Look at everything that can be seen before the first stage: a mistake changes nothing, and is said at once."""
    for stage in stages or [""]:
        if stage not in STAGES:
            raise UserError(f"there is no stage {stage or 'to do'}; the stages are: {', '.join(STAGES)}")
    work.check(stages[0])
    if not {"finetune", "baselines"}.isdisjoint(stages):
        _ = work.labelled  # read hours before they are needed: a fault in the labels is said now
    if "finetune" in stages:
        check_unlabelled(work.recipe)
    if not {"pretrain", "finetune"}.isdisjoint(stages) and (unseen := unseen_positions(work.recipe)) is not None:
        work.notice(unseen)
    for stage in stages:
        work.fingerprint(stage)  # looks for its sources
    work.check_training(stages)
