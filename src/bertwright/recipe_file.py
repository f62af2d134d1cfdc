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
from bertwright.settings import ARCHITECTURE_DEFAULTS, default_rate
from bertwright.shipped import recipe_file, size_file, with_sample

RENAMED = {
    "first_weights": "initialization (local is local_attention)",
    "first_embeddings": "embedding_initialization (counted is pmi)",
    "heldout_share": "heldout_ratio",
    "validation_share": "validation_ratio",
    "warmup_share": "warmup_ratio",
    "share": "budget_ratio",
    "model_type": "architecture",
}
"""Keys of recipes that had another name before, with the name that they have now."""

RENAMED_VALUES = {
    "initialization": {"local": "local_attention"},
    "embedding_initialization": {"counted": "pmi"},
}
"""Values that had another name in version 0.1, by the setting."""


class RecipeParser(ArgumentParser):
    """jsonargparse's parser, whose errors are a `UserError` of one sentence, with a hint at the nearest option."""

    known: Sequence[str] = ()
    prefix: str = ""  # before an option's name in a hint: -- where there are no recipes that name it, too

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse what was given.

        Raises:
            UserError: always.
        """
        raise UserError(self._clear(" ".join(str(message).split()))) from ex

    def format_help(self, *formatter: Any) -> str:
        """The help, with hyphens in options; that of a command without recipe shows flags as they are typed: alone."""
        text: str = super().format_help(*formatter)
        if self.prefix:
            text = re.sub(r"\s*\((?:type:\s+bool,\s+default:\s+False|default:\s+null)\)|(?<=\w) (?=\])", "", text)
        return re.sub(r"--[\w.]+", lambda option: option[0].replace("_", "-"), text)

    def _apply_actions(self, cfg: Any, *others: Any, **more: Any) -> Namespace:
        """As jsonargparse does it with a recipe's content, whose names of ours are replaced first."""
        result: Namespace = super()._apply_actions(
            _plain_values(cfg) if isinstance(cfg, dict) else cfg, *others, **more
        )
        return result

    def _clear(self, message: str) -> str:
        value = re.search(r'[Kk]ey "([\w.]+)".*?Got value: (\w+)', message)
        if value and value[2] in (renamed := RENAMED_VALUES.get(value[1].rpartition(".")[2], {})):
            return f"{value[1]} {value[2]} is now called {renamed[value[2]]}"
        unknown = re.search(
            r"[Uu]nrecognized arguments: -{1,2}([\w.-]+)|(?:does not accept \w+|Option) '([\w.]+)'", message
        )
        if not unknown:
            return _wrong_value(message, self.prefix)
        name = unknown[1] or unknown[2]
        leaf = name.rpartition(".")[2]
        if leaf in RENAMED:
            return f"{name} is now called {RENAMED[leaf]}"
        near = self._nearest(name)
        meant = " or ".join(f"{self.prefix}{one.replace('_', '-') if self.prefix else one}" for one in near)
        return f"there is no option {name}" + (f"; did you mean {meant}?" if near else "; see --help")

    def _nearest(self, name: str) -> list[str]:
        """The options that a wrong name is likeliest meant for: one, or those of several sections."""
        leaf = name.rpartition(".")[2]
        leaves: dict[str, list[str]] = {}
        for known in self.known:
            leaves.setdefault(known.rpartition(".")[2], []).append(known)
        if "." in name and (near := difflib.get_close_matches(name, self.known, n=1, cutoff=0.75)):
            return near
        if leaf not in leaves:
            leaf = next(iter(difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)), "")
        return leaves.get(leaf, difflib.get_close_matches(name, self.known, n=1, cutoff=0.5))[:3]


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list in brackets",
    "list": "a list in brackets",
    "dict": "names with values, {name: value}",
    "NoneType": "null",
}
"""What is given for a setting of a type of Python's."""

_SETTINGS = "settings, {name: value}"

_TYPE = re.compile(
    r"Literal\[([^\]]*)\]|\b(int|float|bool|str|tuple|list|dict|NoneType)\b(?:\[[^\]]*\])?|(\bbertwright[\w.]+)"
)
"""A type in jsonargparse's messages: the values of a Literal, the name of a builtin one, or a class of ours."""


def _wrong_value(message: str, prefix: str) -> str:
    """A message of jsonargparse about a value of a wrong type, without Python's types; any other unchanged.

    Args:
        message: on one line.
        prefix: of an option's name.
    """
    keys = re.findall(r'Parser key "([\w.-]+)":', message)
    if keys and (within := re.search(r" - ([\w.]+ is .*?; give .*?)(?= - Expected| Given value type)", message)):
        return f"{prefix}{keys[0]}: {within[1]}"  # of a section's setting, which has passed here before
    settings = re.search(r"Not a valid subclass of (\w+)\.", message)
    if types := re.search(r"Subtypes: \[(.*)\] Errors", message):
        given = re.search(r"Given value: ?(.*)$", message)
    else:
        types = re.search(r"Expected an? (.*?)\. Got value", message)
        given = re.search(r"Got value: ?(.*?)(?= Subclass types|$)", message)
    kinds = [f"the settings of a {settings[1].lower()}, {{name: value}}"] if settings else []
    for literal, kind, own in _TYPE.findall(types[1] if types else ""):
        kinds += re.findall(r"'([^']*)'", literal) if literal else [_SETTINGS if own else _TYPES[kind]]
    kinds = [kind for kind in dict.fromkeys(kinds) if not (prefix and kind == _TYPES["NoneType"])]
    if not keys or given is None or not kinds:
        return message
    key = prefix + (keys[-1].replace("_", "-") if prefix else ".".join(keys))
    alternatives = " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
    return f"{key} is {given[1] or 'empty'}; give {alternatives}"


