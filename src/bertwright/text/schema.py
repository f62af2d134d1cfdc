"""The names of classes in the schema that a Parquet file carries."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from bertwright.text import formats


def class_names(path: Path, column: str) -> list[str] | None:
    """The names of a column's classes, or of its lists', in the schema that `datasets` writes into Parquet, in order.

    Returns:
        None for another format, or where the schema names none.

    Raises:
        UserError: as `formats.clear_errors`.
    """
    if formats.format_of(path) != ".parquet" or formats.is_compressed(path) or path.stat().st_size == 0:
        return None
    with formats.clear_errors(path):
        stored = (pq.read_schema(path).metadata or {}).get(b"huggingface")
        info = json.loads(stored) if stored else {}
    feature = info.get("info", {}).get("features", {}).get(column, {})
    feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # of a list's values
    return list(feature["names"]) if feature.get("_type") == "ClassLabel" else None
