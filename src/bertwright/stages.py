"""The stages from raw text to report, as data: what each needs, what decides its result, and its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertwright.errors import UserError
from bertwright.evaluate.evaluation import collect_results, evaluate
from bertwright.evaluate.report import results_table, write_report
from bertwright.files import digests, write_array, write_json
from bertwright.models.checkpoints import find_model
from bertwright.recipe import Recipe, fingerprint
from bertwright.run_folder import RunFolder
from bertwright.tasks.finetune import finetune
from bertwright.tasks.pretraining import pretrain
from bertwright.tasks.registry import find_task
from bertwright.tasks.task import Ints
from bertwright.text.corpus import parse_corpus_name, parts_read, read_documents, source_fingerprint
from bertwright.text.overlap import (
    check_entry,
    check_train,
    evaluated_splits,
    evaluated_texts,
    fingerprint_of,
    train_overlap,
)
from bertwright.text.prepare import prepare_corpus
from bertwright.text.records import Record, account, read_split
from bertwright.train.engine import Engine


class Work:
    """One recipe's run at work: what the stages have in common.

    Args:
        recipe: the whole recipe.
        folder: of the run.
        engine: the machine.
        notice: told in a sentence about anything a user should know.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, engine: Engine, notice: Callable[[str], None]) -> None:
        self.recipe = recipe
        self.folder = folder
        self.engine = engine
        self.notice = notice
        self._fingerprints: dict[str, str] = {}
        self._labelled: tuple[list[Record], Ints, list[Record]] | None = None

    @property
    def stages(self) -> list[str]:
        """All stages of the recipe: without labels up to pre-training; with an encoder those after it."""
        names = list(STAGES)
        if self.recipe.finetune.data == "":
            return names[:2]
        return names if self.recipe.finetune.encoder is None else names[2:]

    def needs(self, stage: str) -> list[str]:
        """The stages that must be done before a stage, as far as the recipe has them."""
        return [before for before in STAGES[stage].needs if before in self.stages]

    def fingerprint(self, stage: str) -> str:
        """A hash of all that decides a stage's result: its part of the recipe, its sources, the stages before it."""
        if stage not in self._fingerprints:
            before = [self.fingerprint(name) for name in self.needs(stage)]
            self._fingerprints[stage] = fingerprint(stage, *before, *STAGES[stage].inputs(self))
        return self._fingerprints[stage]

    def is_done(self, stage: str) -> bool:
        """Whether a stage is done for this recipe."""
        done = self.folder.finished(stage)
        return done is not None and done["fingerprint"] == self.fingerprint(stage)

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
        for before in self.needs(stage):
            if not self.is_done(before):
                raise UserError(
                    f"{stage} needs `{before}`, which is not done for this recipe; run `bertwright {before}` first"
                )
        for entry in self.recipe.prepare.corpora if stage == "prepare" else ():
            check_entry(self.recipe, entry, "prepare.corpora")
        self.fingerprint(stage)  # looks for the sources

    def perform(self, stage: str) -> None:
        """Do a stage unless it is done; the report, seconds of work, anew each time.

        Raises:
            UserError: as `check`, or as the stage itself.
        """
        self.check(stage)
        chosen = STAGES[stage]
        if stage == "report":
            chosen.work(self)
            return
        barrier = self.engine.barrier if chosen.on_all else lambda: None
        self.folder.perform(
            stage, self.fingerprint(stage), lambda: chosen.work(self), self.notice, self.engine.is_main, barrier
        )

    def sources(self, corpora: Sequence[str]) -> list[Any]:
        """What decides what is read from entries of `data`: their settings and content, wherever they lie."""
        # Not the path as it was written: a glob, or a folder's other name, is the same data.
        named = {name: self.recipe.source(name) for name in sorted({parse_corpus_name(name)[0] for name in corpora})}
        return [[name, asdict(replace(s, path="-")), source_fingerprint(s)] for name, s in named.items()]

    @property
    def encoder(self) -> Path:
        """The folder with the weights that fine-tuning starts from."""
        given = self.recipe.finetune.encoder
        return self.folder.stage("pretrain") / "model" if given is None else find_model(given, "encoder")

    @cached_property
    def evaluated(self) -> frozenset[bytes]:
        """Digests of the texts that are evaluated on: no other stage may read them.

        Raises:
            UserError: if they cannot be read.
        """
        return evaluated_texts(self.recipe, find_task(self.recipe.finetune.task).columns)

    def labelled(self) -> tuple[list[Record], Ints, list[Record]]:
        """Records and labels of train, and records of test, read once; what each split holds is said.

        Raises:
            UserError: if a split is missing, the test split has a label that train does not have, or there is nothing
                for the task and its baselines to learn from.
        """
        if self._labelled is not None:
            return self._labelled
        config = self.recipe.finetune
        task, where = find_task(config.task), f"data.{config.data}"
        source = self.recipe.source(config.data)
        splits = {name: read_split(source, name, task.columns) for name in ("train", *evaluated_splits(self.recipe))}
        for name, split in splits.items():
            self.notice(f"{where}, {account(name, split.summary())}")
        unread = [str(part) for part, split in parts_read(source, None).items() if split is None]
        if unread and source.test_ratio is None:
            self.notice(f"{where}: not read, for their names say no split: {', '.join(unread[:5])}")
        train, test = splits["train"].records, splits["test"].records
        names = task.label_names(train, config.label_names, f"{where}, split train,")
        for name, split in splits.items():
            task.labels(split.records, names, train, f"{where}, split {name}")
        task.check_baselines(train)
        check_train(train, test, where)
        overlap = train_overlap(train, test)
        if overlap["test_texts"]:
            self.notice(f"{where}: {overlap['test_texts']:,} of {len(test):,} test texts stand in train, too")
        self._labelled = train, task.labels(train, names, train, where), test
        return self._labelled

    def check_unlabelled(self) -> None:
        """Read the unlabelled texts once, if the recipe names any: a fault in them is said before training.

        Raises:
            UserError: if they can't be read, or are evaluated on.
        """
        entry = self.recipe.finetune.unlabelled
        if entry is None:
            return
        check_entry(self.recipe, entry, "finetune.unlabelled")
        name, splits = parse_corpus_name(entry)
        for _ in read_documents(self.recipe.source(name), splits):
            pass


