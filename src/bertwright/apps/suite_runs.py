"""One encoder fine-tuned on the tasks of a suite, run by run, and the page of all encoders so far."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bertwright import shipped
from bertwright.apps.minimal_pairs import evaluate_minimal_pairs
from bertwright.errors import UserError
from bertwright.evaluate.suite import read_suite, table, write_suite
from bertwright.files import CARD, atomic_path, given_files, read_json, user_path, write_json
from bertwright.models.checkpoints import (
    find_model,
    load_tokenizer,
    model_config,
    new_encoder,
    read_config,
    save_model,
)
from bertwright.models.heads import PretrainingModel
from bertwright.models.stored import WEIGHTS
from bertwright.pipeline import run
from bertwright.recipe import Recipe, Source
from bertwright.recipe_file import change_recipe, load_recipe
from bertwright.text.sources import locate

MINIMAL_PAIRS = "minimal-pairs"
"""The item that fine-tunes nothing: acceptable sentences against others that differ in a word or two."""

_DATA = "data/"
"""Where the recipes of the suite say that their data are."""

_GENERIC = {"model", "encoder", "pretrain", "checkpoint"}
"""Names of folders that say nothing of an encoder."""


def run_suite(encoder: str, tasks: str | None, data: str, name: str | None, out: str, recipes: str | None) -> None:
    """Fine-tune an encoder on the tasks and write the page; the arguments are those of `apps.suite.suite`.

    Raises:
        UserError: if there is no such encoder or task, no task has data, or some task cannot be run.
    """
    _check_name(name)
    known = _recipes(recipes)
    chosen = [one.strip() for one in tasks.split(",") if one.strip()] if tasks is not None else None
    for one in chosen or ():
        if one not in known and one != MINIMAL_PAIRS:
            raise UserError(f"there is no task {one}; the suite has: {', '.join([*known, MINIMAL_PAIRS])}")
    folder = user_path(out)
    called = name or _name_of(encoder)
    found = folder / called / "encoder" if encoder == "random" else find_model(encoder, "encoder").resolve()
    if encoder == "random":
        make_random_encoder(found)
    read_config(found)  # says in a sentence if it is no model
    not_run: dict[str, str] = {}
    ready = {}
    for task, path in known.items():
        if chosen is None or task in chosen:
            recipe = _recipe(path, found, user_path(data), folder / called / task)
            missing = _missing(recipe)
            if missing is None:
                ready[task] = recipe
            else:
                not_run[task] = missing
    pairs = user_path(data) / "blimp"
    wants_pairs = MINIMAL_PAIRS in chosen if chosen is not None else pairs.is_dir()
    if not ready and not wants_pairs:
        raise UserError(
            f"no task of the suite has its data in {data}: {'; '.join(not_run.values())}; put them there, or name "
            "their folder with --data FOLDER"
        )
    _check_same(folder / called, found)
    for number, (task, recipe) in enumerate(ready.items(), start=1):
        print(f"{called}: {task}, {number} of {len(ready)}", file=sys.stderr, flush=True)
        try:
            run(recipe)
        except UserError as error:
            not_run[task] = str(error)
    if wants_pairs:
        try:
            write_json(folder / called / "minimal_pairs.json", evaluate_minimal_pairs(found, pairs))
        except UserError as error:
            not_run[MINIMAL_PAIRS] = str(error)
    earlier = {task: why for task, why in _noted(folder / called).items() if task not in {*ready, MINIMAL_PAIRS}}
    write_json(folder / called / "not_run.json", earlier | not_run)
    whole = read_suite(folder)
    page = write_suite(whole, folder)
    print(table(whole))
    print(f"\nin percent, mean and standard deviation over seeds; the page: {page}")
    failed = {task: why for task, why in not_run.items() if task in ready or task in (chosen or ())}
    if failed:
        raise UserError("not run: " + "; ".join(f"{task}: {why}" for task, why in failed.items()))


def _recipes(folder: str | None) -> dict[str, Path]:
    """The recipes of a suite by name.

    Raises:
        UserError: if the folder has none.
    """
    if folder is None:
        return shipped.suite()
    found = {path.stem: path for path in sorted(user_path(folder).glob("*.yaml"))}
    if not found:
        raise UserError(f"{folder} has no recipes (.yaml); give a folder with one for each task")
    return found


def _recipe(path: Path, encoder: Path, data: Path, out: Path) -> Recipe:
    """A task's recipe for an encoder, with its data in the folder that the user named."""
    recipe = load_recipe(path)
    sources: dict[str, Any] = {}
    for name, source in recipe.data.items():
        given = source if isinstance(source, str) else source.path
        if given.startswith(_DATA):
            place = data / given.removeprefix(_DATA)
            sources[name] = {"path": str(place) if place.is_absolute() else f"./{place}"}  # never data/cola of the hub
    return change_recipe(recipe, data=sources, finetune={"encoder": str(encoder)}, out=str(out))


def _missing(recipe: Recipe) -> str | None:
    """Why a task cannot be run for want of data; None if it can."""
    source: Source = recipe.source(recipe.finetune.data)
    try:
        locate(source)
    except UserError as error:
        return str(error)
    return None


def _check_name(name: str | None) -> None:
    """See that a name is that of one folder: a page shows OUT/NAME/TASK, and nothing that lies deeper or elsewhere.

    Raises:
        UserError: if it is not, with a name that is.
    """
    parts = [part for part in re.split(r"[/\\]", name or "") if part.strip(". ")]
    if name and [name] != parts:
        plain = shlex.quote("-".join(parts) or "mine")
        raise UserError(
            f"--name is {name}, and a name is that of a folder in --out; give a single word, such as --name {plain}"
        )


def _name_of(encoder: str) -> str:
    """What an encoder is called in tables: the last part of its path that says something."""
    parts = [part for part in Path(encoder).resolve().parts if part not in _GENERIC]
    return encoder if encoder in ("random", "bundled") else parts[-1]


def make_random_encoder(folder: Path) -> None:
    """Write an encoder of the bundled one's shape and vocabulary with random weights, once; the seed is 0."""
    if (folder / WEIGHTS).is_file():
        return
    like = find_model("bundled", "encoder")
    config, tokenizer = model_config(read_config(like)), load_tokenizer(like)
    torch.manual_seed(0)
    model = PretrainingModel(new_encoder(config, tokenizer.vocab_size, tokenizer.pad_id))
    with atomic_path(folder) as temporary:
        save_model(model, tokenizer, temporary, config.max_position_embeddings)


def _check_same(folder: Path, encoder: Path) -> None:
    """See that a name stands for one encoder, wherever its folder lies, so that no table mixes two.

    Raises:
        UserError: if it stands for another encoder already.
    """
    path, files = folder / "encoder.json", given_files(encoder)
    earlier = read_json(path).get("files") or [] if path.is_file() else files
    if [file for file in earlier if file[0] != CARD] != files:  # which earlier versions counted
        raise UserError(
            f"{folder.name} is the name of {read_json(path)['folder']} in {folder.parent}; give this encoder another "
            "with --name NAME"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"folder": str(encoder), "files": files})


def _noted(folder: Path) -> Mapping[str, str]:
    path = folder / "not_run.json"
    found: Mapping[str, str] = read_json(path) if path.is_file() else {}
    return found
