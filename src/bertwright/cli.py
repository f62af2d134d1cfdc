"""The command line: arguments become calls of `pipeline.run` and of the functions in `apps`.

Options are written with hyphens or underscores, flags without a value. `run --help` shows the settings that matter
first; `--help-all` shows all.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import signal
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO, cast

import docstring_parser
from jsonargparse import Namespace

import bertwright
from bertwright.errors import UserError, extra
from bertwright.files import means_disk_full
from bertwright.recipe_file import RecipeParser, build_recipe, make_recipe_parser, plain_words

STAGES = {
    "run": "Do all stages, from raw text to a report; what is done and unchanged is skipped.",
    "prepare": "Read the corpora, train the vocabulary, write token ids to disk.",
    "pretrain": "Pre-train an encoder, from random weights or one that exists, on masked tokens and next sentences.",
    "finetune": "Fine-tune the pre-trained encoder on labelled texts.",
    "baselines": "Train the classical baselines on the same texts.",
    "evaluate": "Evaluate all systems on the test split, and the encoder on held-out text.",
    "report": "Write results.json and report.html, and print the table.",
    "sweep": "Search settings of fine-tuning on the validation set, then do a run with the best ones.",
}
"""The commands that take a recipe. (`pipeline.py` has the stages, but takes seconds to load: not for --help.)"""

SWEEP = {
    "minutes": "of trials; a pre-training before them and the final run come on top",
    "trials": "the most trials; the default is as many as the minutes allow",
}
"""The options of `sweep` beside the settings of a recipe."""

USES: dict[str, tuple[str, dict[str, str | None]]] = {
    "init": ("init.init", {"paths": "*"}),
    "suite": ("suite.suite", {"encoder": None}),
    "recipes": ("recipe_list.recipes", {"action": "?", "name": "?"}),
    "predict": ("commands.predict", {"texts": "*"}),
    "fill-mask": ("commands.fill_mask", {"text": None}),
    "next-sentence": ("commands.next_sentence", {"first": None, "second": None}),
    "embed": ("commands.embed", {"texts": "*"}),
    "export": ("commands.export", {"out": None}),
    "search build": ("search.build", {"texts": None, "index": None}),
    "search query": ("search.query", {"index": None, "text": None}),
    "search evaluate": ("search_evaluation.evaluate", {"index": None, "questions": None}),
    "search add": ("search.add", {"texts": None, "index": None}),
    "search remove": ("search.remove", {"file": None, "index": None}),
    "serve": ("commands.serve", {}),
}
"""The other commands: the function in `apps`, and the arguments that have no name, and how many there are."""

GROUPS = {"search": "Search your own texts: build an index, query and evaluate it, add and remove texts."}
"""The first words of commands of two words."""

FIRST_SETTINGS = {
    "where and how": ("out", "seed", "system.compile"),
    "pre-training": ("model", "tokenizer.vocab_size", "pretrain.max_minutes"),
    "fine-tuning": (
        "finetune.encoder",
        "finetune.epochs",
        "finetune.batch_size",
        "finetune.max_length",
        "finetune.optimizer.learning_rate",
    ),
}
"""The settings that `run --help` shows, by group."""

_SWITCHED = {"true", "false", "yes", "no", "on", "off"}

_LAUNCHER_SECONDS = 30
"""How long a launcher may take to end a process after another one has ended."""


def make_parser(command_name: str | None = None) -> RecipeParser:
    """The parser of the command line: `bertwright COMMAND RECIPE [--section.option VALUE ...]`.

    Args:
        command_name: the first word of the only command to make, since each takes time; the default is all.
    """
    parser = RecipeParser(prog="bertwright", description=bertwright.__doc__)
    parser.add_argument("--version", action="version", version=f"bertwright {bertwright.__version__}")
    subcommands = parser.add_subcommands(required=True, dest="command")
    order = ["init", *STAGES, *(name for name in USES if name != "init")]
    groups: dict[str, Any] = {}
    for name in order if command_name is None else [one for one in order if one.split()[0] == command_name]:
        if name in STAGES:
            text = STAGES[name]
            command = make_recipe_parser(description=text, usage=f"bertwright {name} RECIPE [--option VALUE ...]")
            if name == "sweep":
                command.add_argument("--minutes", type=float, default=60.0, help=SWEEP["minutes"])
                command.add_argument("--trials", type=int | None, default=None, help=SWEEP["trials"])
                command.known = [*command.known, *SWEEP]
            parser.known = command.known
        else:
            command, text = _command_parser(name)
        group, _, action = name.rpartition(" ")
        if group and group not in groups:
            outer = RecipeParser(description=GROUPS[group])
            subcommands.add_subcommand(group, outer, help=GROUPS[group])
            groups[group] = outer.add_subcommands(required=True, dest="action")
        groups.get(group, subcommands).add_subcommand(action, command, help=text)
    return parser


def function_of(name: str) -> Callable[..., None]:
    """The function of a command in `USES`, whose module is loaded now: loading all of them takes a part of a second."""
    module, _, function = USES[name][0].partition(".")
    return cast(Callable[..., None], getattr(importlib.import_module(f"bertwright.apps.{module}"), function))


def _command_parser(name: str) -> tuple[RecipeParser, str]:
    function, plain = function_of(name), USES[name][1]
    documented = docstring_parser.parse(function.__doc__ or "")
    help_of = {parameter.arg_name: parameter.description for parameter in documented.params}
    text = documented.short_description or ""
    command = RecipeParser(description=text)
    command.prefix = "--"
    for argument, number in plain.items():
        action = command.add_argument(argument, nargs=number, help=help_of[argument])
        action.required = number is None or name == "init"  # the others read standard input, or list all
    command.add_function_arguments(function, skip=set(plain))
    for action in command._actions:
        if action.dest in _flags(function):
            action.metavar = ""  # in the help: the command line takes no value
    command.known = [name for name in inspect.signature(function).parameters if name not in plain]
    return command, text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 for success, 2 for a mistake of the user's, 130 when interrupted.

    It is 141 where nobody reads the output any more, and something was left to do.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    signal.signal(signal.SIGTERM, _interrupt)
    with redirect_stdout(sys.stdout or _nowhere()), redirect_stderr(_Patient(sys.stderr)):
        return _ended(words)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")


class _Patient:
    """Standard error that may be closed by its reader, or missing: what is said there is lost, and the work continues.

    Args:
        stream: standard error, or None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or _nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what may be lost."""
        with suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Print what may be lost."""
        with suppress(BrokenPipeError):
            self._stream.flush()


