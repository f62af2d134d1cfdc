"""Ranges of numbers in a recipe, checked whenever a section is made, from a recipe or from Python."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
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
        machine: whether it says how the work is done, and does not decide the result (`recipe.fingerprint`).
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
