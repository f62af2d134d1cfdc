"""The training loop, one for pre-training and fine-tuning.

A step: build the rows of the global batch that this process owns, count what is scored in all processes, add up the
gradients of the micro-batches, clip, step, set the next learning rate. Because a batch is a function of its number, and
dropout is seeded by the step, a run that was killed and goes on from a checkpoint ends with the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from bertwright.config import OptimizerConfig
from bertwright.errors import UserError
from bertwright.files import write_text
from bertwright.model.heads import BertForPreTraining, BertForSequenceClassification
from bertwright.train.checkpoint import Position, load_checkpoint, save_checkpoint
from bertwright.train.engine import Engine
from bertwright.train.optim import learning_rate_factor, make_optimizers, set_learning_rate

Batch = dict[str, Tensor]


class Task(Protocol):
    """What the loop must know of a task. `tasks/pretrain.py` and `tasks/classify.py` have one each."""

    @property
    def model(self) -> BertForPreTraining | BertForSequenceClassification:
        """The model whose weights are trained and saved."""
        ...

    @property
    def objective(self) -> nn.Module:
        """Called with a batch; returns {"<name>_loss": sum, "<name>_correct": number} for each objective."""
        ...

    @property
    def phase_shares(self) -> tuple[float, ...]:
        """The part of the budget that each phase gets."""
        ...

    def micro_batches(self, phase: int, number: int, rank: int, world: int) -> list[Batch]:
        """This process's rows of global batch `number` of a phase, in micro-batches."""
        ...

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many predictions of each objective a batch scores, and its real "tokens"."""
        ...

    def evaluate(self, objective: nn.Module, engine: Engine, phase: int) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def on_evaluation(self, figures: dict[str, float], best: float | None, engine: Engine) -> float | None:
        """Told about each evaluation, in every process; returns the best score so far, if the task chooses by one."""
        ...


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
    """

    optimizer: OptimizerConfig
    seed: int
    max_steps: int | None
    max_seconds: float | None
    log_every: int
    evaluate_every: int
    checkpoint_every: int


def train(
    task: Task, config: LoopConfig, engine: Engine, folder: Path, run_fingerprint: str, notice: Callable[[str], None]
) -> Position:
    """Train until the budget is spent, going on from the newest checkpoint in `folder`.

    Args:
        task: what to train.
        config: budget, schedule and intervals.
        engine: the machine.
        folder: receives metrics.jsonl, tensorboard/ and checkpoints/.
        run_fingerprint: of all that decides the outcome; checkpoints of another run are not used.
        notice: told in a sentence about anything a user should know.

    Returns:
        Where the run ended.

    Raises:
        UserError: if the loss is not a number; a checkpoint keeps the last good weights.
    """
    model = task.model.to(engine.device)
    optimizers = make_optimizers(model, config.optimizer)
    position = Position(phase_steps=(0,) * len(task.phase_shares))
    checkpoints = folder / "checkpoints"
    resumed = load_checkpoint(checkpoints, model, optimizers, run_fingerprint, notice)
    if resumed is not None:
        position = resumed
        notice(f"going on from step {position.step} ({checkpoints})")
    objective = engine.prepare(task.objective)
    metrics = _Metrics(folder, position.step) if engine.is_main else None
    saved_step = position.step if resumed else -1

    def save() -> None:
        nonlocal saved_step
        if engine.is_main and position.step != saved_step:
            save_checkpoint(checkpoints, model, optimizers, position, run_fingerprint)
        saved_step = position.step
        engine.accelerator.wait_for_everyone()

    def evaluate(phase: int) -> None:
        objective.eval()
        with torch.inference_mode():
            figures = task.evaluate(objective, engine, phase)
        position.best = task.on_evaluation(figures, position.best, engine)
        if metrics is not None:
            metrics.write("eval", position, figures)

    bar = _ProgressBar(config, position, visible=engine.is_main)
    window: dict[str, float] = {}
    window_start = time.perf_counter()
    seen_phase: int | None = None
    phase = 0
    tick = 0.0
    with closing(Ahead(task, engine)) as ahead:
        while (progress := _progress(position, config)) < 1:
            phase = _phase(progress, task.phase_shares)
            start = time.perf_counter()
            tick = 1 / config.max_steps if config.max_steps else tick
            rate = set_learning_rate(optimizers, learning_rate_factor(progress, tick, config.optimizer.warmup_share))
            objective.train()
            batches, waited = ahead.take(phase, position.phase_steps[phase])
            figures = gradients(task, objective, config, engine, position.step, batches) | {"data_wait": waited}
            if not math.isfinite(figures["loss"]) or not math.isfinite(figures["grad_norm"]):
                save()
                raise UserError(
                    f"the loss became {figures['loss']:g} at step {position.step + 1}; the weights before it are kept "
                    f"in {checkpoints}: try a lower learning_rate, a longer warmup_share, or system.precision fp32"
                )
            update(optimizers, engine)
            elapsed = engine.from_main(time.perf_counter() - start)
            if seen_phase is not None:  # the first step compiles: that is not training time
                position.seconds += elapsed
                tick = elapsed / config.max_seconds if config.max_seconds else tick
            else:
                window_start = time.perf_counter()
                window = {"untimed_tokens": figures["tokens"]}
                figures["data_wait"] = 0.0  # the first batch waits for the plan of an epoch: start-up, too
            seen_phase = phase
            position.step += 1
            position.tokens += int(figures["tokens"])
            steps = list(position.phase_steps)
            steps[phase] += 1
            position.phase_steps = tuple(steps)

            for name, value in figures.items():
                window[name] = window.get(name, 0.0) + value
            window["steps"] = window.get("steps", 0.0) + 1
            finished = _progress(position, config) >= 1
            if position.step % config.log_every == 0 or finished:
                line = _averages(window, time.perf_counter() - window_start)
                if metrics is not None:
                    metrics.write("train", position, {**line, "learning_rate": rate, "phase": phase})
                bar.show(line)
                window = {}
            bar.advance(position)
            if position.step % config.evaluate_every == 0 or finished:
                evaluate(phase)
            if position.step % config.checkpoint_every == 0 or finished:
                save()
            if not window:
                window_start = time.perf_counter()  # evaluation and saving are not counted against throughput
    bar.close()
    if metrics is not None:
        metrics.close()
    return position


