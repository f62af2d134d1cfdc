"""The labelled texts of a recipe, looked at before the first stage: a fault is said hours before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bertwright.arrays import Ints
from bertwright.recipe import Recipe
from bertwright.tasks.registry import recipe_task, task_of_labels
from bertwright.tasks.task import Task
from bertwright.text.corpus import parts_read
from bertwright.text.overlap import check_overlap
from bertwright.text.records import LabelledSplit, Record, account
from bertwright.text.unread import unread_pair


def check_labelled(
    recipe: Recipe, splits: Mapping[str, LabelledSplit], notice: Callable[[str], None]
) -> tuple[Task, list[Record], Ints, list[Record]]:
    """The task of these labels, records and labels of train, and records of test; what each split holds is said.

    Args:
        recipe: the whole recipe.
        splits: train, then those that are evaluated on.
        notice: told in a sentence about anything a user should know.

    Raises:
        UserError: if a split is missing, the test split has a label that train does not have, or there is nothing for
            the task to learn from, or memory does not hold the predictions.
    """
    config = recipe.finetune
    task, source, where = recipe_task(recipe), recipe.source(config.data), f"data.{config.data}"
    for name, split in splits.items():
        notice(f"{where}, {account(name, split.summary())}")
    if (pair := unread_pair(source, task.columns)) is not None:
        notice(f"{where}: {pair}")
    unread = [str(part) for part, split in parts_read(source, None).items() if split is None]
    if unread and source.test_ratio is None:
        notice(f"{where}: not read, for their names say no split: {', '.join(unread[:5])}")
    train, test = (splits[name].records for name in list(splits)[:2])
    names = task.label_names(train, config.label_names, f"{where}, split train,")
    labels = {n: task.labels(s.records, names, train, f"{where}, split {n}") for n, s in splits.items()}
    # Evaluation holds the predictions of all seeds, of two baselines, and a copy; training those of validation.
    for name, copies in zip(list(splits)[1:], (len(config.seeds) + 3, 1), strict=False):
        task.check_predictions(splits[name].records, names, copies, f"{where}, split {name}")
    for sentence in check_overlap(splits, where):
        notice(f"{where}: {sentence}")
    task = task_of_labels(task, config, names)  # a class that is not there is said before the work
    if config.class_weights is not None:
        task.text_weights(labels["train"], names, config.class_weights)
    return task, train, labels["train"], test
