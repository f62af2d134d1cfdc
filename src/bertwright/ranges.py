"""Ranges of numbers in a recipe, checked whenever a section is made, and what of its settings decides a result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from bertwright.errors import UserError


def require(condition: bool, message: str) -> None:
    """Refuse a recipe with one sentence unless `condition` holds.

    Raises:
        UserError: with `message`.
    """
    if not condition:
        raise UserError(message)


def number(default: Any, range_: str, *, machine: bool = False, budget: bool = False, later: bool = False) -> Any:
    """A field whose value lies in a range, such as `>= 1`, `> 0` or `[0, 1)`; None is left alone.

    Args:
        default: of the field.
        range_: of its value.
        machine: whether it says how the work is done, and does not decide the result (`fingerprint`).
        budget: whether it says only how long the work lasts.
        later: whether it came after there were runs, whose results its default leaves as they are.
    """
    metadata = {"range": range_, "machine": machine, "budget": budget, "later": later}
    return field(default=default, metadata=metadata)


def _problem(value: float, range_: str) -> str | None:
    """What a value outside of a range must be instead, in words; None for one within."""
    if range_.startswith(">"):
        sign, bound = range_.split()
        fits = value >= float(bound) if sign == ">=" else value > float(bound)
        return None if fits else f"it must be {'at least' if sign == '>=' else 'above'} {bound}"
    low, high = (float(bound) for bound in range_[1:-1].split(","))
    fits = (value >= low if range_[0] == "[" else value > low) and (
        value <= high if range_[-1] == "]" else value < high
    )
    return None if fits else f"it must be in {range_}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a recipe that checks the ranges of its numbers when it is made.

    Attributes:
        section: where it stands in a recipe, with a dot; empty where it stands in several places.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """See that each number is within its range.

        Raises:
            UserError: with the name, the value and the range.
        """
        for each in fields(self):
            value, range_ = getattr(self, each.name), each.metadata.get("range")
            problem = None if range_ is None or value is None else _problem(value, range_)
            require(problem is None, f"{self.section}{each.name} is {value}; {problem}")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists, strings and numbers, ready for JSON or YAML."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def decisive(config: Any, *, budget: bool = True) -> dict[str, Any]:
    """The settings of a section that decide a result, as plain values; those of the machine are left out.

    A setting is the machine's if its field says so (`number`): it changes rounding and the order of work, never
    what is computed, so that changing it starts no work anew. Nor does a setting that came later, at its default,
    or a new name (`formerly`).

    Args:
        config: a section of a recipe.
        budget: whether the settings of its budget are among them.
    """
    left_out = {
        each.name
        for each in fields(config)
        if each.metadata.get("machine")
        or (each.metadata.get("budget") and not budget)
        or (each.metadata.get("later") and getattr(config, each.name) == _default(each))
    }
    names = {each.name: each.metadata.get("formerly", each.name) for each in fields(config)}
    return {names[name]: value for name, value in to_dict(config).items() if name not in left_out}


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def fingerprint(*parts: Any) -> str:
    """A short hash of configurations and plain values: equal exactly when all that decides a result is equal."""
    plain = [decisive(part) if is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