class Ahead:
    """Global batches, each built in a thread while the machine computes on the one before.

    Args:
        task: makes the batches.
        engine: says which rows are this process's.
    """

    def __init__(self, task: Task, engine: Engine) -> None:
        self._task = task
        self._engine = engine
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, int] | None = None
        self._building: Future[list[Batch]]

    def _start(self, phase: int, number: int) -> None:
        self._next = (phase, number)
        self._building = self._pool.submit(
            self._task.micro_batches, phase, number, self._engine.rank, self._engine.world
        )

    def take(self, phase: int, number: int) -> tuple[list[Batch], float]:
        """The micro-batches of a global batch, and the seconds that they were waited for; starts on the next one."""
        start = time.perf_counter()
        if self._next != (phase, number):
            self._start(phase, number)
        batches = self._building.result()
        waited = time.perf_counter() - start
        self._start(phase, number + 1)
        return batches, waited

    def close(self) -> None:
        """Build no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def gradients(
    task: Task, objective: nn.Module, config: LoopConfig, engine: Engine, step: int, batches: list[Batch]
) -> dict[str, float]:
    """Gradients of one global batch, clipped.

    Args:
        task: counts what a batch scores.
        objective: the task's, prepared by the engine.
        config: of the loop.
        engine: the machine.
        step: decides dropout.
        batches: this process's micro-batches of the global batch.

    Returns:
        Sums over the global batch of what was seen and scored, the loss and the gradients' norm.
    """
    per_batch = [task.counts(batch) for batch in batches]
    names = list(per_batch[0])
    local = torch.tensor([sum(counts[name] for counts in per_batch) for name in names], dtype=torch.float64)
    totals = dict(zip(names, engine.sum(local).tolist(), strict=True))
    torch.manual_seed(_step_seed(config.seed, step, engine.rank))
    sums: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        with nullcontext() if last else engine.accelerator.no_sync(objective):
            outcome = objective(**{name: value.to(engine.device) for name, value in batch.items()})
            # Over all that the global batch scores, whatever share of it stands in this micro-batch; times the number
            # of processes, because their gradients are averaged.
            loss = sum(outcome[f"{name}_loss"] / max(1.0, totals[name]) for name in names if f"{name}_loss" in outcome)
            engine.accelerator.backward(loss * engine.world)
        for name, value in outcome.items():
            sums[name] = sums.get(name, torch.zeros((), device=engine.device)) + value.detach().float()
    norm = engine.accelerator.clip_grad_norm_(objective.parameters(), config.optimizer.max_grad_norm)
    gathered = engine.sum(torch.stack([*sums.values()]).cpu().double()).tolist()  # an Apple GPU has no float64
    figures = dict(zip(sums, gathered, strict=True)) | {f"{name}_count": totals[name] for name in names}
    figures["tokens"] = totals["tokens"]
    figures["grad_norm"] = float(norm)
    figures["loss"] = sum(
        figures[f"{name}_loss"] / max(1.0, totals[name]) for name in names if f"{name}_loss" in figures
    )
    return figures


def update(optimizers: list[torch.optim.Optimizer], engine: Engine) -> None:
    """Step by the gradients, in the run's precision, since Muon multiplies; then forget them."""
    with engine.accelerator.autocast():
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 8_191 + rank) % 2**63


