"""Write the tables of docs/options.md, all options of a recipe, from the dataclasses of `bertwright.recipe`.

    python docs/options_table.py

A test compares the page with them.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from bertwright.recipe import Recipe

PAGE = Path(__file__).with_name("options.md")
BEGIN, END = "<!-- options: start -->\n", "<!-- options: end -->\n"


def descriptions(section: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field, under Args, on one line."""
    block = inspect.cleandoc(section.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (?=\w+: )", block, flags=re.MULTILINE)[1:]
    pairs = (entry.partition(": ")[::2] for entry in entries)
    return {name: " ".join(text.split()) for name, text in pairs}


def dataclass_in(annotation: Any) -> type | None:
    """The dataclass that an annotation names, alone or inside a union, a tuple or a dictionary."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        return annotation
    return next((found for part in get_args(annotation) if (found := dataclass_in(part))), None)


def sections() -> Iterator[tuple[str, type, dict[str, Any]]]:
    """Each section of a recipe, outer before inner: where it stands, its dataclass, its defaults by name.

    An entry of `data` and a phase stand once for all of their kind.
    """
    waiting: list[tuple[str, type, Any]] = [("", Recipe, None)]
    while waiting:
        place, section, instance = waiting.pop(0)
        defaults = {each.name: _default(each, instance) for each in fields(section)}
        yield place, section, defaults
        inner: list[tuple[str, type, Any]] = []
        for name, annotation in get_type_hints(section).items():
            kind = dataclass_in(annotation) if name in defaults else None
            if kind is not None:
                several = {"data": "data.NAME", "phases": "phases[]"}.get(name, name)
                given = defaults[name] if isinstance(defaults[name], kind) else None
                inner.append((f"{place}.{several}".lstrip("."), kind, given))
        waiting = inner + waiting


def _default(each: Field[Any], instance: Any) -> Any:
    """A field's default; that of the section above counts first, as finetune's optimizer differs from pretrain's."""
    if instance is not None:
        return getattr(instance, each.name)
    return each.default_factory() if each.default_factory is not MISSING else each.default


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def _value(value: Any) -> str:
    """A default as YAML writes it."""
    if value is MISSING:
        return "required"
    words = {None: "none", True: "`true`", False: "`false`"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def table() -> str:
    """The options as Markdown: a heading and a table for each section."""
    lines = []
    for place, section, defaults in sections():
        said = descriptions(section)
        lines += [f"## {f'`{place}`' if place else 'Top level'}", "", (section.__doc__ or "").partition("\n")[0], ""]
        lines += ["| option | values | default | meaning |", "|---|---|---|---|"]
        for each in fields(section):
            nested = dataclass_in(get_type_hints(section)[each.name]) is not None
            kind = "section" if nested else str(each.type).replace("|", "\\|")
            bounds = f", {each.metadata['range']}" if "range" in each.metadata else ""
            default = "" if nested else _value(defaults[each.name])
            name = f"{place}.{each.name}".lstrip(".")
            lines.append(f"| `{name}` | `{kind}{bounds}` | {default} | {_cell(said[each.name])} |")
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """docs/options.md with the tables of today."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
