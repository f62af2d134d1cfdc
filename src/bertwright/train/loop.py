"""The training loop, one for pre-training and fine-tuning.

A step: build the rows of the global batch that this process owns, count the scored items in all processes, add up the
gradients of the micro-batches, clip, step, set the next learning rate. Because a batch is a function of its number, and
dropout is seeded by the step, a run that was killed and resumes from a checkpoint ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bertwright.errors import NotFiniteError, UserError
from bertwright.models.heads import Loss
from bertwright.settings import OptimizerConfig
from bertwright.train.checkpoint import Position, load_checkpoint, save_checkpoint
from bertwright.train.engine import Engine
from bertwright.train.metrics_log import MetricsLog, ProgressBar, Window
from bertwright.train.optim import learning_rate_factor, make_optimizers, set_learning_rate
from bertwright.train.prefetch import Batch, Prefetcher
from bertwright.train.tracking import Tracked, Tracker
from bertwright.train.training import Training

Notice = Callable[[str], None]
Watch = Callable[[float, dict[str, float], bool], None]


@dataclass(frozen=True)
class LoopConfig:
    """When the loop does what.

    Args:
        optimizer: the optimizer and its schedule.
        seed: of dropout.
        max_steps: the budget in steps, or
        max_seconds: the budget in seconds.
        log_every: steps between two lines of metrics.
        evaluate_every: steps between two evaluations.
        checkpoint_every: steps between two checkpoints.
        patience: evaluations after the best one that end the run before its budget does; None ends none.
        evaluate_first: whether there is an evaluation before the first step, of weights that are not random.
        tracked: what a tracker is told of the training run; None tells it nothing.
        watch: called after each evaluation: (fraction of the budget, metrics, whether it is the best); may raise.
    """

    optimizer: OptimizerConfig
    seed: int
    max_steps: int | None
    max_seconds: float | None
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    patience: int | None = None
    evaluate_first: bool = False
    tracked: Tracked | None = None
    watch: Watch | None = None

    @property
    def budget(self) -> str:
        """The budget in words, by which two of them are told apart."""
        return f"{self.max_steps} steps" if self.max_steps is not None else f"{self.max_seconds:g} seconds"


def train(
    training: Training, config: LoopConfig, engine: Engine, folder: Path, run_fingerprint: str, notice: Notice
) -> Position:
    """Train until the budget is spent, or patience is; resuming from the newest checkpoint in `folder`.

    Args:
        training: what to train, on which batches.
        config: budget, schedule and intervals.
        engine: the machine.
        folder: receives metrics.jsonl and checkpoints/, and what a tracker keeps with them.
        run_fingerprint: of all that decides the result; checkpoints of another run are not used.
        notice: told in a sentence about anything a user should know.

    Returns:
        Where the run ended.

    Raises:
        NotFiniteError: if the loss is not a number; a checkpoint keeps the last good weights.
        UserError: if the tracker cannot start.
    """
    run = _Run(training, config, engine, folder, run_fingerprint, notice)
    try:
        with closing(Prefetcher(training, engine)) as prefetcher:
            if config.evaluate_first and run.position.step == 0:
                run.evaluate(0)
            while not run.is_over:
                run.step(prefetcher)
    finally:
        run.close()
    return run.position


class _Run:
    """One training run at work; arguments as for `train`."""

    def __init__(
        self, training: Training, config: LoopConfig, engine: Engine, folder: Path, run_fingerprint: str, notice: Notice
    ) -> None:
        self.training, self.config, self.engine = training, config, engine
        self.model = training.model.to(engine.device)
        self.optimizers = make_optimizers(self.model, self.model.encoder.matrices(), config.optimizer)
        self.checkpoints, self.fingerprint = folder / "checkpoints", run_fingerprint
        resumed = load_checkpoint(self.checkpoints, self.model, self.optimizers, run_fingerprint, notice)
        self._require_same_start(0 if resumed is None else resumed.step)
        if resumed is not None:
            notice(f"resuming from step {resumed.step} ({self.checkpoints})")
            if resumed.epoch_ends:
                training.epoch_ends = resumed.epoch_ends
        self.position = resumed or Position(phase_steps=(0,) * len(training.phase_ratios))
        self._plan(notice)
        self.saved_step = resumed.step if resumed else -1
        flops = 6 * sum(matrix.numel() for matrix in self.model.encoder.matrices()) * training.step_tokens
        compiles = engine.repays_compiling(flops * (config.max_steps or 0), config.max_seconds or 0.0)
        self.objective = engine.prepare(training.objective, training.objective.parts() if compiles else ())
        self.metrics: MetricsLog | None = None
        with engine.together():
            if engine.is_main:
                tracker = Tracker(engine, config.tracked, folder, self.position.step, notice)
                self.metrics = MetricsLog(folder, self.position.step, tracker)
        self.bar = ProgressBar(config.max_steps, config.max_seconds, self.position, visible=engine.is_main)
        self.compiled = False  # the first step compiles, and is not training time
        if compiles:
            notice("compiling the network, which takes up to a minute")
            self.bar.say("compiling, up to a minute")
        self.step_fraction, self.window = 0.0, Window()

    def _require_same_start(self, step: int) -> None:
        """See that all processes resume from the same step: with other optimizer states they would drift apart."""
        first = round(self.engine.from_main(float(step)))
        with self.engine.together():
            if step != first:
                raise UserError(
                    f"one process found a checkpoint of step {first:,} and another one of step {step:,} in "
                    f"{self.checkpoints}; put the run folder on a file system that all machines share"
                )

    def _plan(self, notice: Notice) -> None:
        """Where a run of another budget is continued, remember at which rate: the schedule leads on from there."""
        position, config = self.position, self.config
        if position.budget not in ("", config.budget):
            position.begun, position.begun_factor = self.progress, position.rate_factor
            notice(
                f"the budget was {position.budget} and is now {config.budget}: the learning rate climbs from "
                f"{position.begun_factor:.2f} of its peak to the line of the new budget, and falls with it to zero"
            )
        position.budget = config.budget

    @property
    def progress(self) -> float:
        """The fraction of the budget that is spent."""
        if self.config.max_steps is not None:
            return self.position.step / self.config.max_steps
        assert self.config.max_seconds is not None
        return self.position.seconds / self.config.max_seconds

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        patience = self.config.patience
        return self.progress >= 1 or (patience is not None and self.position.evaluations_since >= patience)

    def step(self, prefetcher: Prefetcher) -> None:
        """One step, with the logging, evaluation and saving that fall due after it."""
        config, position = self.config, self.position
        phase = _phase(self.progress, self.training.phase_ratios)
        start = time.perf_counter()
        if config.max_steps:
            self.step_fraction = 1 / config.max_steps
        position.rate_factor = learning_rate_factor(
            self.progress, self.step_fraction, config.optimizer.warmup_ratio, position.begun, position.begun_factor
        )
        rate = set_learning_rate(self.optimizers, position.rate_factor)
        self.objective.train()
        batches, waited = prefetcher.take(phase, position.phase_steps[phase])
        metrics = gradients(self.training, self.objective, config, self.engine, position.step, batches)
        metrics["data_wait"] = waited
        self._require_finite(metrics)
        update(self.optimizers, self.engine)
        self._count(phase, metrics, self.engine.from_main(time.perf_counter() - start))
        finished = self.progress >= 1
        if position.step % config.log_every == 0 or finished:
            self._log({"learning_rate": rate, "phase": phase})
        self.bar.advance(position)
        if position.step % config.evaluate_every == 0 or finished:
            self.evaluate(phase)
        if position.step % config.checkpoint_every == 0 or self.is_over:
            self._save()
        self.window.restart_if_empty()  # evaluation and saving are not counted against throughput

    def _require_finite(self, metrics: dict[str, float]) -> None:
        if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
            self._save()
            raise NotFiniteError(
                f"the loss became {metrics['loss']:g} at step {self.position.step + 1}; the weights before it are kept "
                f"in {self.checkpoints}: try a lower learning_rate, a longer warmup_ratio, or system.precision fp32"
            )

    def _count(self, phase: int, metrics: dict[str, float], elapsed: float) -> None:
        """Move the position on by a step of `elapsed` seconds."""
        position = self.position
        if self.compiled:
            position.seconds += elapsed
            if self.config.max_seconds:
                self.step_fraction = elapsed / self.config.max_seconds
        else:
            self.window = Window(untimed_tokens=metrics["tokens"])
            metrics["data_wait"] = 0.0  # the first batch waits for the plan of an epoch: start-up, too
        self.compiled = True
        position.step += 1
        position.tokens += int(metrics["tokens"])
        position.phase_steps = tuple(steps + (each == phase) for each, steps in enumerate(position.phase_steps))
        self.window.add(metrics)

    def _log(self, more: dict[str, float]) -> None:
        line = self.window.averages()
        if self.metrics is not None:
            self.metrics.write("train", self.position, {**line, **more})
        self.bar.show(line)
        self.window = Window()

    def evaluate(self, phase: int) -> None:
        """Measure the weights on held-out data, as in a phase, and log that."""
        self.objective.eval()
        # Uncompiled: compiling once more, without gradients, takes longer than it saves.
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            metrics = self.training.evaluate(self.objective, self.engine, phase)
        best = self.training.on_evaluation(metrics, self.position.best, self.engine)
        self.position.evaluations_since = 0 if best != self.position.best else self.position.evaluations_since + 1
        self.position.best = best
        if self.metrics is not None:
            self.metrics.write("eval", self.position, metrics)
        if self.config.watch is not None:
            self.config.watch(self.progress, metrics, self.position.evaluations_since == 0)

    def _save(self) -> None:
        with self.engine.together():
            if self.engine.is_main and self.position.step != self.saved_step:
                self.position.epoch_ends = self.training.epoch_ends
                save_checkpoint(self.checkpoints, self.model, self.optimizers, self.position, self.fingerprint)
        self.saved_step = self.position.step

    def close(self) -> None:
        """Close the files, and let go of the model."""
        self.bar.close()
        if self.metrics is not None:
            self.metrics.close()
        self.engine.release()


def gradients(
    training: Training, objective: nn.Module, config: LoopConfig, engine: Engine, step: int, batches: list[Batch]
) -> dict[str, float]:
    """Gradients of one global batch, clipped.

    Args:
        training: counts the items that a batch scores.
        objective: of the training run, prepared by the engine.
        config: of the loop.
        engine: the machine.
        step: decides dropout.
        batches: this process's micro-batches of the global batch.

    Returns:
        Sums over the global batch of losses, right predictions, scored items and tokens; the loss and the gradients'
        norm.
    """
    per_batch = [training.counts(batch) for batch in batches]
    names = list(per_batch[0])
    local = torch.tensor([sum(counts[name] for counts in per_batch) for name in names], dtype=torch.float64)
    totals = dict(zip(names, engine.sum(local).tolist(), strict=True))
    dropout = ((config.seed * 1_000_003 + step) * 8_191 + engine.rank) % 2**63
    torch.manual_seed(dropout)
    batches = training.objective.completed(objective, batches, engine)
    torch.manual_seed(dropout)  # the same elements again, if they were dropped for that already
    sums: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        with nullcontext() if last else engine.accumulate(objective):
            losses: dict[str, Loss] = objective(**{name: value.to(engine.device) for name, value in batch.items()})
            # Over all items that the global batch scores, whichever of them stand in this micro-batch; times the number
            # of processes, because their gradients are averaged.
            loss = sum(losses[name].total / max(1.0, totals[name]) for name in names if name in losses)
            assert isinstance(loss, Tensor)
            engine.backward(loss * engine.world)
        for name, value in _sums(losses).items():
            sums[name] = sums.get(name, torch.zeros((), device=engine.device)) + value.detach().float()
    norm = engine.clip_gradients(objective, config.optimizer.max_grad_norm)
    gathered = engine.sum(torch.stack([*sums.values()]).cpu().double()).tolist()  # an Apple GPU has no float64
    metrics = dict(zip(sums, gathered, strict=True)) | {f"{name}_count": totals[name] for name in names}
    metrics["tokens"] = totals["tokens"]
    metrics["grad_norm"] = norm
    metrics["loss"] = sum(
        metrics[f"{name}_loss"] / max(1.0, totals[name]) for name in names if f"{name}_loss" in metrics
    )
    return metrics


def _sums(losses: dict[str, Loss]) -> dict[str, Tensor]:
    right = {f"{name}_correct": loss.correct for name, loss in losses.items() if loss.correct is not None}
    return {f"{name}_loss": loss.total for name, loss in losses.items()} | right


def update(optimizers: list[torch.optim.Optimizer], engine: Engine) -> None:
    """Step by the gradients, in the run's precision, since Muon multiplies; then forget them."""
    with engine.autocast():
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _phase(progress: float, ratios: tuple[float, ...]) -> int:
    """The phase in which a fraction of the budget falls."""
    end = 0.0
    for phase, ratio in enumerate(ratios):
        end += ratio
        if progress < end - 1e-9:
            return phase
    return len(ratios) - 1
