"""`bertwright sweep`: search settings of fine-tuning on the validation set, then run the best ones.

A trial is what a run would do with one seed. Trials are compared as checkpoints of a run are, on the validation set by
finetune.metric_for_best_model: by the loss unless the recipe says otherwise, since metrics are coarse on few texts, and
F1 can be high for a constant answer. Optuna chooses the values of each trial and ends poor ones early. No trial reads
the test split; the final run does, as every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from bertwright.apps.sweep_plot import described_importances, importances, save_sweep
from bertwright.apps.sweep_recipe import write_best
from bertwright.apps.sweep_space import Space, check_encoder_fits, described, own_values, search_space
from bertwright.apps.sweep_trials import Search, Trial, best_of, shown
from bertwright.errors import UserError
from bertwright.evaluate.comparison import metric_name
from bertwright.files import user_path
from bertwright.pipeline import Run, run, say
from bertwright.recipe import Recipe, decisive, fingerprint
from bertwright.recipe_file import load_recipe
from bertwright.run_folder import RunFolder
from bertwright.stages import Work
from bertwright.tasks.finetune import encoder_digests
from bertwright.tasks.registry import recipe_task, task_of_labels
from bertwright.tasks.validation_set import cut_validation
from bertwright.text.corpus import parts_read
from bertwright.text.overlap import content_digest, evaluated_splits
from bertwright.text.records import account, read_split
from bertwright.train.engine import Engine


def sweep(recipe: Recipe, minutes: float, trials: int | None = None) -> Run:
    """Search settings of fine-tuning, write the best as a recipe and a plot of what mattered, and run that recipe.

    The same call continues a sweep that was interrupted, or had fewer minutes.

    Args:
        recipe: the whole recipe; its `sweep` says what is searched.
        minutes: of trials; a pre-training before them and the final run come on top.
        trials: the most trials; the default is as many as the minutes allow.

    Returns:
        The final run. Beside its results stand sweep/best.yaml, sweep/trials.json and sweep/sweep.png.

    Raises:
        UserError: if something in the recipe, the data or the folder cannot be used, or no trial reached its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check(recipe, minutes, trials)
    engine = Engine(recipe.system, say)
    if engine.world > 1:
        raise UserError("a sweep works in one process; start it as bertwright sweep, without a launcher")
    data = _read_training_data(recipe)
    space = search_space(recipe, data.rows)
    if recipe.finetune.encoder is None:
        run(recipe, stages=["prepare", "pretrain"])
    folder = RunFolder(user_path(recipe.out or f"runs/{recipe.name}"))
    with folder.locked():
        encoder = Work(recipe, folder, engine, say).encoder
        check_encoder_fits(recipe, space, encoder)
        own = _fingerprint(recipe, space, encoder, data.digest)
        search = Search(recipe, space, encoder, folder.path / "sweep", own, data.metric, engine)
        ended = search.trials(minutes * 60, trials)
        best, found = _best(recipe, ended), _found(search, ended)
        mattered = importances(search.study(ended), space)
        path = write_best(recipe, best.values, found, search.folder)
        plot = save_sweep(search.study(ended), mattered, space, metric_name(search.chosen_by), search.folder)
        say(f"{found}: {described(best.values)}")
        say(described_importances(mattered))
        say(f"the best recipe: {path}; the trials as a picture: {plot}")
        say("now the final run, with all seeds, which reads the test split")
    return run(load_recipe(path))


def _check(recipe: Recipe, minutes: float, trials: int | None) -> None:
    """See that there is something to sweep, and time for it."""
    if not 0 < minutes < float("inf"):
        raise UserError(f"minutes is {minutes:g}; it must be above 0")
    if trials is not None and trials < 1:
        raise UserError(f"trials is {trials}; it must be at least 1")
    if recipe.finetune.data == "":
        raise UserError("there is nothing to sweep: the recipe names no labelled texts (finetune.data)")
    if recipe.finetune.unlabelled is not None:
        raise UserError(
            "a sweep has no self-training, which reads the test split to leave its texts out; leave out "
            "finetune.unlabelled and its entry of `data`"
        )


@dataclass(frozen=True)
class _Data:
    """What trials read.

    Args:
        digest: of it.
        metric: the primary one of the task on it.
        rows: of the training set.
    """

    digest: str
    metric: str
    rows: int


def _read_training_data(recipe: Recipe) -> _Data:
    """Read what trials read; faults in it are said before any work. The test split must exist, and is not read.

    Raises:
        UserError: if the data cannot be used, or there is no test split for the final run.
    """
    config, task = recipe.finetune, recipe_task(recipe)
    source, where = recipe.source(config.data), f"data.{config.data}"
    if source.test_ratio is None:
        parts_read(source, [config.test_split])
    train = read_split(source, "train", task.columns)
    splits = {"train": train} | {name: read_split(source, name, task.columns) for name in evaluated_splits(recipe)[1:]}
    names = task.label_names(train.records, config.label_names, f"{where}, split train,")
    task = task_of_labels(task, config, names)
    labels = {}
    for name, split in splits.items():
        say(f"{where}, {account(name, split.summary())}")
        labels[name] = task.labels(split.records, names, train.records, f"{where}, split {name}")
        if name != "train":
            task.check_predictions(split.records, names, 1, f"{where}, split {name}")
    rows = len(train.records)
    if "validation" not in splits:
        strata, ratio = task.strata(labels["train"]), config.validation_ratio
        rows = len(cut_validation(train.records, strata, ratio, where, lambda text: None)[0])  # the first trial says it
    task.check_training_set(rows)
    digests = [content_digest(split.records) for split in splits.values()]
    return _Data("-".join(digests), task.primary_metric, rows)


def _fingerprint(recipe: Recipe, space: Space, encoder: Path, data: str) -> str:
    """Of all that decides the trials; of the seeds the first alone."""
    own = decisive(recipe.finetune) | {"seeds": recipe.finetune.seeds[:1], "encoder": None}
    return fingerprint(
        own, recipe.seed, recipe.tokenizer.html_line_breaks, str(space), encoder_digests(recipe.finetune, encoder), data
    )


def _best(recipe: Recipe, ended: Sequence[Trial]) -> Trial:
    """The best trial; of several the first.

    Raises:
        UserError: if none has reached its end.
    """
    best = best_of(ended, recipe.finetune.metric_for_best_model)
    if best is None:
        raise UserError(
            f"none of {len(ended)} trials reached its end with a finite loss; search lower values of "
            "optimizer.learning_rate, and name another run folder: --out"
        )
    return best


def _found(search: Search, ended: Sequence[Trial]) -> str:
    """Where the best values come from, in words."""
    recipe, measures = search.recipe, (search.chosen_by, search.metric)
    best, first = _best(recipe, ended), ended[0]
    counts = {state: sum(trial.state == state for trial in ended) for state in ("pruned", "diverged")}
    text = f"best of {len(ended)} trials ({counts['pruned']} ended early, {counts['diverged']} diverged): trial "
    text += f"{list(ended).index(best) + 1}, with {shown(*measures, best)} on the validation set"
    if first.value is None or own_values(recipe, search.space) is None:
        return text
    return f"{text} (the recipe's own values: {shown(*measures, first)})"
