"""The tasks by name, and the models that were fine-tuned for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.finetune_settings import EmbeddingConfig, FinetuneConfig
from bertwright.models.checkpoints import load_into, read_config, read_weights, stored_encoder
from bertwright.models.heads import TaskModel
from bertwright.models.layouts import FORMATS
from bertwright.models.stored import architecture, check_outputs, head_of, label_names, task_of_outputs
from bertwright.recipe import Recipe
from bertwright.tasks.embedding import Embedding
from bertwright.tasks.multi_label import MultiLabel
from bertwright.tasks.multiple_choice import MultipleChoice
from bertwright.tasks.regression import Regression
from bertwright.tasks.sequence import Classification
from bertwright.tasks.spans import QuestionAnswering
from bertwright.tasks.task import Task
from bertwright.tasks.tokens import TokenClassification

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        Regression(),
        MultiLabel(),
        TokenClassification(),
        QuestionAnswering(),
        MultipleChoice(),
        Embedding(),
    )
}
"""The tasks, by the name that a recipe gives in finetune.task."""


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: if there is none.
    """
    if name not in TASKS:
        raise UserError(f"finetune.task is {name}; Bertwright has: {', '.join(TASKS)}")
    return TASKS[name]


def recipe_task(recipe: Recipe) -> Task:
    """The task of a recipe, as the columns of its labelled data make it.

    Raises:
        UserError: if there is none of that name, or fine-tuning is asked for what it does not have.
    """
    config = recipe.finetune
    task = find_task(config.task)
    task = task if config.data == "" else task.on(recipe.source(config.data))
    if task.name != "embedding" and config.embedding != EmbeddingConfig():
        raise UserError(f"finetune.embedding is for finetune.task embedding, not for {task.name}; leave it out")
    task = task.with_settings(config)
    task.check(config)
    _check_metric(task, config, "")
    return task


def task_of_labels(task: Task, config: FinetuneConfig, names: Sequence[str]) -> Task:
    """A recipe's task with the metrics of its labels.

    Args:
        task: from `recipe_task`.
        config: of fine-tuning.
        names: of the labels, from `Task.label_names`.

    Raises:
        UserError: if finetune.positive_label or finetune.metric_for_best_model does not fit them.
    """
    task = task.about(config.positive_label, names)
    _check_metric(task, config, " with these labels")
    return task


def _check_metric(task: Task, config: FinetuneConfig, where: str) -> None:
    if config.metric_for_best_model not in ("loss", *task.choosing_metrics):
        raise UserError(
            f"finetune.metric_for_best_model is {config.metric_for_best_model}; of {task.name}{where} it can be: "
            f"{', '.join(('loss', *task.choosing_metrics))}"
        )


def task_of(config: dict[str, Any]) -> Task:
    """The task of a folder's config.json: the one that it names, or that of its head; else it is a classifier."""
    named = TASKS.get(config.get("finetuning_task") or "")
    of_head = TASKS.get(head_of(config).replace(" ", "-"), TASKS["classification"])
    return named or TASKS[task_of_outputs(config) or of_head.name]


def task_of_model(model: TaskModel) -> Task:
    """The task that a model was fine-tuned for."""
    return TASKS[model.task].restored(model.notes)


def load_task_model(folder: Path) -> TaskModel:
    """The fine-tuned model of a folder.

    Raises:
        UserError: if the folder holds no fine-tuned model, or one that we do not compute, or its tensors do not fit its
            configuration.
    """
    config = read_config(folder)
    task = task_of(config).restored(config)
    names = label_names(config, folder)
    dropout = config.get("classifier_dropout")
    dropout = config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    encoder = stored_encoder(config)
    head = task.head(encoder, names, dropout)
    if architecture(config) != FORMATS[encoder.config.architecture].classes.get(head.kind, head.kind):
        raise UserError(_what_it_is(config, folder))
    if head.kind == "sequence":
        check_outputs(config, folder)
    if encoder.causal and head.kind == "sequence" and config.get("finetuning_task") not in TASKS:
        raise UserError(
            f"{folder} is a causal classifier (is_decoder in its config.json) of another tool, which reads the first "
            "token where Bertwright reads the last; it is not computed"
        )
    model = TaskModel(encoder, head, names, task.name, draw=False)
    model.notes = task.notes()
    load_into(model, read_weights(folder), folder, may_miss=())
    return model


def _what_it_is(config: dict[str, Any], folder: Path) -> str:
    """Why a folder that holds no fine-tuned model of ours classifies nothing, and what to do."""
    name, words = architecture(config), head_of(config)
    if not name:
        return (
            f"{folder} is not a classifier, as far as its config.json says: it names no class of models; if it is one, "
            'add "architectures": ["BertForSequenceClassification"]'
        )
    what = f"its head is for {words} ({name})" if words else f"it is a {name}"
    return (
        f"{folder} is not a classifier of texts: {what}; give the folder of one, or fine-tune this one with your "
        f"labels: finetune.encoder {folder}"
    )
