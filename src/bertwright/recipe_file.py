"""Recipes from YAML files, options and Python keywords: one parser, which refuses keys that do not exist."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from bertwright.errors import UserError
from bertwright.recipe import Recipe, to_dict

RENAMED = {
    "first_weights": "initialization (local is local_attention)",
    "first_embeddings": "embedding_initialization (counted is pmi)",
    "heldout_share": "heldout_ratio",
    "validation_share": "validation_ratio",
    "warmup_share": "warmup_ratio",
    "share": "budget_ratio",
}
"""Keys of recipes that had another name in version 0.1, with the name that they have now."""


class RecipeParser(ArgumentParser):
    """jsonargparse's parser, whose errors are a `UserError` of one sentence, with a hint at the nearest option."""

    known: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse what was given.

        Raises:
            UserError: always.
        """
        raise UserError(self._clear(" ".join(str(message).split()))) from ex

    def _clear(self, message: str) -> str:
        unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)|(?:does not accept \w+|Option) '([\w.]+)'", message)
        if not unknown:
            return message
        name = unknown.group(1) or unknown.group(2)
        leaf = name.rpartition(".")[2]
        if leaf in RENAMED:
            return f"{name} is now called {RENAMED[leaf]}"
        near = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
        near = near or [known for known in self.known if known.rpartition(".")[2] == leaf][:1]
        return f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else "; see --help")


def make_recipe_parser(**options: Any) -> RecipeParser:
    """A parser of all settings of a recipe; `--recipe FILE` reads one.

    Args:
        options: of the parser, such as its description.
    """
    parser = RecipeParser(**options)
    parser.add_argument("--recipe", action=ActionConfigFile, help="the recipe, a YAML file; may stand first, alone")
    parser.add_class_arguments(Recipe, None)
    parser.known = [key for key in parser.get_defaults().keys() if key != "recipe"]  # noqa: SIM118
    return parser


def build_recipe(parsed: Namespace) -> Recipe:
    """The recipe that a parser of `make_recipe_parser` gives.

    Raises:
        UserError: if its values do not fit each other.
    """
    plain = Namespace()  # type: ignore[no-untyped-call]
    for key, value in vars(parsed).items():
        if key != "recipe" and not key.startswith("__"):
            plain[f"recipe.{key}"] = value
    built: Recipe = _instantiator().instantiate(plain).recipe
    return built


@functools.cache
def _instantiator() -> RecipeParser:
    parser = RecipeParser()
    parser.add_class_arguments(Recipe, "recipe")
    return parser


def load_recipe(path: str | Path | Iterable[str | Path], **overrides: Any) -> Recipe:
    """The recipe of a YAML file.

    Args:
        path: the file; of several, each is laid over those before it.
        overrides: settings that replace the file's: `seed=1`, or of a section some only: `pretrain={"max_steps": 100}`.

    Raises:
        UserError: if the file cannot be read, or a setting is unknown or does not fit.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    words = [word for one in paths for word in ("--recipe", str(one))]
    try:
        return build_recipe(make_recipe_parser().parse_args([*words, *_options(overrides)]))
    except UnicodeDecodeError as error:
        raise UserError(f"a recipe or file named in it is not UTF-8 ({error}); save it as UTF-8") from error


def change_recipe(recipe: Recipe, **overrides: Any) -> Recipe:
    """A recipe with some settings replaced, given as for `load_recipe`.

    Raises:
        UserError: if a setting is unknown or does not fit.
    """
    return build_recipe(make_recipe_parser().parse_object(_merged(to_dict(recipe), overrides)))


def _options(overrides: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Overrides as on a command line."""
    words: list[str] = []
    for name, value in overrides.items():
        plain = _lists(value)
        if isinstance(plain, Mapping):
            words += _options(plain, f"{prefix}{name}.")
        else:
            words += [f"--{prefix}{name}", str(plain) if isinstance(plain, str | Path) else json.dumps(plain)]
    return words


def _lists(value: Any) -> Any:
    """Sequences and dataclasses within a value as plain lists and dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _merged(plain: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(plain)
    for name, value in overrides.items():
        value, inner = _lists(value), result.get(name)
        result[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result
