"""What a sweep searches: settings of fine-tuning and their values, from a recipe's `sweep` or around its own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bertwright.errors import UserError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.recipe import Recipe
from bertwright.recipe_file import change_recipe
from bertwright.tasks.finetune import check_encoder
from bertwright.tasks.registry import recipe_task

SHARED = (
    "data",
    "test_split",
    "task",
    "embedding",
    "label_names",
    "positive_label",
    "encoder",
    "unlabelled",
    "unlabelled_max_length",
    "co_training",
    "class_weights",
    "metric_for_best_model",
    "validation_ratio",
    "seeds",
    "optimizer",
)
"""Settings that all trials have in common: else their losses would be of different things."""

_WIDER = 4.0
"""How far a range of learning rates leads below and above the recipe's."""

_DIGITS = 3
"""Significant digits of a number that is drawn: nothing smaller matters, and a recipe stays readable."""

Space = dict[str, BaseDistribution]


def search_space(recipe: Recipe, rows: int | None = None) -> Space:
    """The settings to search, such as epochs or optimizer.learning_rate, each with Optuna's distribution.

    Args:
        recipe: with its own `sweep`, or without one.
        rows: of the training set; None where they are not known.

    Raises:
        UserError: if a setting is unknown or the same in all trials, or a value or two together do not fit.
    """
    opened = _opened(recipe.sweep) or _usual(recipe, rows)
    space: Space = {}
    ends: dict[str, list[Any]] = {}
    for name, own in opened.items():
        _check_name(name)
        ends[name] = _values(recipe, name, own, rows)
        space[name] = _distribution(name, own, ends[name])
    for one, other in combinations(ends, 2):
        for pair in product(ends[one], ends[other]):
            _check_pair(recipe, dict(zip((one, other), pair, strict=True)))
    return space


def check_encoder_fits(recipe: Recipe, space: Space, encoder: Path) -> None:
    """See that an encoder can be fine-tuned with the recipe's own values and with each that is searched.

    Raises:
        UserError: if it cannot, with the value.
    """
    check_encoder(recipe.finetune, encoder)
    for name, own in space.items():
        for value in _ends(own):
            try:
                check_encoder(_replaced(recipe, {name: value}).finetune, encoder)
            except UserError as error:
                raise _does_not_fit({name: value}, error) from error


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with some settings of fine-tuning replaced.

    Args:
        recipe: the recipe.
        values: by name, as in a space.

    Raises:
        UserError: if they do not fit, with the values.
    """
    try:
        return change_recipe(recipe, finetune=_by_section(values))
    except UserError as error:
        raise _does_not_fit(values, error) from error


def _does_not_fit(values: Mapping[str, Any], error: UserError) -> UserError:
    return UserError(f"the sweep opens {described(values)}, which does not fit: {error}")


def _fitting(recipe: Recipe, values: Mapping[str, Any], rows: int | None) -> Recipe:
    """As `changed`; values that the task or its data refuse are refused, too: such a trial would end each sweep."""
    found = changed(recipe, values)
    try:
        _check_task(found, rows)
    except UserError as error:
        raise _does_not_fit(values, error) from error
    return found


def _check_task(recipe: Recipe, rows: int | None) -> None:
    task = recipe_task(recipe)
    if rows is not None:
        task.check_training_set(rows)


def _check_pair(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """See that two settings fit each other and the task."""
    try:
        recipe_task(_replaced(recipe, values))
    except UserError as error:
        raise UserError(f"the sweep opens {described(values)}, which do not fit each other: {error}") from error


def _replaced(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """As `changed`, of values that each fit the recipe, so that the parser need not look at them again."""
    config, sections = recipe.finetune, _by_section(values)
    if "optimizer" in sections:
        sections["optimizer"] = replace(config.optimizer, **sections["optimizer"])
    return replace(recipe, finetune=replace(config, **sections))


def _by_section(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted names as the section finetune has them."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        section, _, leaf = name.rpartition(".")
        (plain.setdefault(section, {}) if section else plain)[leaf] = value
    return plain


def own_values(recipe: Recipe, space: Space) -> dict[str, Any] | None:
    """The recipe's own values of what is searched; None if one of them is not among those that are searched."""
    own = {name: _setting(recipe, name) for name in space}
    return own if all(_holds(space[name], value) for name, value in own.items()) else None


