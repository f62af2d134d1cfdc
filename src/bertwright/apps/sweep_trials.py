"""The trials of a sweep: what Optuna asks for, fine-tuned and scored on the validation set.

The file of trials is all that a sweep remembers. Optuna's study is made from it before each trial, so that a sweep that
was killed continues as if it had not been.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from bertwright.apps.sweep_space import Space, changed, described, described_space, own_values, rounded
from bertwright.errors import NotFiniteError, UserError
from bertwright.evaluate.comparison import metric_name
from bertwright.files import read_json, write_json
from bertwright.pipeline import say
from bertwright.recipe import Recipe
from bertwright.tasks.finetune import finetune
from bertwright.train.engine import Engine

_QUARTERS = 4
"""Points of a trial's own budget at which it is compared with others."""

_STARTUP = 5
"""Trials that reach their end before one is ended early."""

_FIRST_QUARTER = 2
"""Where a trial can first be ended early: before half of its budget many models are still at chance."""

_LEAST = 3
"""Trials that must have passed a point before another one is compared with them there."""


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Args:
        values: that were tried, by setting.
        state: whether it reached its end, was ended early, or lost its way: its loss was no number.
        seconds: that it took.
        reached: what trials are compared by, on the validation set at quarters of its budget, by the quarter's number.
        value: the same of the checkpoint that is kept, where it reached its end: the loss, or the metric that
            finetune.metric_for_best_model names.
        score: the primary metric of that checkpoint on the validation set, where its labels define it.
    """

    values: dict[str, Any]
    state: Literal["complete", "pruned", "diverged"]
    seconds: float
    reached: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    score: float | None = None


class OutOfTime(Exception):
    """The minutes are over while a trial is at work."""


class Watch:
    """Told about a trial's evaluations: remembers the best, and ends it when Optuna says so or time is up.

    Trials may have different numbers of epochs. Each is compared at quarters of its own budget, since the learning rate
    falls with that: a long trial looks bad after as many epochs as a short one has in all. Between two evaluations the
    loss or metric is taken to change evenly.

    Args:
        trial: Optuna's.
        chosen_by: what trials are compared by: loss, or a metric.
        metric: the primary one, to be shown.
        deadline: on the monotonic clock, when time is up.
    """

    def __init__(self, trial: optuna.Trial, chosen_by: str, metric: str, deadline: float) -> None:
        self.trial = trial
        self.chosen_by = chosen_by
        self.metric = metric
        self.deadline = deadline
        self.value: float | None = None
        self.score: float | None = None
        self.reached: dict[int, float] = {}
        self._before: tuple[float, float] | None = None

    def __call__(self, progress: float, metrics: dict[str, float], is_best: bool) -> None:
        """An evaluation when a fraction of the budget is spent, and whether its checkpoint is the one that is kept."""
        value = metrics[self.chosen_by]
        if not math.isfinite(value):
            raise NotFiniteError(f"the {self.chosen_by} on the validation set became {value:g}")
        if is_best:
            self.value, self.score = value, metrics.get(self.metric)
        for quarter, between in quarters(self._before, (progress, value)):
            self.reached[quarter] = between
            self.trial.report(between, quarter)
        self._before = (progress, value)
        if progress < 1:
            if self.trial.should_prune():
                raise optuna.TrialPruned
            if time.monotonic() > self.deadline:
                raise OutOfTime


def quarters(before: tuple[float, float] | None, now: tuple[float, float]) -> list[tuple[int, float]]:
    """The quarters of a budget between two evaluations, or at the second one, with what is compared there.

    Args:
        before: the fraction of the budget at the evaluation before, and the value then; None if there was none.
        now: those of this evaluation.
    """
    found = []
    for quarter in range(1, _QUARTERS + 1):
        place = quarter / _QUARTERS
        if math.isclose(place, now[0]):
            found.append((quarter, now[1]))
        elif before is not None and before[0] < place < now[0] and not math.isclose(place, before[0]):
            found.append((quarter, before[1] + (now[1] - before[1]) * (place - before[0]) / (now[0] - before[0])))
    return found


@dataclass(frozen=True)
class Search:
    """The trials of a sweep.

    Args:
        recipe: the whole recipe.
        space: what is searched.
        encoder: a model folder that all trials start from.
        folder: of the sweep; receives trials.json.
        fingerprint: of all that decides the trials.
        metric: the primary one of the task on these data.
        engine: the machine.
    """

    recipe: Recipe
    space: Space
    encoder: Path
    folder: Path
    fingerprint: str
    metric: str
    engine: Engine

    @property
    def chosen_by(self) -> str:
        """What trials are compared by, as checkpoints of a run are: loss, or a metric."""
        return self.recipe.finetune.metric_for_best_model

    def trials(self, seconds: float, most: int | None) -> list[Trial]:
        """Do trials until time is up, or there are enough; returns all, with those of an earlier call.

        Args:
            seconds: of all trials together.
            most: how many trials; None sets no limit.
        """
        spent, ended = self._load()
        say(f"searching {described_space(self.space)}")
        if ended:
            say(f"resuming after {len(ended)} trials, which took {spent / 60:.1f} minutes")
        while spent < seconds and (most is None or len(ended) < most):
            start = time.monotonic()
            # Until one trial has reached its end there is nothing to show: that one may take longer.
            left = seconds - spent if any(trial.value is not None for trial in ended) else math.inf
            trial = self._trial(ended, start + left)
            spent += time.monotonic() - start
            if trial is None:
                say("time is up: the trial at work is left out")
            else:
                ended.append(replace(trial, seconds=round(time.monotonic() - start, 2)))
                say(self._told(ended))
            state = {"fingerprint": self.fingerprint, "metric": self.metric, "seconds": round(spent, 2)}
            write_json(self.folder / "trials.json", state | {"trials": [asdict(one) for one in ended]})
        return ended

    def _load(self) -> tuple[float, list[Trial]]:
        """Seconds spent, and trials ended, in earlier calls.

        Raises:
            UserError: if they are of another sweep.
        """
        path = self.folder / "trials.json"
        if not path.exists():
            return 0.0, []
        state = read_json(path)
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{path} has the trials of another recipe, of other data or of another search; name another run folder "
                f"with --out, or remove {self.folder}"
            )
        reached = [{int(quarter): value for quarter, value in one["reached"].items()} for one in state["trials"]]
        return state["seconds"], [
            Trial(**one | {"reached": own}) for one, own in zip(state["trials"], reached, strict=True)
        ]

    def study(self, ended: Sequence[Trial]) -> optuna.Study:
        """Optuna's study of trials that have ended; what it asks for next depends on them and the seed alone."""
        study = optuna.create_study(
            direction="minimize" if self.chosen_by == "loss" else "maximize",
            sampler=optuna.samplers.TPESampler(seed=(self.recipe.seed * 1_000_003 + len(ended)) % 2**32),
            pruner=optuna.pruners.MedianPruner(_STARTUP, n_warmup_steps=_FIRST_QUARTER, n_min_trials=_LEAST),
        )
        for trial in ended:
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.PRUNED if trial.value is None else TrialState.COMPLETE,
                    value=trial.value,
                    params=trial.values,
                    distributions=self.space,
                    intermediate_values=trial.reached,
                )
            )
        return study

    def _trial(self, ended: Sequence[Trial], deadline: float) -> Trial | None:
        """One more trial; None if time was up before its end."""
        study = self.study(ended)
        own = own_values(self.recipe, self.space)
        if not ended and own is not None:
            study.enqueue_trial(own)  # so that the sweep compares with what the recipe has
        asked = study.ask(self.space)
        values = rounded(self.space, asked.params) if ended or own is None else own
        tried = changed(self.recipe, values)
        tried = replace(tried, finetune=replace(tried.finetune, seeds=tried.finetune.seeds[:1]))
        watch, place = Watch(asked, self.chosen_by, self.metric, deadline), self.folder / "trial"
        say(f"trial {len(ended) + 1}: {described(values)}")
        notice: Callable[[str], None] = _quiet if ended else say
        shutil.rmtree(place, ignore_errors=True)  # of a trial that was killed
        state: Literal["complete", "pruned", "diverged"] = "complete"
        try:
            finetune(tried, self.encoder, place, self.fingerprint, self.engine, notice, watch)
        except optuna.TrialPruned:
            state = "pruned"
        except NotFiniteError:
            state = "diverged"
        except OutOfTime:
            return None
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if state != "complete":
            return Trial(values, state, 0.0, watch.reached)
        return Trial(values, state, 0.0, watch.reached, watch.value, watch.score)

    def _told(self, ended: list[Trial]) -> str:
        """The last trial's end, in words."""
        trial = ended[-1]
        text = f"trial {len(ended)}: "
        if trial.state == "diverged":
            text += "the loss became infinite or no number"
        elif trial.state == "pruned":
            quarter, value = list(trial.reached.items())[-1]
            text += (
                f"ended early, with {metric_name(self.chosen_by)} {value:.4f} after {quarter} of {_QUARTERS} quarters"
            )
        else:
            text += shown(self.chosen_by, self.metric, trial)
        best = best_of(ended, self.chosen_by)
        return f"{text} ({trial.seconds:.0f} s)" + ("" if best is None else f"; best so far: {best.value:.4f}")


def best_of(ended: Sequence[Trial], chosen_by: str) -> Trial | None:
    """The first of the best trials that reached their end; None without any."""
    sign = 1 if chosen_by == "loss" else -1
    complete = [trial for trial in ended if trial.value is not None]
    return min(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)


def shown(chosen_by: str, metric: str, trial: Trial) -> str:
    """A trial's value and its primary metric, for people."""
    own = f"{metric_name(chosen_by)} {trial.value:.4f}"
    return own if metric == chosen_by or trial.score is None else f"{own}, {metric_name(metric)} {trial.score:.4f}"


def _quiet(text: str) -> None:
    """What the first trial has said is the same in all others."""
