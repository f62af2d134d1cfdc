"""What fine-tuning takes over from the folder that it starts from: the encoder, its pooler, and the head if it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from bertwright.models.checkpoints import read_weights
from bertwright.models.heads import TaskModel
from bertwright.models.layouts import FORMATS, to_hugging_face
from bertwright.models.sequence_heads import MultiLabelHead
from bertwright.models.stored import architecture, has_task_head, head_of, label_names, mean_the_same
from bertwright.tasks.registry import task_of
from bertwright.train.loop import Notice


def starting_weights(
    model: TaskModel, encoder: Path, stored: dict[str, Any], averaging_block: bool, notice: Notice
) -> dict[str, Tensor]:
    """The tensors of a folder that a task's model starts from, by Hugging Face's names.

    The folder's head is among them only where its classes are the same: a head for as many classes of something else
    would have to be unlearned. Its outputs are put in the order of the model's classes.

    The outputs of some heads mean the same in every model: those of a span, or of a choice.

    Args:
        model: fresh.
        encoder: the folder.
        stored: its config.json.
        averaging_block: whether a block is put on top; head and pooler were trained on the block below it.
        notice: told what becomes of the folder's head, if it has one.
    """
    weights = read_weights(encoder)
    layout = FORMATS[model.encoder.config.architecture].names
    pooler = {
        to_hugging_face(f"head.{name}", layout): to_hugging_face(name, layout)
        for name, _ in model.head.named_parameters()
        if name.startswith(("pooler.", "transform."))  # of no classes
    }
    for own, trained in pooler.items():
        if trained in weights:  # that of pre-training
            weights.setdefault(own, weights[trained])
    head = {to_hugging_face(f"head.{name}", layout) for name, _ in model.head.named_parameters()} - set(pooler)
    has_head = has_task_head(stored) and stored.get("finetuning_task") != "embedding"
    if has_head and not averaging_block and _fits(model, stored, encoder):
        if model.head.same_outputs:
            notice(f"starting from the head of {encoder}, for {head_of(stored)}")
            return weights
        found = label_names(stored, encoder)
        order = [found.index(name) for name in model.label_names]
        if isinstance(model.head, MultiLabelHead):
            model.head.log_odds.zero_()  # the folder's bias holds those of its labels
        notice(f"starting from the head of {encoder}, which has the same classes: {', '.join(model.label_names)}")
        return {name: value[order] if name in head else value for name, value in weights.items()}
    if has_head:
        words = head_of(stored) or architecture(stored)
        notice(f"a fresh head: that of {encoder}, for {words}, has other classes or another task, and is left out")
    left_out = head | (set(pooler) if averaging_block else set())
    return {name: value for name, value in weights.items() if name not in left_out}


def _fits(model: TaskModel, stored: dict[str, Any], encoder: Path) -> bool:
    """Whether a folder's head has the model's layers, task and classes.

    The classes may stand in another order where all layers but the pooler are `classifier`, with a row for each class.
    """
    kind = FORMATS[model.encoder.config.architecture].classes.get(model.kind, model.kind)
    return (
        architecture(stored) == kind
        and task_of(stored).name == model.task
        and (model.head.same_outputs or _same_classes(model, stored, encoder))
    )


def _same_classes(model: TaskModel, stored: dict[str, Any], encoder: Path) -> bool:
    layers = {name.partition(".")[0] for name, _ in model.head.named_parameters()}
    return (
        stored.get("problem_type") != "regression"  # whose number has another unit
        and layers <= {"pooler", "transform", "classifier"}
        and mean_the_same(label_names(stored, encoder), model.label_names)
    )
