"""The recipe that a sweep ends with: YAML without defaults, and a comment that says where its values come from."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bertwright.apps.sweep_space import changed, described
from bertwright.files import write_text
from bertwright.recipe import ModelConfig, Recipe, Source, to_dict

_SECTIONS = ("tokenizer", "prepare", "model", "pretrain", "finetune", "evaluate", "system")


def write_best(recipe: Recipe, values: Mapping[str, Any], found: str, folder: Path) -> Path:
    """Write best.yaml, which `bertwright run` takes as it stands.

    Args:
        recipe: that was searched.
        values: the best, by setting.
        found: where they come from, in words.
        folder: receives the file.

    Returns:
        The file.
    """
    path = folder / "best.yaml"
    comment = f"Written by `bertwright sweep`, {found}. Found: {described(values)}."
    lines = [*textwrap.wrap(comment, 110, break_long_words=False, break_on_hyphens=False)]
    lines.append(f"Run it with: bertwright run {shlex.quote(str(path))}")
    plain = _plain(replace(changed(recipe, values), sweep={}))
    content = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
    write_text(path, "".join(f"# {line}\n" for line in lines) + content)
    return path


def _plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, without those that are defaults."""
    own = to_dict(recipe)
    plain: dict[str, Any] = {"name": recipe.name, "out": recipe.out, "seed": recipe.seed}
    plain = {name: value for name, value in plain.items() if value}
    plain["data"] = {
        name: entry if isinstance(entry, str) else {"path": entry["path"]} | _other(entry, to_dict(Source(path="-")))
        for name, entry in own["data"].items()
    }
    for name in _SECTIONS:
        if found := _other(own[name], to_dict(_default_of(recipe, name))):
            plain[name] = found
    if recipe.model.architecture != ModelConfig.architecture:
        plain["model"] = {"architecture": recipe.model.architecture, **plain.get("model", {})}
    return plain


def _default_of(recipe: Recipe, section: str) -> Any:
    """A section with defaults alone; of the network those of its architecture."""
    if section == "model":
        return ModelConfig(architecture=recipe.model.architecture)
    return type(getattr(recipe, section))()


def _other(own: Any, default: Any) -> Any:
    """What differs from a default, section by section; whole numbers without a point."""
    if isinstance(own, float) and own.is_integer():
        return int(own)
    if not isinstance(own, dict) or not isinstance(default, dict):
        return own
    return {
        name: _other(value, default.get(name))
        for name, value in own.items()
        if name not in default or value != default[name]
    }