def _at_defaults(config: Any, *names: str) -> Any:
    """A section of a recipe with some settings at their defaults: those that do not change the result."""
    return replace(config, **{name: getattr(type(config), name) for name in names})


def _without_path(config: Any, name: str) -> Any:
    """A section of a recipe that says of a path only whether one is given: its content is hashed itself."""
    return replace(config, **{name: getattr(config, name) and "-"})


def _given_files(path: str | Path | None) -> list[Any]:
    """Digests of the files of a tokenizer or an encoder that a recipe names by path; folders in it are not read."""
    place = Path(path or "")
    # Beside a vocab.txt another file may hold its tokenizer's options.
    files = sorted(place.iterdir()) if place.is_dir() else [place, place.with_name("tokenizer_config.json")]
    return digests([file for file in files if file.is_file()]) if path else []


def _prepare_inputs(work: Work) -> list[Any]:
    recipe = work.recipe
    return [
        _without_path(recipe.tokenizer, "path"),
        _at_defaults(recipe.prepare, "workers"),
        _given_files(recipe.tokenizer.path),
        *work.sources(recipe.prepare.corpora),
        fingerprint_of(work.evaluated),
    ]


def _pretrain_inputs(work: Work) -> list[Any]:
    own = _at_defaults(work.recipe.pretrain, "log_every", "evaluate_every", "checkpoint_every")
    return [work.recipe.model, own, work.recipe.seed]


