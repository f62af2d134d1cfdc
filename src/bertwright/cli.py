"""The command line: arguments become calls of `pipeline.run` and of the functions in `apps/commands.py`."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import docstring_parser

import bertwright
from bertwright.apps import commands
from bertwright.errors import UserError
from bertwright.recipe_file import RecipeParser, build_recipe, make_recipe_parser

STAGES = {
    "run": "do all stages, from raw text to a report; what is done and unchanged is skipped",
    "prepare": "read the corpora, train the vocabulary, write token ids to disk",
    "pretrain": "pre-train BERT from random weights on masked tokens and next sentences",
    "finetune": "fine-tune the pre-trained encoder on labelled texts",
    "baselines": "train the classical baselines on the same texts",
    "evaluate": "evaluate all systems on the test split",
    "report": "write results.json and report.html, and print the table",
}
"""The commands that take a recipe. (`pipeline.py` has the stages, but takes seconds to load: not for --help.)"""

USES: dict[str, tuple[Callable[..., None], dict[str, str | None]]] = {
    "predict": (commands.predict, {"texts": "*"}),
    "fill-mask": (commands.fill_mask, {"text": None}),
    "next-sentence": (commands.next_sentence, {"first": None, "second": None}),
    "embed": (commands.embed, {"texts": "*"}),
    "export": (commands.export, {"out": None}),
    "serve": (commands.serve, {}),
}
"""The commands that use a trained model, each with its arguments that have no name, and how many there are."""


_LAUNCHER_SECONDS = 30
"""How long a launcher may take to end a process after another one has ended."""


def make_parser() -> RecipeParser:
    """The parser of the whole command line: `bertwright COMMAND RECIPE [--section.option VALUE ...]`."""
    parser = RecipeParser(prog="bertwright", description=bertwright.__doc__)
    parser.add_argument("--version", action="version", version=f"bertwright {bertwright.__version__}")
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, text in STAGES.items():
        command = make_recipe_parser(
            description=f"{text[0].upper()}{text[1:]}.", usage=f"bertwright {name} RECIPE [--option VALUE ...]"
        )
        parser.known = command.known
        subcommands.add_subcommand(name, command, help=text)
    for name, (function, plain) in USES.items():
        documented = docstring_parser.parse(function.__doc__ or "")
        help_of = {parameter.arg_name: parameter.description for parameter in documented.params}
        command = RecipeParser(description=documented.short_description)
        for argument, number in plain.items():
            command.add_argument(argument, nargs=number, help=help_of[argument])
        command.add_function_arguments(function, skip=set(plain))
        command.known = list(command.get_defaults().keys())
        subcommands.add_subcommand(name, command, help=documented.short_description)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 for success, 2 for a mistake of the user's, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) > 1 and words[0] in STAGES and not words[1].startswith("-"):
        words.insert(1, "--recipe")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _call(words)
    except UserError as error:
        _tell(f"bertwright: error: {error}")
        return 2
    except KeyboardInterrupt:
        resume = "; the same command resumes from the last checkpoint" if words[0] in STAGES else ""
        _tell(f"\nbertwright: interrupted{resume}")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has closed it
    return 0


def _tell(text: str) -> None:
    """Print why a command ends: once, if a launcher has started it in several processes.

    The others wait for the launcher, which ends them when the first one ends, so that it does not end the first one
    before that has told. A process that is not ended has a trouble of its own, and tells.
    """
    if os.environ.get("RANK", "0") != "0":
        try:
            time.sleep(_LAUNCHER_SECONDS)
        except KeyboardInterrupt:
            return
    print(text, file=sys.stderr, flush=True)


def _call(words: list[str]) -> None:
    try:
        parsed = make_parser().parse_args(words)
    except UnicodeDecodeError as error:
        raise UserError(f"a recipe or file named in it is not UTF-8 ({error}); save it as UTF-8") from error
    given = parsed[parsed.command]
    if parsed.command in USES:
        USES[parsed.command][0](**vars(given))
        return
    from bertwright.pipeline import run  # torch takes seconds to load: not for --help

    run(build_recipe(given), stages=None if parsed.command == "run" else [parsed.command])


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def entry() -> NoReturn:
    """The `bertwright` command."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    raise SystemExit(main())
