"""Checkpoints: whole or absent, checked before they are trusted, and never pickled.

A checkpoint is a model folder in the Hugging Face layout, but for the heads of numbers and of several labels, with two
more files: optimizer.safetensors, and state.json with the position in the run and a hash of every file. The newest
whole one wins; a broken one is passed over with a notice. Randomness has no state to keep: every draw is a function of
(seed, step).
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertwright.errors import UserError
from bertwright.files import atomic_path, read_json, write_json
from bertwright.models.checkpoints import AnyModel, load_into, read_weights, save_weights
from bertwright.models.heads import TaskModel

FORMAT = 3
"""Of state.json. In the first, heads were kept as they are stored, not as they are trained, and the validation set held
copies of training texts; in the second, of checkpoints with an equal metric the first one was the best. Only
pre-training resumes from these."""

KEEP = 2
"""Checkpoints kept: the newest, and the one before in case the newest turns out broken."""


Best = tuple[float, float]
"""Of the evaluation whose weights are kept: the loss or metric that chose it, and the loss, which decides of equals."""

EpochEnds = tuple[tuple[int, ...], ...]
"""For each phase, the number of sequences up to the end of each epoch planned so far."""


@dataclass
class Position:
    """Where a run stands.

    Args:
        step: optimizer steps done.
        seconds: training time so far, compilation left out.
        tokens: real tokens seen by all processes.
        phase_steps: steps done in each phase.
        epoch_ends: of the training run, see `Training`.
        budget: what the run is planned for, as "100 steps".
        rate_factor: of the learning rate, in the last step.
        begun: the fraction of this budget that was spent when it replaced a shorter one.
        begun_factor: of the learning rate, at that time.
        best: the best evaluation so far, if the training run chooses a checkpoint by one.
        evaluations_since: those after the best one.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    phase_steps: tuple[int, ...] = (0,)
    epoch_ends: EpochEnds = ()
    budget: str = ""
    rate_factor: float = 0.0
    begun: float = 0.0
    begun_factor: float = 0.0
    best: Best | None = None
    evaluations_since: int = 0


def save_checkpoint(
    folder: Path,
    model: AnyModel,
    optimizers: list[torch.optim.Optimizer],
    position: Position,
    run_fingerprint: str,
) -> None:
    """Write step-NNNNNNNN under `folder` atomically, then drop all but the newest `KEEP`.

    Raises:
        UserError: if the disk is full; earlier checkpoints are left as they were.
    """
    target = folder / f"step-{position.step:08d}"
    with atomic_path(target) as temporary:
        save_weights(model, temporary, in_training=True)
        save_file(_optimizer_tensors(model, optimizers), temporary / "optimizer.safetensors")
        hashes = {path.name: _hash(path) for path in sorted(temporary.iterdir())}
        write_json(
            temporary / "state.json",
            {"format": FORMAT, "position": asdict(position), "run_fingerprint": run_fingerprint, "hashes": hashes},
        )
    # Those of higher numbers were passed over when this run began, and say nothing of which of its own are old.
    for old in [path for path in _newest_first(folder) if path.name <= target.name][KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    model: AnyModel,
    optimizers: list[torch.optim.Optimizer],
    run_fingerprint: str,
    notice: Callable[[str], None],
) -> Position | None:
    """Load the newest whole checkpoint of this run into model and optimizers.

    Args:
        folder: holds the checkpoints; may be missing.
        model: receives the weights.
        optimizers: receive their state.
        run_fingerprint: of the run that resumes; checkpoints of another recipe are passed over.
        notice: told in a sentence about every checkpoint that was passed over.

    Returns:
        Where the run stood, or None if there is no checkpoint to resume from.
    """
    for path in _newest_first(folder):
        try:
            state = read_json(path / "state.json")
            broken = [name for name, digest in state["hashes"].items() if _hash(path / name) != digest]
        except (UserError, OSError, KeyError, TypeError, AttributeError) as error:  # not JSON, or not of this shape
            notice(f"{path} is broken ({error}); trying the checkpoint before it")
            continue
        if broken:
            notice(f"{path} is broken ({', '.join(broken)} cut short or changed); trying the checkpoint before it")
            continue
        if state.get("format") != FORMAT and isinstance(model, TaskModel):
            notice(f"{path} is of an older version of Bertwright, which fine-tuned otherwise; not used")
            continue
        if state["run_fingerprint"] != run_fingerprint:
            notice(f"{path} belongs to another recipe; not used")
            continue
        load_into(model, read_weights(path), path, may_miss=())
        _restore_optimizers(model, optimizers, load_file(path / "optimizer.safetensors"))
        return _position(state["position"])
    return None


def newest_position(folder: Path, run_fingerprint: str) -> Position | None:
    """Where a run stands by the newest checkpoint in `folder` that can be read, or None without one of this run."""
    for path in _newest_first(folder):
        with suppress(UserError, KeyError, TypeError):
            state = read_json(path / "state.json")
            return _position(state["position"]) if state["run_fingerprint"] == run_fingerprint else None
    return None


def _position(saved: dict[str, Any]) -> Position:
    ends = tuple(tuple(phase) for phase in saved["epoch_ends"])
    best = saved["best"] and tuple(saved["best"])
    return Position(**{**saved, "phase_steps": tuple(saved["phase_steps"]), "epoch_ends": ends, "best": best})


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if re.fullmatch(r"step-\d+", p.name)), reverse=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}:{key}": torch.as_tensor(value).detach().cpu().clone()
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _restore_optimizers(model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        name, _, key = full.rpartition(":")
        states.setdefault(name, {})[key] = value
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = next(n for n, p in parameters.items() if p is parameter)
                if name in states:
                    optimizer.state[parameter] = {
                        # Copies: what was loaded is the file itself, which a later checkpoint deletes.
                        key: value.to(parameter.device, copy=True)
                        for key, value in states[name].items()
                    }