def _ended(words: list[str]) -> int:
    """Run a command; returns the exit status."""
    try:
        _call(words)
        _flush()
    except UserError as error:
        _tell(f"bertwright: error: {error}")
        return 2
    except KeyboardInterrupt:
        resume = "; the same command resumes from the last checkpoint" if words[0] in (*STAGES, "suite") else ""
        if words[0] == "sweep":
            resume = "; the same command continues with the trial that was at work"
        _tell(f"\nbertwright: interrupted{resume}")
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, with work left to do
        _drop_output()
        return 141  # as of a program that the signal ends
    except OSError as error:
        if not means_disk_full(error):
            raise
        _drop_output()  # which may be what found no space
        _tell("bertwright: error: no space left on the disk; free some and run the command again")
        return 2
    return 0


def _flush() -> None:
    """Print what is still to be printed; nobody need read it, since all is done."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()


def _drop_output() -> None:
    """Have what is still to be printed vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    if name in STAGES:
        if {"-h", "--help"} & set(words):
            print(_short_help(name))
            return
        words = ["--help" if word in ("--help-all", "--help_all") else word for word in words[1:]]
        if words and not words[0].startswith("-"):
            words.insert(0, "--recipe")
        words = [name, *plain_words(words)]
    elif name in USES:
        first = name.split()
        words = [*first, *_plain_options(words[len(first) :], function_of(name))]
    elif words[0] in GROUPS:
        words = words if words[1:] else [name, "--help"]
    elif not name.startswith("-"):
        near = difflib.get_close_matches(name, [*STAGES, *USES], n=1)
        hint = f"did you mean {near[0]}?" if near else "see bertwright --help"
        raise UserError(f"there is no command {name}; {hint}")
    try:
        parsed = make_parser(None if words[0].startswith("-") else words[0]).parse_args(words)
    except UnicodeDecodeError as error:
        raise UserError(f"a recipe or file named in it is not UTF-8 ({error}); save it as UTF-8") from error
    given = parsed[parsed.command]
    if name in USES:
        function_of(name)(**vars(given[given.action] if parsed.command in GROUPS else given))
        return
    if parsed.command == "sweep":
        _sweep(given)
        return
    from bertwright.pipeline import run  # torch takes seconds to load: not for --help

    run(build_recipe(given), stages=None if parsed.command == "run" else [parsed.command])


