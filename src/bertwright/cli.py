"""The command line: every command is one function of a lower room, every option a field of the recipe."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from tqdm import tqdm

import bertwright
from bertwright.config import Recipe, fingerprint
from bertwright.errors import UserError
from bertwright.files import digests, write_array, write_json
from bertwright.run import RunFolder
from bertwright.use import commands

STAGES = ("prepare", "pretrain", "finetune", "baselines", "evaluate", "report")

HELP = {
    "run": "all stages, from raw text to a report; what is done and unchanged is skipped",
    "prepare": "read the corpora, train the vocabulary, write token ids to disk",
    "pretrain": "train BERT from random weights on masked words and next sentences",
    "finetune": "train a classifier on the pre-trained encoder",
    "baselines": "train naive Bayes and logistic regressions on the same texts",
    "evaluate": "judge the test split with all systems",
    "report": "write results.json and report.html, and print the table",
}

USES: dict[str, tuple[Callable[..., None], dict[str, str | None]]] = {
    "predict": (commands.predict, {"texts": "*"}),
    "fill-mask": (commands.fill_mask, {"text": None}),
    "next-sentence": (commands.next_sentence, {"first": None, "second": None}),
    "embed": (commands.embed, {"texts": "*"}),
    "export": (commands.export, {"out": None}),
    "serve": (commands.serve, {}),
}
"""The commands that use a trained model, each with the arguments that stand without a name, and how many there are."""


class _Parser(ArgumentParser):
    """jsonargparse's parser, with a hint at the nearest option when one is not known."""

    known: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and exit with status 2."""
        message = " ".join(str(message).split())
        unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)|does not accept \w+ '([\w.]+)'", message)
        if unknown:
            name = unknown.group(1) or unknown.group(2)
            near = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
            near = near or [k for k in self.known if k.rpartition(".")[2] == name.rpartition(".")[2]][:1]
            message = f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else "; see --help")
        print(f"bertwright: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def make_parser() -> _Parser:
    """The parser of the whole command line: `bertwright COMMAND RECIPE [--section.option VALUE ...]`."""
    parser = _Parser(prog="bertwright", description=bertwright.__doc__)
    parser.add_argument("--version", action="version", version=f"bertwright {bertwright.__version__}")
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, text in HELP.items():
        command = _Parser(
            description=f"{text[0].upper()}{text[1:]}.", usage=f"bertwright {name} RECIPE [--option VALUE ...]"
        )
        command.add_argument(
            "--recipe", action=ActionConfigFile, help="the recipe, a YAML file; may stand first, alone"
        )
        command.add_class_arguments(Recipe, None)
        command.known = [key for key in command.get_defaults().keys() if key != "recipe"]  # noqa: SIM118
        parser.known = command.known
        subcommands.add_subcommand(name, command, help=text)
    for name, (function, plain) in USES.items():
        documented = docstring_parser.parse(function.__doc__ or "")
        help_of = {parameter.arg_name: parameter.description for parameter in documented.params}
        command = _Parser(description=documented.short_description)
        for argument, number in plain.items():
            command.add_argument(argument, nargs=number, help=help_of[argument])
        command.add_function_arguments(function, skip=set(plain))
        command.known = list(command.get_defaults().keys())
        subcommands.add_subcommand(name, command, help=documented.short_description)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 well, 2 for a mistake of the user's, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) > 1 and words[0] in HELP and not words[1].startswith("-"):
        words.insert(1, "--recipe")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            parsed = make_parser().parse_args(words)
        except UnicodeDecodeError as error:
            raise UserError(f"a recipe or file named in it is not UTF-8 ({error}); save it as UTF-8") from error
        given = parsed[parsed.command]
        if parsed.command in USES:
            USES[parsed.command][0](**vars(given))
        else:
            _perform(parsed.command, _recipe(given))
    except UserError as error:
        print(f"bertwright: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "" if words[0] in USES else "; the same command goes on from the last checkpoint"
        print(f"\nbertwright: interrupted{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has seen enough
    return 0


def load_recipe(path: str, *options: str) -> Recipe:
    """The recipe of a YAML file, changed by options as on the command line.

    Args:
        path: the recipe.
        options: such as "--pretrain.max_minutes", "50".
    """
    return _recipe(make_parser().parse_args(["run", "--recipe", path, *options]).run)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _recipe(parsed: Namespace) -> Recipe:
    parser = _Parser()
    parser.add_class_arguments(Recipe, "recipe")
    plain = Namespace()  # type: ignore[no-untyped-call]
    for key, value in vars(parsed).items():
        if key != "recipe" and not key.startswith("__"):
            plain[f"recipe.{key}"] = value
    built: Recipe = parser.instantiate(plain).recipe
    return built


def _perform(command: str, recipe: Recipe) -> None:
    from bertwright.train.engine import Engine, environment  # torch takes seconds to load: not for --help

    def notice(text: str) -> None:
        if engine.is_main:
            tqdm.write(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr)

    early: list[str] = []
    engine = Engine(recipe.system, early.append)
    for text in early:
        notice(text)
    run = RunFolder(Path(recipe.out or f"runs/{recipe.name}"))
    workflow = _Workflow(recipe, run, engine, notice)
    stages = workflow.stages if command == "run" else (command,)
    if not engine.is_main:
        _follow(workflow, stages)
        return
    with run.locked():
        workflow.check(stages[0])
        if command == "run" and "finetune" in stages:
            workflow.labelled()  # hours before they are needed: a fault in the labels is said now
        if "finetune" in stages:
            workflow.check_unlabelled()
        # Only now: what is refused must not leave a recipe that was never run beside an earlier result.
        run.write_recipe(recipe)
        if any(stage not in ("evaluate", "report") and not workflow.is_done(stage) for stage in stages):
            write_json(run.path / "environment.json", environment(engine))  # where the models come from
        for stage in stages:
            workflow.perform(stage)
            engine.accelerator.wait_for_everyone()


def _follow(workflow: _Workflow, stages: Sequence[str]) -> None:
    """What the other processes of a distributed run do: train, and wait while the first does the rest."""
    for stage in stages:
        if stage in ("pretrain", "finetune"):
            workflow.perform(stage)
        workflow.engine.accelerator.wait_for_everyone()


def _given_files(path: str | Path | None) -> list[Any]:
    """Digests of the files of a tokenizer or an encoder that a recipe names by path; folders in it are not read."""
    place = Path(path or "")
    # Beside a vocab.txt another file may say how its tokenizer treats case.
    files = sorted(place.iterdir()) if place.is_dir() else [place, place.with_name("tokenizer_config.json")]
    return digests([file for file in files if file.is_file()]) if path else []


def _at_defaults(config: Any, *names: str) -> Any:
    """A section of a recipe with some settings at their defaults: those that do not change what comes out."""
    return replace(config, **{name: getattr(type(config), name) for name in names})


def _without_path(config: Any, name: str) -> Any:
    """A section of a recipe that says of a path only whether one is given: what stands there is hashed itself."""
    return replace(config, **{name: getattr(config, name) and "-"})


class _Workflow:
    """The stages in order, each with what goes into it.

    Args:
        recipe: the whole recipe.
        run: the run folder.
        engine: the machine, an `Engine`.
        notice: told in a sentence about anything a user should know.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, engine: Any, notice: Callable[[str], None]) -> None:
        self.recipe = recipe
        self.run = run
        self.engine = engine
        self.notice = notice
        self._fingerprints: dict[str, str] = {}

    @property
    def stages(self) -> tuple[str, ...]:
        """What `run` does: all of it; without labels pre-training; with an encoder from elsewhere what comes after."""
        if self.recipe.finetune.data == "":
            return STAGES[:2]
        return STAGES if self.recipe.finetune.encoder is None else STAGES[2:]

    def check(self, stage: str) -> None:
        """See that a stage can begin.

        Raises:
            UserError: if a stage before it is not done or out of date, a source of it can't be found, or the recipe has
                no such stage.
        """
        if stage not in self.stages:
            without = "begins with an encoder (finetune.encoder)"
            if self.recipe.finetune.data == "":
                without = "names no labelled texts (finetune.data)"
            raise UserError(f"there is nothing to {stage}: the recipe {without}")
        for before in self._needs(stage):
            if not self.is_done(before):
                raise UserError(
                    f"{stage} needs `{before}`, which is not done for this recipe; run `bertwright {before}` first"
                )
        self.fingerprint(stage)  # looks for the sources

    def is_done(self, stage: str) -> bool:
        """Whether a stage is done for this recipe."""
        done = self.run.finished(stage)
        return done is not None and done["fingerprint"] == self.fingerprint(stage)

    def perform(self, stage: str) -> None:
        """Do a stage unless it is done; the report, seconds of work, anew each time.

        Raises:
            UserError: as `check`, or as the stage itself.
        """
        self.check(stage)
        if stage == "report":
            self._report()
            return
        work = getattr(self, f"_{stage}")
        self.run.perform(stage, self.fingerprint(stage), work, self.engine.is_main, self.notice)

    def fingerprint(self, stage: str) -> str:
        """A hash of all that goes into a stage: its part of the recipe, its sources, and the stages before it."""
        if stage not in self._fingerprints:
            self._fingerprints[stage] = fingerprint(
                stage, *(self.fingerprint(before) for before in self._needs(stage)), *self._inputs(stage)
            )
        return self._fingerprints[stage]

    def _needs(self, stage: str) -> list[str]:
        needs = {
            "prepare": [],
            "pretrain": ["prepare"],
            "finetune": ["pretrain"],
            "baselines": [],
            "evaluate": ["pretrain", "finetune", "baselines"],
            "report": ["evaluate"],
        }[stage]
        return [before for before in needs if before in self.stages]

    def _inputs(self, stage: str) -> list[Any]:
        recipe = self.recipe
        if stage == "prepare":
            return [
                _without_path(recipe.tokenizer, "path"),
                _at_defaults(recipe.prepare, "workers"),
                _given_files(recipe.tokenizer.path),
                *self._sources(recipe.prepare.corpora),
            ]
        if stage == "pretrain":
            own = _at_defaults(recipe.pretrain, "log_every", "evaluate_every", "checkpoint_every")
            return [recipe.model, own, recipe.seed]
        if stage == "finetune":
            # Not evaluations_per_epoch: the best evaluation decides which weights are kept.
            own = _without_path(_at_defaults(recipe.finetune, "log_every", "checkpoint_every"), "encoder")
            return [own, _given_files(self._encoder() if own.encoder else None), *self._sources(own.entries)]
        return self._sources([recipe.finetune.data]) if stage == "baselines" else []

    def _sources(self, corpora: Sequence[str]) -> list[Any]:
        from bertwright.text.corpus import parse_corpus_name, source_fingerprint

        # Not the path as it was written: a glob, or a folder's other name, is the same data.
        named = {name: self.recipe.source(name) for name in sorted({parse_corpus_name(name)[0] for name in corpora})}
        return [[name, asdict(replace(s, path="-")), source_fingerprint(s)] for name, s in named.items()]

    def _prepare(self) -> None:
        from bertwright.text.prepare import prepare_corpus

        def progress(doing: str, characters: int, documents: int) -> None:
            bar.set_description(doing, refresh=False)
            if characters < bar.n:
                bar.reset()
            bar.set_postfix({"documents": f"{documents:,}"}, refresh=False)
            bar.update(characters - bar.n)

        with tqdm(unit="char", unit_scale=True, dynamic_ncols=True, mininterval=0.5) as bar:
            report = prepare_corpus(self.recipe, self.run.stage("prepare"), self.fingerprint("prepare"), progress)
        total = report["total"]
        self.notice(
            f"{total['documents']:,} documents, {total['sentences']:,} sentences, {total['words']:,} words, "
            f"{total['tokens']:,} tokens; {total['empty_documents']:,} empty, {total['duplicate_documents']:,} "
            f"duplicate and {total['one_sentence_documents']:,} one-sentence documents; longest "
            f"{total['longest_document_tokens']:,} tokens; {total['unknown_token_share']:.3%} unknown tokens"
        )
        for warning in report["warnings"]:
            self.notice(f"warning: {warning}")

    def _pretrain(self) -> None:
        from bertwright.tasks.pretrain import pretrain

        folder = self.run.stage("pretrain")
        pretrain(self.recipe, self.run.stage("prepare"), folder, self.fingerprint("pretrain"), self.engine, self.notice)

    def _finetune(self) -> None:
        from bertwright.tasks.classify import finetune

        folder = self.run.stage("finetune")
        finetune(self.recipe, self._encoder(), folder, self.fingerprint("finetune"), self.engine, self.notice)

    def _encoder(self) -> Path:
        """The folder with the weights that fine-tuning begins with."""
        from bertwright.model.interop import find_model

        given = self.recipe.finetune.encoder
        return self.run.stage("pretrain") / "model" if given is None else find_model(given, "encoder")

    def labelled(self) -> tuple[list[str], Any, list[str]]:
        """Texts and class numbers of train, and texts of test.

        Raises:
            UserError: if a split is missing, the test split has a label that train does not know, or the texts of train
                share no word.
        """
        from bertwright.tasks.baselines import check_words
        from bertwright.tasks.classify import label_names, label_numbers
        from bertwright.text.corpus import read_labelled

        data = self.recipe.finetune.data
        training, test = (read_labelled(self.recipe.source(data), split) for split in ("train", "test"))
        names = label_names(training)
        label_numbers(test, names, f"data.{data}")
        check_words(t.text for t in training)
        return [t.text for t in training], label_numbers(training, names, f"data.{data}"), [t.text for t in test]

    def check_unlabelled(self) -> None:
        """Read the texts without labels once, if the recipe names any: a fault in them is said before training.

        Raises:
            UserError: if they can't be read, or the report judges on some of them.
        """
        from bertwright.text.corpus import parse_corpus_name, parts_read, read_documents

        entry = self.recipe.finetune.unlabelled
        if entry is None:
            return
        name, splits = parse_corpus_name(entry)
        source = self.recipe.source(name)
        judged = parts_read(self.recipe.source(self.recipe.finetune.data), ["test"])
        if judged.keys() & parts_read(source, splits).keys():
            others = {split: None for part, split in parts_read(source, None).items() if part not in judged and split}
            others.pop("train", None)  # its texts have labels
            instead = f"write {name}:{'+'.join(others)}" if others else "name other texts, or leave it out"
            raise UserError(
                f"finetune.unlabelled is `{entry}`, which reads the test split that the report judges on; {instead}"
            )
        for _ in read_documents(source, splits):
            pass

    def _baselines(self) -> None:
        from bertwright.tasks.baselines import fit_and_predict

        texts, labels, test = self.labelled()
        predictions = fit_and_predict(texts, labels, test, progress=self.notice)
        for name, probabilities in predictions.items():
            write_array(self.run.stage("baselines") / f"{name}.npy", probabilities)

    def _evaluate(self) -> None:
        from bertwright.evaluate.judge import evaluate

        evaluate(self.recipe, self.run.path, self.run.stage("evaluate"), self.engine, self.notice)

    def _report(self) -> None:
        """Write the report and print its table."""
        from bertwright.evaluate.judge import collect_results
        from bertwright.evaluate.report import results_table, write_report

        done = {stage: self.run.finished(stage) or {} for stage in self.stages if stage != "report"}
        seconds = {stage: found.get("seconds", 0.0) for stage, found in done.items()}
        results = collect_results(self.recipe, self.run.path, seconds)
        write_json(self.run.path / "results.json", results)
        write_report(self.run.path)
        print(results_table(results, self.run.path))
        self.notice(f"report: {self.run.path / 'report.html'}")


def entry() -> NoReturn:
    """The `bertwright` command."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    raise SystemExit(main())