def plain_words(words: Sequence[str]) -> list[str]:
    """Options of a recipe as the parser knows them: with underscores, and a size's name as its file."""
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        word = _underscored(name) + equals + value if name.startswith("--") else word
        if word.startswith("--model="):
            word = f"--model={size_file(value)}"
        elif result and result[-1] == "--model":
            word = size_file(word)
        elif result and result[-1] == "--recipe":
            word = recipe_file(word)
        result.append(word)
    return result


_NAMED_BY_USERS = ("data", "finetune.class_weights", "evaluate.published")
"""Settings with an entry for each name of the user's."""


def _underscored(option: str) -> str:
    """An option with underscores in place of hyphens, but in a name that is the user's."""
    parts = option.removeprefix("--").split(".")
    plain = [part.replace("-", "_") for part in parts]
    for number in range(1, len(parts)):
        if ".".join(plain[:number]) in _NAMED_BY_USERS:
            plain[number] = parts[number]
    return "--" + ".".join(plain)


def _plain_values(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content with a size's name as its file, and the files that come with it found."""
    result = dict(content)
    if isinstance(result.get("model"), str):
        result["model"] = size_file(result["model"])
    found: dict[str, Any] = with_sample(result)
    return found


def make_recipe_parser(**options: Any) -> RecipeParser:
    """A parser of all settings of a recipe; `--recipe FILE` reads one.

    Args:
        options: of the parser, such as its description.
    """
    parser = RecipeParser(**options)
    parser.add_argument("--recipe", action=ActionConfigFile, help="the recipe, a YAML file; may stand first, alone")
    parser.add_class_arguments(Recipe, None)
    parser.set_defaults({f"model.{name}": None for name in ARCHITECTURE_DEFAULTS["bert"]})  # until it is known
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


@functools.cache  # making it takes two thirds of the time that a recipe takes
def _parser() -> RecipeParser:
    return make_recipe_parser()


@functools.cache
def _instantiator() -> RecipeParser:
    parser = RecipeParser()
    parser.add_class_arguments(Recipe, "recipe")
    return parser


def load_recipe(path: str | Path | Iterable[str | Path], **overrides: Any) -> Recipe:
    """The recipe of a YAML file.

    Args:
        path: the file, or the name of a recipe that comes with Bertwright; of several, each is laid over those
            before it.
        overrides: settings that replace the file's: `seed=1`, or of a section some only: `pretrain={"max_steps": 100}`.

    Raises:
        UserError: if the file cannot be read, or a setting is unknown or does not fit.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    words = [word for one in paths for word in ("--recipe", str(one))]
    try:
        return build_recipe(_parser().parse_args(plain_words([*words, *_options(overrides)])))
    except UnicodeDecodeError as error:
        raise UserError(f"a recipe or file named in it is not UTF-8 ({error}); save it as UTF-8") from error


def change_recipe(recipe: Recipe, **overrides: Any) -> Recipe:
    """A recipe with some settings replaced, given as for `load_recipe`.

    What the recipe had left open is chosen anew where what chooses it is replaced: sizes that are the old
    architecture's defaults, and a rate that is the default with an encoder or without one, count as left open.

    Raises:
        UserError: if a setting is unknown or does not fit.
    """
    return build_recipe(_parser().parse_object(_merged(_without_chosen(recipe, overrides), overrides)))


def _without_chosen(recipe: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings without those that it had left open and that are chosen by what is replaced."""
    plain = to_dict(recipe)
    model, pretrain = overrides.get("model", {}), overrides.get("pretrain", {})
    if isinstance(model, Mapping) and model.get("architecture", recipe.model.architecture) != recipe.model.architecture:
        for name, value in ARCHITECTURE_DEFAULTS.get(recipe.model.architecture, {}).items():
            if plain["model"][name] == value:
                del plain["model"][name]
    if isinstance(pretrain, Mapping) and "encoder" in pretrain:
        before = recipe.pretrain.encoder is None
        if before != (pretrain["encoder"] is None) and recipe.pretrain.optimizer.learning_rate == default_rate(before):
            del plain["pretrain"]["optimizer"]["learning_rate"]
    return plain


def _options(overrides: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Overrides as on a command line.

    Raises:
        UserError: if a name has a dot, which parts a section from its setting there.
    """
    words: list[str] = []
    for name, value in overrides.items():
        if "." in str(name) and prefix.rstrip(".") in _NAMED_BY_USERS:
            raise UserError(f"{prefix}{name}: a name with a dot can be given in a recipe file alone")
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
