"""What a user gives to a trained model: one text or several, or an error that says what else it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from bertwright.errors import NOTHING_TO_READ, UnreadableText, WrongTypeError
from bertwright.inputs.sequences import ModelInput

ONE = (str, dict)
"""What is one record and not several: a text, or the columns of one by name."""


def several(given: Any) -> list[Any]:
    """One record or several as a list.

    Raises:
        WrongTypeError: if it is something that has no order.
    """
    if isinstance(given, ONE):
        return [given]
    # The bytes of a file, the columns of a table: each has items, but they are not texts in order.
    table = getattr(given, "ndim", 1) != 1
    if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray | Mapping | Set) or table:
        raise WrongTypeError(f"a text or a list of texts is expected, not {type(given).__name__}")
    return list(given)


def texts_of(texts: Any) -> list[str]:
    """One text or several as a list.

    Raises:
        WrongTypeError: if there is something that is no text, or an order that nobody gave.
    """
    if isinstance(texts, dict):
        raise WrongTypeError(f"a text or a list of texts is expected, not {type(texts).__name__}")
    found = several(texts)
    for number, text in enumerate(found, 1):
        require_text(text, f"text {number}")
    return found


def require_text(text: Any, name: str) -> None:
    """See that a value is a text.

    Raises:
        WrongTypeError: if it is something else.
    """
    if not isinstance(text, str):
        raise WrongTypeError(f"{name} is {type(text).__name__}; it must be a str")


def require_words(sequence: ModelInput, number: int, texts: int) -> None:
    """See that there is something to read.

    Raises:
        UnreadableText: if not.
    """
    if sequence.is_empty:
        raise UnreadableText(number, texts, NOTHING_TO_READ)
