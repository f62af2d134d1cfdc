"""The forward pass of a fine-tuned model over many inputs, for validation, pseudo-labels, test split and users."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright.arrays import Floats
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs.bucketing import pad, rounded_width, token_buckets
from bertwright.inputs.sequences import ModelInput, Sequence
from bertwright.models.encoder import Encoder
from bertwright.models.heads import TaskModel
from bertwright.models.packed import pack
from bertwright.models.sequence_heads import RegressionHead
from bertwright.tasks.registry import load_task_model, task_of_model
from bertwright.tasks.task import Task
from bertwright.train.engine import Engine, has_bf16
from bertwright.train.prefetch import Batch

_WINDOWS_PER_CORE = 8
"""From this many windows per core, each core computes its own."""

BATCH_TOKENS = 2048
"""Tokens that are computed together on a core for answers, padding included."""

_MOST_TOKENS = 65_536
"""Tokens that all cores compute at the same time: with long windows fewer cores are at work, for the memory's sake."""

_ALL_CORES = threading.Lock()
"""Held by the one call that has a part of its texts on each core: the number of threads is the whole process's."""


def collate(sequences: Many[Sequence], encoder: Encoder) -> Batch:
    """Sequences as tensors input_ids and token_type_ids, int64 (batch, seq), and attention_mask, bool (batch, seq).

    Args:
        sequences: none longer than the encoder's positions.
        encoder: its [PAD] and its number of positions, which a width is not rounded beyond.
    """
    width = min(rounded_width(max(map(len, sequences))), encoder.max_length)
    padded = pad(sequences, encoder.pad_token_id, width)
    return {
        "input_ids": torch.from_numpy(padded.input_ids),
        "token_type_ids": torch.from_numpy(padded.token_type_ids),
        "attention_mask": torch.from_numpy(padded.attention_mask),
    }


def window_logits(model: TaskModel, parts: Many[Sequence], token_budget: int) -> list[Tensor]:
    """The logits of each window, float32 on the CPU, in the precision of the autocast around the call.

    Windows are computed longest first, in batches of like length.

    Args:
        model: fine-tuned.
        parts: windows, none longer than the model reads.
        token_budget: tokens that are computed together, padding included.
    """
    device = model.device
    was_training = model.training
    if was_training:  # a walk over all modules, which a single short text would notice
        model.eval()
    logits = [torch.empty(0)] * len(parts)
    with torch.inference_mode():
        for rows in token_buckets([len(part) for part in parts], token_budget):
            batch = collate([parts[row] for row in rows], model.encoder)
            found = model(**{name: value.to(device) for name, value in batch.items()}).float().cpu()
            for row, values in zip(rows.tolist(), found, strict=True):
                logits[row] = values
    if was_training:
        model.train()
    return logits


Compute = Callable[[TaskModel, Many[Sequence], int], list[Tensor]]
"""The logits of windows by a model, so many tokens at a time: `window_logits`, or `logits_on_all_cores`."""


def predict(
    task: Task,
    model: TaskModel,
    inputs: Many[ModelInput],
    token_budget: int,
    max_length: int,
    compute: Compute = window_logits,
) -> Floats:
    """A model's predictions for model inputs, in their order.

    A text of more than `max_length` tokens is read in windows. A text's prediction does not depend on its batch mates,
    beyond rounding.

    Args:
        task: makes predictions from logits.
        model: fine-tuned for it.
        inputs: the model inputs.
        token_budget: tokens that are computed together, padding included.
        max_length: the most tokens of a window.
        compute: the logits of all windows.

    Returns:
        float32 (records, ...), as the task makes them; of no records (0, label names).
    """
    if not inputs:
        return np.zeros((0, len(model.label_names)), np.float32)
    parts = [task.windows(one, max_length) for one in inputs]
    logits = compute(model, [part for own in parts for part in own], token_budget)
    return task.predictions(logits, parts)


def logits_on_all_cores(model: TaskModel, parts: Many[Sequence], token_budget: int) -> list[Tensor]:
    """`window_logits` of a model that users share; with many windows on a CPU, some are computed on each core."""
    threads = torch.get_num_threads()
    if model.device.type == "cpu" and len(parts) >= _WINDOWS_PER_CORE * threads:
        cores = min(threads, _MOST_TOKENS // max(token_budget, *map(len, parts)))
        if cores > 1:
            with _ALL_CORES:
                return _on_each_core(model, parts, token_budget, cores, threads)
    return window_logits(model, parts, token_budget)


def _on_each_core(model: TaskModel, parts: Many[Sequence], token_budget: int, cores: int, threads: int) -> list[Tensor]:
    """`window_logits` with batches on several cores, where no product waits for another core's half."""
    order = np.argsort([-len(part) for part in parts], kind="stable")
    batches = [
        own[rows].tolist()
        for own in (order[core::cores] for core in range(cores))
        for rows in token_buckets([len(parts[i]) for i in own], token_budget)
    ]
    logits = [torch.empty(0)] * len(parts)
    try:
        with ThreadPoolExecutor(cores, "predict", torch.set_num_threads, (threads // cores,)) as pool:
            jobs = [pool.submit(window_logits, model, [parts[i] for i in own], token_budget) for own in batches]
            try:
                for own, job in zip(batches, jobs, strict=True):
                    for i, values in zip(own, job.result(), strict=True):
                        logits[i] = values
            except BaseException:  # an interrupt, too, waits for the batches at work and for no others
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)  # what a thread sets is also what threads to come start with
    return logits


class RoundedProducts(TaskModel):
    """A model with matrix products in bfloat16, where the hardware multiplies that faster; sums stay in float32.

    For vectors, which would differ twice as much from those of float32 with all of it in bfloat16.
    """

    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """As `TaskModel.forward`."""
        # Here and not around the call: threads do not share it.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bf16()):
            return super().forward(*args, **inputs)


def answering(model: TaskModel) -> TaskModel:
    """What answers in place of a model: the same where the hardware has no bfloat16, and else a copy for it.

    A copy is in bfloat16 throughout, with matrices as a CPU reads them: autocast would turn every weight into bfloat16
    in every batch, and carry float32 between the matrix products. Vectors are computed with `RoundedProducts`.

    Args:
        model: in evaluation mode. What is returned is neither trained, saved nor copied any more.
    """
    if not has_bf16():
        return model
    if model.head.in_batch:
        rounded = RoundedProducts(model.encoder, model.head, model.label_names, model.task, draw=False)
        rounded.notes = model.notes
        return rounded.eval()
    fast = copy.deepcopy(model).to(torch.bfloat16)
    if isinstance(fast.head, RegressionHead):  # whose last layer holds a mean that bfloat16 would round
        fast.head.classifier.float()
        fast.head.load_state_dict(model.head.state_dict())
    if fast.device.type == "cpu":
        pack(fast.encoder)
    return fast


def predict_saved(folder: Path, inputs: Many[ModelInput], config: FinetuneConfig, engine: Engine) -> Floats:
    """The predictions of the model in `folder`, as users get them; the rest as for `predict`.

    Args:
        folder: of a fine-tuned model.
        inputs: the model inputs.
        config: how they are read.
        engine: in float32, the model computes in it although users would get bfloat16.
    """
    model = load_task_model(folder).to(engine.device).eval()
    task = task_of_model(model)
    model = answering(model) if engine.precision == "bf16" else model
    budget = config.micro_batch_tokens
    if engine.device.type == "cpu":
        budget = min(budget, BATCH_TOKENS)  # on each core
    return predict(task, model, inputs, budget, config.max_length, logits_on_all_cores)
