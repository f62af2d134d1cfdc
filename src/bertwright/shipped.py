"""Recipes and sizes of models that come with Bertwright, by name.

They stand in `recipes/` of a clone, and in the installed package. So does the bundled sample, which some recipes
read: where the working folder has no `sample/`, that of the package is meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from bertwright.errors import UserError

_PACKAGE = Path(__file__).parent
_HOME = _PACKAGE if (_PACKAGE / "recipes").is_dir() else _PACKAGE.parents[1]
_SAMPLE = "sample/"
_BUNDLED = "src/bertwright/bundled/"


def recipes() -> dict[str, Path]:
    """The recipes that come with Bertwright."""
    return _named(_HOME / "recipes")


def sizes() -> dict[str, Path]:
    """The sizes of models that `model:` of a recipe can name."""
    return _named(_HOME / "recipes" / "models")


def suite() -> dict[str, Path]:
    """The recipes of the suite of tasks, which `bertwright suite` runs."""
    return _named(_HOME / "recipes" / "suite")


def _named(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_file(name: str) -> str:
    """The file of a recipe: a path, or a shipped recipe's name where no file is called so.

    Raises:
        UserError: if it is neither.
    """
    if not Path(name).exists():
        if name in recipes():
            return str(recipes()[name])
        if name.startswith("recipes/") and Path(name).stem in recipes():  # as in a clone
            return str(recipes()[Path(name).stem])
        if Path(name).suffix not in (".yaml", ".yml") and Path(name).name == name:
            raise UserError(
                f"there is no recipe {name}; give a YAML file, or one of {', '.join(recipes())}"
                + _near(name, recipes())
            )
    return name


def size_file(name: str) -> str:
    """What `model:` of a recipe means: a size's name is its file; a path or YAML stays.

    Raises:
        UserError: if a single word is no size.
    """
    if name in sizes():
        return str(sizes()[name])
    if name.replace("-", "").replace("_", "").isalnum() and not Path(name).exists():
        raise UserError(f"model {name} is no size; it is one of {', '.join(sizes())}" + _near(name, sizes()))
    return name


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def with_sample(content: Any) -> Any:
    """A recipe's content in which paths of a clone are found from any folder: the sample and the bundled models."""
    if isinstance(content, dict):
        return {key: with_sample(value) for key, value in content.items()}
    if not isinstance(content, str) or Path(content).exists():
        return content
    for start, folder in ((_SAMPLE, _HOME / "sample"), (_BUNDLED, _PACKAGE / "bundled")):
        if content.startswith(start) and (found := folder / content.removeprefix(start)).exists():
            return str(found)
    return content


def about(path: Path) -> tuple[str, str]:
    """What a shipped file is for, in its first comment's first sentence, and its budget or size, in words."""
    content = path.read_text(encoding="utf-8")
    comment: list[str] = []
    for line in content.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    sentence = " ".join(comment).partition(". ")[0].rstrip(".")
    settings = yaml.safe_load(content)
    if "hidden_size" in settings:
        return sentence, f"{settings['num_hidden_layers']} layers of {settings['hidden_size']}"
    pretraining = settings.get("pretrain", {})
    minutes, steps = pretraining.get("max_minutes"), pretraining.get("max_steps")
    if minutes:
        return sentence, f"pre-training: {minutes:g} min"
    return sentence, f"pre-training: {steps:,} steps" if steps else "fine-tuning only"
