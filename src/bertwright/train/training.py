"""What the loop must know of a training run."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from bertwright.models.checkpoints import AnyModel
from bertwright.train.checkpoint import Best, EpochEnds
from bertwright.train.engine import Engine
from bertwright.train.prefetch import Batch, BatchSource


class Objective(nn.Module):
    """A model with its losses: called with a batch, it returns a `Loss` for each objective, by name.

    Args:
        model: the model.
    """

    def __init__(self, model: AnyModel) -> None:
        super().__init__()
        self.model = model

    def parts(self) -> list[nn.Module]:
        """The modules that the compiler compiles each by itself: here all as one, slow to compile and fast."""
        return [self]

    def completed(self, prepared: nn.Module, batches: list[Batch], engine: Engine) -> list[Batch]:
        """Micro-batches with what a loss over the whole global batch needs; those of most losses are complete.

        Args:
            prepared: this objective, as the engine has prepared it.
            batches: this process's micro-batches of a global batch.
            engine: the machine.
        """
        return batches


class Training(BatchSource, Protocol):
    """What the loop must know of a training run: `tasks/pretraining.py` and `tasks/finetune.py` have one each."""

    @property
    def model(self) -> AnyModel:
        """The model whose weights are trained and saved."""
        ...

    @property
    def objective(self) -> Objective:
        """What is called with a batch."""
        ...

    @property
    def phase_ratios(self) -> tuple[float, ...]:
        """The fraction of the budget that each phase gets."""
        ...

    @property
    def step_tokens(self) -> int:
        """About how many tokens a global batch has."""
        ...

    @property
    def epoch_ends(self) -> EpochEnds:
        """What has been found out about the lengths of epochs, for each phase; kept in checkpoints."""
        ...

    @epoch_ends.setter
    def epoch_ends(self, ends: EpochEnds) -> None: ...

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many items of each objective a batch scores, and its real "tokens", before the batch is computed."""
        ...

    def evaluate(self, objective: nn.Module, engine: Engine, phase: int) -> dict[str, float]:
        """Metrics on held-out data."""
        ...

    def on_evaluation(self, metrics: dict[str, float], best: Best | None, engine: Engine) -> Best | None:
        """Told about each evaluation, in every process; returns the best so far, if it chooses a checkpoint by one."""
        ...