def rounded(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Values that a sampler has drawn, numbers of a range with few digits."""
    return {name: _rounded(space[name], value) for name, value in drawn.items()}


def described(values: Mapping[str, Any]) -> str:
    """Values for people."""
    return ", ".join(f"{name} {written(value)}" for name, value in values.items())


def described_space(space: Space) -> str:
    """What is searched, for people."""
    parts = []
    for name, own in space.items():
        if isinstance(own, FloatDistribution | IntDistribution):
            whole = " in whole numbers" if isinstance(own, IntDistribution) else ""
            log = " by logarithm" if own.log else ""
            parts.append(f"{name} from {written(own.low)} to {written(own.high)}{whole}{log}")
        elif isinstance(own, CategoricalDistribution):
            parts.append(f"{name} of {', '.join(map(written, own.choices))}")
    return "; ".join(parts)


def written(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _opened(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's `sweep` by dotted names: on the command line a name with a dot makes a section."""
    nested = given.get("optimizer", {})
    if not isinstance(nested, Mapping):
        raise UserError("sweep: optimizer is a section; name one of its settings, such as optimizer.learning_rate")
    opened = {name: own for name, own in given.items() if name != "optimizer"}
    for name, own in nested.items():
        if f"optimizer.{name}" in opened:
            raise UserError(f"sweep: optimizer.{name} is given twice; leave out one of them")
        opened[f"optimizer.{name}"] = own
    return opened


def _usual(recipe: Recipe, rows: int | None) -> dict[str, Any]:
    """What is searched where a recipe does not say: learning rate, epochs and batch size around its own."""
    config = recipe.finetune
    own = config.optimizer
    assert own.learning_rate is not None, "the recipe chose it"
    rates = {"learning_rate": own.learning_rate}
    if own.name == "muon":
        rates["muon_learning_rate"] = own.muon_learning_rate
    opened: dict[str, Any] = {
        f"optimizer.{name}": {"low": rate / _WIDER, "high": rate * _WIDER, "log": True} for name, rate in rates.items()
    }
    half = config.epochs / 2
    opened["epochs"] = sorted({half if half < 1 else float(math.floor(half + 0.5)), config.epochs, 2 * config.epochs})
    sizes = [max(1, config.batch_size // 2), config.batch_size, 2 * config.batch_size]
    fitting = {size for size in sizes if _fits(_replaced(recipe, {"batch_size": size}), rows)}
    if len(fitting) > 1:
        opened["batch_size"] = sorted(fitting)
    return opened


def _fits(recipe: Recipe, rows: int | None) -> bool:
    try:
        _check_task(recipe, rows)
    except UserError:
        return False
    return True


def _searchable() -> list[str]:
    optimizer = fields(FinetuneConfig().optimizer)
    own = [one.name for one in fields(FinetuneConfig) if one.name not in SHARED and not one.metadata.get("machine")]
    return [*own, *(f"optimizer.{one.name}" for one in optimizer)]


def _check_name(name: str) -> None:
    known = _searchable()
    if name in known:
        return
    plain = str(name).removeprefix("finetune.")
    if plain in SHARED:
        raise UserError(f"sweep: {name} is the same in all trials, so that their losses compare; leave it out")
    leaves = {one.rpartition(".")[2]: one for one in known}
    near = difflib.get_close_matches(plain, [*known, *leaves], n=1, cutoff=0.7)
    meant = f"did you mean {leaves.get(near[0], near[0])}?" if near else f"there are: {', '.join(known)}"
    raise UserError(f"sweep: fine-tuning has no setting {name} to search; {meant}")


def _values(recipe: Recipe, name: str, own: Any, rows: int | None) -> list[Any]:
    """The values of a list or the bounds of a range, as the recipe would have them."""
    if isinstance(own, Mapping):
        if {"low", "high"} - set(own) or set(own) - {"low", "high", "log"} or not isinstance(own.get("log", 0), int):
            raise UserError(f"sweep: the range of {name} has {', '.join(own) or 'nothing'}; write {{low: 1, high: 2}}")
        found = [_setting(_fitting(recipe, {name: own[end]}, rows), name) for end in ("low", "high")]
        if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in found):
            raise UserError(f"sweep: {name} is not a number, so that it has no range; write a list of values")
        if not found[0] < found[1]:
            raise UserError(
                f"sweep: the range of {name} has low {found[0]} and high {found[1]}; low must be below high"
            )
        if own.get("log") and found[0] <= 0:
            raise UserError(f"sweep: the range of {name} has low {found[0]}, but log needs a low above 0; raise it")
        return found
    if not isinstance(own, list | tuple):
        raise UserError(f"sweep: {name} is {own}; write a list of values, or a range {{low: 1, high: 2}}")
    found = [_setting(_fitting(recipe, {name: value}, rows), name) for value in own]
    if not all(isinstance(value, int | float | str | None) for value in found):
        raise UserError(f"sweep: a value of {name} is a list or a section; write numbers or words")
    if len(found) < 2 or len(set(found)) < len(found):
        raise UserError(f"sweep: {name} needs two values or more, each once; it has {', '.join(map(written, found))}")
    return found


def _distribution(name: str, own: Any, values: list[Any]) -> BaseDistribution:
    if not isinstance(own, Mapping):
        return CategoricalDistribution(values)
    kind = IntDistribution if isinstance(values[0], int) else FloatDistribution
    return kind(values[0], values[1], log=bool(own.get("log")))


def _ends(own: BaseDistribution) -> Sequence[Any]:
    """All values of a list, or the bounds of a range."""
    if isinstance(own, CategoricalDistribution):
        return own.choices
    assert isinstance(own, FloatDistribution | IntDistribution)
    return (own.low, own.high)


def _setting(recipe: Recipe, name: str) -> Any:
    value: Any = recipe.finetune
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _holds(space: BaseDistribution, value: Any) -> bool:
    if isinstance(space, CategoricalDistribution):
        return any(value == one and type(value) is type(one) for one in space.choices)
    assert isinstance(space, FloatDistribution | IntDistribution)
    return value is not None and space.low <= value <= space.high


def _rounded(space: BaseDistribution, value: Any) -> Any:
    if not isinstance(space, FloatDistribution):
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), space.low), space.high)