def _progress(position: Position, config: LoopConfig) -> float:
    if config.max_steps is not None:
        return position.step / config.max_steps
    assert config.max_seconds is not None
    return position.seconds / config.max_seconds


def _phase(progress: float, shares: tuple[float, ...]) -> int:
    """The phase in which a part of the budget falls."""
    end = 0.0
    for phase, share in enumerate(shares):
        end += share
        if progress < end - 1e-9:
            return phase
    return len(shares) - 1


def _averages(window: dict[str, float], seconds: float) -> dict[str, float]:
    """Per scored prediction for losses and accuracies, per step for the rest, and real tokens per second."""
    steps = window["steps"]
    line = {"loss": window["loss"] / steps, "grad_norm": window["grad_norm"] / steps}
    line["data_wait_share"] = window["data_wait"] / max(1e-9, seconds)
    for name in [key.removesuffix("_loss") for key in window if key.endswith("_loss")]:
        if window[f"{name}_count"]:  # a phase can leave an objective out
            line[f"{name}_loss"] = window[f"{name}_loss"] / window[f"{name}_count"]
            line[f"{name}_accuracy"] = window[f"{name}_correct"] / window[f"{name}_count"]
    timed = window["tokens"] - window.get("untimed_tokens", 0.0)
    if timed > 0:
        line["tokens_per_second"] = timed / max(1e-9, seconds)
    return line


class _Metrics:
    """metrics.jsonl and TensorBoard events; lines after the step that a run resumes from are dropped first."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= step]
        write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, position: Position, figures: dict[str, float]) -> None:
        head: dict[str, Any] = {"kind": kind, "step": position.step, "seconds": round(position.seconds, 2)}
        self._file.write(json.dumps(head | {"tokens": position.tokens} | figures) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, position.step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _lines(path: Path) -> Iterator[str]:
    """Whole lines of a file that may be missing or end in half a line."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("}\n"):
                yield line.rstrip("\n")


class _ProgressBar:
    """Steps or seconds done, with the figures of the last log line."""

    def __init__(self, config: LoopConfig, position: Position, visible: bool) -> None:
        self._by_time = config.max_steps is None
        self._total = round((config.max_seconds if config.max_steps is None else config.max_steps) or 0)
        self._bar = tqdm(
            total=self._total,
            initial=round(self._done(position)),
            unit="s" if self._by_time else "step",
            disable=not visible,
            dynamic_ncols=True,
            mininterval=1.0,
            bar_format="{l_bar}{bar:20}| {n:.0f}/{total:.0f} {unit}, {remaining} left {postfix}",
        )

    def _done(self, position: Position) -> float:
        return position.seconds if self._by_time else position.step

    def advance(self, position: Position) -> None:
        self._bar.update(min(self._done(position), self._total) - self._bar.n)

    def show(self, line: dict[str, float]) -> None:
        shown = {"loss": f"{line['loss']:.3f}"}
        shown |= {key.replace("_accuracy", ""): f"{value:.1%}" for key, value in line.items() if "accuracy" in key}
        if "tokens_per_second" in line:
            shown["tok/s"] = f"{line['tokens_per_second']:,.0f}"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        self._bar.close()
