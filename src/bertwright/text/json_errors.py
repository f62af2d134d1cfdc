"""What a JSON value is, in words, and the error for a file that is one value and no rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.text.decoding import decode, parse_json


def kind(value: Any) -> str:
    """A JSON value's kind, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a string" if isinstance(value, str) else "a number"


def refuse_one_value(content: bytes, path: Path) -> None:
    """Say what a file is that holds one JSON value over many lines: valid, but no rows.

    Raises:
        UserError: if it is so.
    """
    try:
        value = parse_json(decode(content, path, 1))
    except (json.JSONDecodeError, RecursionError, UserError):
        return
    if not isinstance(value, dict):
        raise UserError(f"{path} is {kind(value)} over many lines; write a row as an object on each line")
    keys = ", ".join(map(str, list(value)[:8]))
    inside = next((key for key, rows in value.items() if isinstance(rows, list) and rows and rows[0] is not None), None)
    hint = f"; if its rows are the list `{inside}`, save that list alone" if inside else ""
    raise UserError(
        f"{path} is one JSON object over many lines, with the keys {keys}; rows must be a list of objects, or an "
        f"object on each line{hint}"
    )
