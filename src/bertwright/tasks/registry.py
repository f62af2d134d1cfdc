"""The tasks by name, and the models that were fine-tuned for them."""

from __future__ import annotations

from pathlib import Path

from bertwright.errors import UserError
from bertwright.models.checkpoints import load_into, model_config, new_encoder, read_config, read_weights
from bertwright.models.heads import TaskModel
from bertwright.tasks.sequence import Classification
from bertwright.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Classification(),)}
"""The tasks, by the name that a recipe gives in finetune.task."""


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: if there is none.
    """
    if name not in TASKS:
        raise UserError(f"finetune.task is {name}; Bertwright has: {', '.join(TASKS)}")
    return TASKS[name]


def load_task_model(folder: Path) -> TaskModel:
    """The fine-tuned model of a folder. One that names no task of ours is a classifier.

    Raises:
        UserError: if the folder holds no fine-tuned model, or its tensors do not fit its configuration.
    """
    config = read_config(folder)
    if "id2label" not in config:
        raise UserError(f"{folder} is not a classifier: its config.json has no id2label")
    names = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    dropout = config.get("classifier_dropout")
    dropout = config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    task = TASKS.get(config.get("finetuning_task") or "", TASKS["classification"])
    encoder = new_encoder(model_config(config), config["vocab_size"], config.get("pad_token_id", 0))
    model = TaskModel(encoder, task.head(encoder, names, dropout), names, task.name)
    load_into(model, read_weights(folder), folder, may_miss=())
    return model
