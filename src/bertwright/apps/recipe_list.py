"""`bertwright recipes`: the recipes and sizes of models that come with Bertwright."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bertwright import shipped
from bertwright.errors import UserError


def recipes(action: str | None = None, name: str | None = None) -> None:
    """List the recipes and sizes that come with Bertwright; `recipes show NAME` prints one.

    Args:
        action: show, or nothing to list all.
        name: of the recipe or size to show.

    Raises:
        UserError: if there is no such recipe or size.
    """
    found, sizes = shipped.recipes(), shipped.sizes()
    if action is None:
        print(_listed("recipes, for: bertwright run NAME", found))
        print(_listed("\nsizes, for: model: NAME", sizes))
        print("\nto read one: bertwright recipes show NAME")
        return
    if action != "show" or name is None:
        raise UserError("say `bertwright recipes`, or `bertwright recipes show NAME`")
    path = found.get(name) or sizes.get(name)
    if path is None:
        raise UserError(f"there is no recipe or size {name}; there are {', '.join([*found, *sizes])}")
    print(path.read_text(encoding="utf-8"), end="")


def _listed(title: str, paths: Mapping[str, Path]) -> str:
    rows = [(name, *shipped.about(path)) for name, path in paths.items()]
    wide, middle = max(len(name) for name, _, _ in rows), max(len(cost) for _, _, cost in rows)
    return "\n".join([f"{title}", *(f"  {name:<{wide}}  {cost:<{middle}}  {what}" for name, what, cost in rows)])
