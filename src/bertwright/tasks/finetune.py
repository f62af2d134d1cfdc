"""The finetune stage: a task's head on the pre-trained encoder, trained once per seed (paper, 4.1 and appendix A.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.files import given_files, recover, write_json
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs.sequences import ModelInput, unknown_notice
from bertwright.models.checkpoints import (
    load_into,
    load_tokenizer,
    model_config,
    new_encoder,
    read_config,
    stored_encoder,
)
from bertwright.models.heads import TaskModel
from bertwright.models.initialization import as_bert, initialize_averaging
from bertwright.recipe import Recipe, fingerprint
from bertwright.tasks.registry import find_task, recipe_task, task_of_labels
from bertwright.tasks.self_training import pseudo_labels, read_unlabelled
from bertwright.tasks.start import starting_weights
from bertwright.tasks.supervised import Finetuning, Validation
from bertwright.tasks.task import Examples, Task
from bertwright.tasks.validation_set import cut_validation
from bertwright.text.overlap import evaluated_splits
from bertwright.text.records import Record, read_records
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from bertwright.train.loop import LoopConfig, Notice, Watch, train
from bertwright.train.tracking import Tracked

_SAMPLE = 2_000
"""Texts of the training set that are looked at for unknown tokens."""

FEW_STEPS = 50
"""Optimizer steps below which a user is told what to raise."""

WHAT_TO_TRY = "try more epochs, another learning rate (lower if the loss jumps), or more labels of the rarer classes"
"""Advice for a model that does not learn."""

AVERAGING = "finetune.averaging_block"


@dataclass(frozen=True)
class Split:
    """The labelled data of a recipe to fine-tune on: training and validation set.

    The validation set is the data's validation split, or a part of train where they have none.

    Args:
        task: the recipe's.
        tokenizer: the encoder's.
        records: of both sets.
        names: of the classes.
        labels: of the records.
        training_rows: indices of the training set.
        training: the training set.
        validation: the validation set.
    """

    task: Task
    tokenizer: Tokenizer
    records: list[Record]
    names: list[str]
    labels: Ints
    training_rows: Ints
    training: Examples
    validation: Validation


def new_task_model(task: Task, encoder: Path, config: FinetuneConfig, names: list[str], notice: Notice) -> TaskModel:
    """A task's model with an encoder's weights, before it is fine-tuned.

    The head of a model that was fine-tuned for the same task and the same classes is taken over, too.

    Args:
        task: makes the head.
        encoder: a model folder.
        config: decides dropout, and whether an averaging block is put on top.
        names: of the classes.
        notice: told what becomes of the folder's head, and if it has no pooler.
    """
    stored = read_config(encoder)
    shape = model_config(stored)
    if config.hidden_dropout_prob is not None:
        shape = replace(shape, hidden_dropout_prob=config.hidden_dropout_prob)
    if config.averaging_block:
        shape = replace(shape, num_hidden_layers=shape.num_hidden_layers + 1)
    fresh = stored_encoder(stored, shape)
    model = TaskModel(fresh, task.head(fresh, names, config.classifier_dropout), names, task.name)
    model.notes = task.notes()
    parts = [f"head.{part}" for part, _ in model.head.named_children()]
    weights = starting_weights(model, encoder, stored, config.averaging_block, notice)
    if config.averaging_block:
        parts.append(f"encoder.blocks.{shape.num_hidden_layers - 1}")
    absent = load_into(model, weights, encoder, may_miss=tuple(parts))
    model.encoder.requires_grad_(not config.freeze_encoder)
    if "head.pooler" in absent and not config.averaging_block:
        notice(f"{encoder} has no pooler: it is freshly initialised, as the classifier is")
    if config.averaging_block:
        initialize_averaging(as_bert(model.encoder, AVERAGING))
    return model


def check_encoder(config: FinetuneConfig, encoder: Path) -> Tokenizer:
    """See that an encoder can be fine-tuned, before anything is done; returns its tokenizer.

    Args:
        config: of fine-tuning.
        encoder: a model folder.

    Raises:
        UserError: if it can't be read, is too short for max_length, has no place for an averaging block, or makes
            vectors in a way that the task does not continue.
    """
    shape = model_config(read_config(encoder))
    if config.max_length > shape.max_position_embeddings:
        raise UserError(
            f"finetune.max_length is {config.max_length}, but {encoder} has {shape.max_position_embeddings} positions; "
            "lower it"
        )
    if config.averaging_block:
        with torch.device("meta"):
            as_bert(new_encoder(shape, 1), AVERAGING)
    find_task(config.task).starting_from(encoder)
    return load_tokenizer(encoder)


def encoder_digests(config: FinetuneConfig, encoder: Path) -> list[Any]:
    """What of the encoder's folder decides the result: its files, and what the task takes from those around them.

    Args:
        config: of fine-tuning.
        encoder: a model folder.
    """
    task = find_task(config.task)
    taken = task.starting_from(encoder)
    return [*given_files(encoder), *([] if taken == task else [taken.notes()])]


def read_split(recipe: Recipe, encoder: Path, notice: Notice) -> Split:
    """Read and encode the labelled data of a recipe to fine-tune on.

    Args:
        recipe: the whole recipe.
        encoder: a model folder.
        notice: told how many texts there are.

    Raises:
        UserError: if the data cannot be used, or the encoder is too short for max_length.
    """
    config = recipe.finetune
    tokenizer = check_encoder(config, encoder)
    task = recipe_task(recipe).starting_from(encoder)
    tokenizer.html_line_breaks |= recipe.tokenizer.html_line_breaks
    where = f"data.{config.data}"
    source = recipe.source(config.data)
    records = read_records(source, "train", task.columns)
    names = task.label_names(records, config.label_names, f"{where}, split train,")
    task = task_of_labels(task, config, names)
    labels = task.labels(records, names, records, where)
    if "validation" in evaluated_splits(recipe)[1:]:  # and not what the report evaluates on
        notice(f"{where} has a validation split: it is the validation set, and finetune.validation_ratio is not used")
        held_out = read_records(source, "validation", task.columns)
        training_rows, validation_rows = np.arange(len(records)), len(records) + np.arange(len(held_out))
        labels = np.concatenate([labels, task.labels(held_out, names, records, f"{where}, split validation")])
        records = [*records, *held_out]
    else:
        strata = task.strata(labels)
        training_rows, validation_rows = cut_validation(records, strata, config.validation_ratio, where, notice)
    notice(f"encoding {len(records):,} texts")

    def encoded(rows: Ints, truncation: str) -> Many[ModelInput]:
        return task.encode([records[i] for i in rows], tokenizer, config.max_length, truncation)

    task = task.fitted(labels[training_rows])
    inputs = encoded(training_rows, config.training_truncation)
    sample = (part for one in inputs[:_SAMPLE] for part in task.windows(one, config.max_length))
    for sentence in (*task.notices(inputs), unknown_notice(sample, tokenizer, encoder)):
        if sentence is not None:
            notice(f"{where}, training set: {sentence}")
    training = task.examples(inputs, labels[training_rows], names, config.max_length)
    if config.class_weights is not None:
        weights = task.text_weights(labels[training_rows], names, config.class_weights)
        training = replace(training, targets=np.asarray(training.targets) * weights[:, None])
    validation = Validation(encoded(validation_rows, config.truncation), labels[validation_rows])
    return Split(task, tokenizer, records, names, labels, training_rows, training, validation)


def no_better_than_chance(task: Task, loss: float | None, chance: float | None) -> str | None:
    """What is said of a model whose loss is not below chance, and what to try; None for any other.

    Args:
        task: the model's.
        loss: its lowest on the validation set; None where there is none.
        chance: that of a model that predicts `Task.chance` for every text; None where it is not defined.
    """
    if loss is None or chance is None or loss < chance:
        return None
    return (
        f"has not learnt to tell the texts apart: its lowest validation loss, {loss:.3f}, is not below {chance:.3f}, "
        f"that of predicting {task.chance} for every text; {WHAT_TO_TRY}"
    )


def finetune(
    recipe: Recipe,
    encoder: Path,
    folder: Path,
    run_fingerprint: str,
    engine: Engine,
    notice: Notice,
    watch: Watch | None = None,
) -> None:
    """Fine-tune once per seed: `folder`/seed-N/model; a teacher of all seeds goes to `folder`/teacher.

    Args:
        recipe: the whole recipe.
        encoder: a model folder to start from.
        folder: receives a folder per seed.
        run_fingerprint: of all that decides the result.
        engine: the machine.
        notice: told in a sentence about anything a user should know.
        watch: told about each evaluation of a seed's model, as `LoopConfig` says.

    Raises:
        UserError: if the data cannot be used, the encoder is too short for max_length, or the loss is not a number.
    """
    config = recipe.finetune
    split = read_split(recipe, encoder, notice)
    stage = _Stage(recipe, encoder, folder, run_fingerprint, engine, notice, split)
    training = split.training
    if config.unlabelled is not None:
        texts, sequences = read_unlabelled(recipe, split.task, split.tokenizer, notice)
        stage.train("teacher", config.seeds[0], training)
        labelled = ([split.records[i].text for i in split.training_rows], split.labels[split.training_rows])
        targets = pseudo_labels(folder / "teacher", texts, sequences, labelled, config, engine, notice)
        training = Examples([*training.sequences, *sequences], np.concatenate([training.targets, targets]))
    for seed in config.seeds:
        stage.train(f"seed-{seed}", seed, training, watch)


@dataclass(frozen=True)
class _Stage:
    """What all models of the stage have in common."""

    recipe: Recipe
    encoder: Path
    folder: Path
    fingerprint: str
    engine: Engine
    notice: Notice
    split: Split

    def train(self, name: str, seed: int, training: Examples, watch: Watch | None = None) -> None:
        """Train the model of the folder `name`, unless it is finished.

        Args:
            name: teacher or seed-N.
            seed: of head, order and dropout.
            training: the training set.
            watch: told about each evaluation.
        """
        config, split, engine, target = self.recipe.finetune, self.split, self.engine, self.folder / name
        if (target / "done.json").exists():
            return
        if engine.is_main:
            recover(target / "model")
        torch.manual_seed(seed)
        model = new_task_model(split.task, self.encoder, config, split.names, self.notice)
        job = Finetuning(split.task, config, seed, model, split.tokenizer, training, split.validation, target / "model")
        loop = LoopConfig(
            optimizer=config.optimizer,
            seed=seed,
            max_steps=math.ceil(config.epochs * job.batches_per_epoch),
            max_seconds=None,
            log_every=config.log_every,
            evaluate_every=max(1, job.batches_per_epoch // config.evaluations_per_epoch),
            checkpoint_every=config.checkpoint_every,
            patience=config.early_stopping_patience,
            tracked=Tracked(f"finetune/{name}", self.recipe),
            watch=watch,
        )
        doing = "fine-tuning a teacher" if name == "teacher" else "fine-tuning"
        sizes = f"{len(training):,} texts, {len(split.validation.labels):,} in the validation set"
        self.notice(f"{doing} with seed {seed}: {sizes}")
        if loop.max_steps is not None and loop.max_steps < FEW_STEPS:
            self.notice(
                f"this takes {loop.max_steps} steps, fewer than the {FEW_STEPS} that most encoders need; "
                f"raise finetune.epochs ({config.epochs:g}) or lower finetune.batch_size ({config.batch_size})"
            )
        position = train(job, loop, engine, target, fingerprint(self.fingerprint, seed, name), self.notice)
        chosen_by, best = config.metric_for_best_model, position.best and position.best[0]
        if position.evaluations_since and position.evaluations_since == config.early_stopping_patience:
            better = "lower validation loss" if chosen_by == "loss" else f"higher {chosen_by}"
            self.notice(
                f"ended at step {position.step:,} of {loop.max_steps:,}: the last {position.evaluations_since} "
                f"evaluations had no {better} than {best:.4f}"
            )
        # A model that was chosen by a metric may be right more often than chance, and too sure where it errs.
        loss = best if chosen_by == "loss" else None
        # Class weights make rare classes more probable than they are: that costs loss, as the recipe wants it.
        is_plain = config.class_weights is None
        known = split.labels[split.training_rows]
        chance = split.task.chance_loss(known, split.validation.labels) if is_plain else None
        no_better = no_better_than_chance(split.task, loss, chance)
        if no_better is not None:
            self.notice(f"warning: the model of {name} {no_better}")
        with engine.together():
            if engine.is_main:
                done = {"seconds": position.seconds, "validation_loss": loss, "chance_loss": chance}
                write_json(target / "done.json", done | {"chosen_by": chosen_by, "best": best})
