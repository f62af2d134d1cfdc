"""The picture of a sweep: which setting mattered, and what each trial is compared by over each setting's value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from bertwright.apps.sweep_space import Space, written
from bertwright.evaluate.plots import Paint, Theme, save_panels

_FEW = 10
"""Trials that reached their end below which the fractions of variance say little."""

Importances = dict[str, float]


def importances(study: optuna.Study, space: Space) -> Importances:
    """The fraction of the variance between trials that each setting explains by itself, largest first (fANOVA).

    Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance". Of a setting
    that is searched by its logarithm, the logarithm counts: half of the range is then half of what was searched.

    Args:
        study: of all trials; those that reached their end count.
        space: what was searched.

    Returns:
        Fractions by setting, which with those of interactions add up to 1; nothing where all values are equal.
    """
    complete = [trial for trial in study.get_trials() if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in complete}) < 2:
        return {}
    plain = {name: _linear(own) for name, own in space.items()}
    copy = optuna.create_study(directions=study.directions)
    for trial in complete:
        params = {name: math.log(value) if _is_log(space[name]) else value for name, value in trial.params.items()}
        copy.add_trial(optuna.trial.create_trial(value=trial.value, params=params, distributions=plain))
    return optuna.importance.FanovaImportanceEvaluator(seed=0).evaluate(copy)


def described_importances(found: Importances) -> str:
    """Importances in words."""
    if not found:
        return "what mattered: all trials that reached their end are equally good"
    parts = ", ".join(f"{name} {value:.0%}" for name, value in found.items())
    return f"what mattered, as a fraction of the variance between trials: {parts}"


def save_sweep(study: optuna.Study, found: Importances, space: Space, measure: str, folder: Path) -> Path:
    """Draw sweep.png, and sweep-dark.png for dark pages.

    Args:
        study: of all trials.
        found: from `importances`.
        space: what was searched.
        measure: what trials are compared by, for people.
        folder: receives both.

    Returns:
        The light one.
    """
    trials = study.get_trials()
    order = [*found, *(name for name in space if name not in found)]
    paints = [_bars(found, sum(trial.state == TrialState.COMPLETE for trial in trials))]
    paints += [
        _scatter(trials, study.best_trial, name, space[name], measure, number) for number, name in enumerate(order)
    ]
    columns = 2 if len(paints) <= 4 else 3
    size = (4.7 * columns, 3.5 * math.ceil(len(paints) / columns))
    save_panels(folder, "sweep", size, paints, columns)
    return folder / "sweep.png"


def _is_log(space: BaseDistribution) -> bool:
    return isinstance(space, FloatDistribution | IntDistribution) and space.log


def _linear(space: BaseDistribution) -> BaseDistribution:
    if not _is_log(space):
        return space
    assert isinstance(space, FloatDistribution | IntDistribution)
    return FloatDistribution(math.log(space.low), math.log(space.high))


def _bars(found: Mapping[str, float], complete: int) -> Paint:
    def paint(axes: Axes, theme: Theme) -> None:
        names = list(found)[::-1]
        axes.barh(range(len(names)), [found[name] for name in names], height=0.42, color=theme.cycle[0])
        for position, name in enumerate(names):
            axes.annotate(
                f"{found[name]:.0%}", (found[name], position), xytext=(6, 0), textcoords="offset points", va="center"
            )
            axes.text(0, position + 0.3, name, transform=axes.get_yaxis_transform(), fontsize=9.5)
        axes.set_yticks([])
        axes.set_ylim(-0.5, max(1, len(names)) - 0.25)
        axes.set_xlim(0, 1.12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        few = "; few trials, so rough" if complete < _FEW else ""
        axes.set_xlabel(f"of the variance of {complete} trials{few}")
        axes.set_title("What mattered" if found else "All trials are equal", loc="left", fontsize=10.5)

    return paint


def _scatter(
    trials: list[FrozenTrial], best: FrozenTrial, name: str, space: BaseDistribution, measure: str, number: int
) -> Paint:
    """A dot for each trial: filled where it reached its end, hollow where it was ended early."""
    words = list(space.choices) if isinstance(space, CategoricalDistribution) else None

    def place(trial: FrozenTrial) -> float:
        value: Any = trial.params[name]
        # Trials with the same word stand side by side, at places that depend on their number alone.
        return value if words is None else words.index(value) + 0.36 * (trial.number * 0.618 % 1 - 0.5)

    def paint(axes: Axes, theme: Theme) -> None:
        ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        early = [trial for trial in trials if trial.state == TrialState.PRUNED and trial.intermediate_values]
        last = [trial.intermediate_values[max(trial.intermediate_values)] for trial in early]
        axes.plot(
            [place(trial) for trial in early],
            last,
            "o",
            color=theme.muted,
            markerfacecolor=theme.background,
            markersize=5.5,
            label="ended early: last value" if early else None,
        )
        axes.plot(
            [place(trial) for trial in ended],
            [trial.values[0] for trial in ended],
            "o",
            color=theme.cycle[0],
            markersize=5.5,
            label="reached its end",
        )
        axes.plot([place(best)], [best.values[0]], "D", color=theme.cycle[1], markersize=8, label="the best")
        axes.set_title(f"{measure[0].upper()}{measure[1:]} on the validation set", loc="left", fontsize=10.5)
        axes.set_xlabel(name)
        _scale(axes, space)
        if number == 0:
            axes.legend(frameon=False, fontsize=8.5, loc="best", handlelength=1)

    return paint


def _scale(axes: Axes, space: BaseDistribution) -> None:
    if isinstance(space, CategoricalDistribution):
        axes.set_xticks(range(len(space.choices)), [written(choice) for choice in space.choices])
        axes.set_xlim(-0.5, len(space.choices) - 0.5)
        axes.grid(False, axis="x")
        return
    if _is_log(space):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(space, IntDistribution)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