def _sweep(given: Namespace) -> None:
    """Call `sweep` with a recipe and its own options.

    Raises:
        UserError: if Optuna is missing.
    """
    options = {name: given.pop(name) for name in SWEEP}
    with extra("sweep", "a sweep"):
        from bertwright.apps.sweep import sweep
    sweep(build_recipe(given), **options)


def _flags(function: Callable[..., None]) -> set[str]:
    return {name for name, one in inspect.signature(function).parameters.items() if one.default is False}


def _plain_options(words: Sequence[str], function: Callable[..., None]) -> list[str]:
    """A command's options as the parser knows them: with underscores, and flags with a value.

    Raises:
        UserError: if a flag is given a value.
    """
    flags = _flags(function)
    result: list[str] = []
    for number, word in enumerate(words):
        if word == "--":
            return [*result, *words[number:]]
        name, equals, value = word.partition("=")
        plain = name.removeprefix("--").replace("-", "_")
        if not name.startswith("--"):
            result.append(word)
        elif plain not in flags:
            result.append(f"--{plain}{equals}{value}")
        elif equals or (words[number + 1 : number + 2] and words[number + 1].lower() in _SWITCHED):
            raise UserError(f"{name} takes no value: write {name} alone, or leave it out")
        else:
            result.append(f"--{plain}=true")
    return result


def _short_help(command: str) -> str:
    """The settings that matter first, by group."""
    parser = make_recipe_parser()
    help_of = {action.dest: str(action.help or "") for action in parser._actions}
    defaults = parser.get_defaults()
    lines = [
        f"usage: bertwright {command} RECIPE [--option VALUE ...]",
        "",
        STAGES[command],
        "",
        "RECIPE is a YAML file, or the name of a recipe that comes with Bertwright (bertwright recipes).",
        "bertwright init FILE writes one for your own texts.",
    ]
    if command == "sweep":
        lines += ["", "the search:"]
        for name, text in SWEEP.items():
            lines += [f"  --{name}", f"      {text}"]
    for group, names in FIRST_SETTINGS.items():
        lines += ["", f"{group}:"]
        for name in names:
            help_text = "the network: tiny, mini, small, ... (bertwright recipes), or a YAML file"
            if name != "model":
                help_text = re.sub(r"\s+", " ", help_of[name]).partition(" (type:")[0].rstrip(".")
                help_text += "" if defaults[name] is None else f" (default: {defaults[name]})"
            lines.append(f"  --{name.replace('_', '-')}")
            lines += textwrap.wrap(help_text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join([*lines, "", "all settings: --help-all", "in a recipe: finetune: {epochs: 5}"])


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def entry() -> NoReturn:
    """The `bertwright` command."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    warnings.formatwarning = lambda message, *_, **__: f"bertwright: {message}\n"  # a sentence, without the code
    raise SystemExit(main())