def _finetune_inputs(work: Work) -> list[Any]:
    # Not evaluations_per_epoch: the best evaluation decides which weights are kept.
    own = _without_path(_at_defaults(work.recipe.finetune, "log_every", "checkpoint_every"), "encoder")
    breaks = work.recipe.tokenizer.html_line_breaks
    return [own, breaks, _given_files(work.encoder if own.encoder else None), *work.sources(own.entries)]


def _baselines_inputs(work: Work) -> list[Any]:
    config = work.recipe.finetune
    return [config.task, *work.sources([config.data])]


def _prepare(work: Work) -> None:
    def progress(doing: str, characters: int, documents: int) -> None:
        bar.set_description(doing, refresh=False)
        if characters < bar.n:
            bar.reset()
        bar.set_postfix({"documents": f"{documents:,}"}, refresh=False)
        bar.update(characters - bar.n)

    with tqdm(unit="char", unit_scale=True, dynamic_ncols=True, mininterval=0.5) as bar:
        folder, identity = work.folder.stage("prepare"), work.fingerprint("prepare")
        report = prepare_corpus(work.recipe, folder, identity, progress, work.evaluated)
    total = report["total"]
    work.notice(
        f"{total['documents']:,} documents, {total['sentences']:,} sentences, {total['words']:,} words, "
        f"{total['tokens']:,} tokens; {total['empty_documents']:,} empty, {total['duplicate_documents']:,} "
        f"duplicate and {total['one_sentence_documents']:,} one-sentence documents; longest "
        f"{total['longest_document_tokens']:,} tokens; {total['unknown_token_ratio']:.3%} unknown tokens"
    )
    for warning in report["warnings"]:
        work.notice(f"warning: {warning}")


def _pretrain(work: Work) -> None:
    folder = work.folder
    identity = work.fingerprint("pretrain")
    pretrain(work.recipe, folder.stage("prepare"), folder.stage("pretrain"), identity, work.engine, work.notice)


def _finetune(work: Work) -> None:
    folder = work.folder.stage("finetune")
    finetune(work.recipe, work.encoder, folder, work.fingerprint("finetune"), work.engine, work.notice)


def _baselines(work: Work) -> None:
    train, labels, test = work.labelled()
    found = find_task(work.recipe.finetune.task).baselines(train, labels, test, work.notice)
    for name, predictions in found.items():
        write_array(work.folder.stage("baselines") / f"{name}.npy", predictions)


def _evaluate(work: Work) -> None:
    evaluate(work.recipe, work.folder.path, work.folder.stage("evaluate"), work.engine, work.notice)


def _report(work: Work) -> None:
    """Write the report and print its table."""
    path = work.folder.path
    done = {stage: work.folder.finished(stage) or {} for stage in work.stages if stage != "report"}
    seconds = {stage: found.get("seconds", 0.0) for stage, found in done.items()}
    results = collect_results(work.recipe, path, seconds)
    write_json(path / "results.json", results)
    write_report(path)
    print(results_table(results, path))
    work.notice(f"report: {path / 'report.html'}")


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Args:
        needs: the stages that it reads from.
        work: fills its folder; may be interrupted and called again.
        inputs: what decides its result beside the stages that it needs.
        on_all: whether all processes of a distributed run take part; else the main one works and the others wait.
    """

    needs: tuple[str, ...]
    work: Callable[[Work], None]
    inputs: Callable[[Work], list[Any]] = lambda _: []
    on_all: bool = False


STAGES: dict[str, Stage] = {
    "prepare": Stage((), _prepare, _prepare_inputs),
    "pretrain": Stage(("prepare",), _pretrain, _pretrain_inputs, on_all=True),
    "finetune": Stage(("pretrain",), _finetune, _finetune_inputs, on_all=True),
    "baselines": Stage((), _baselines, _baselines_inputs),
    "evaluate": Stage(("pretrain", "finetune", "baselines"), _evaluate),
    "report": Stage(("evaluate",), _report),
}
"""The stages in order."""
