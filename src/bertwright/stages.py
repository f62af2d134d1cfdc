"""The stages from raw text to report, as data: what each needs, what decides its result, and its work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.evaluate.evaluation import collect_results, evaluate
from bertwright.evaluate.report import results_table, write_report
from bertwright.files import given_files, write_array, write_json
from bertwright.models.checkpoints import find_model
from bertwright.recipe import Recipe, decisive, fingerprint
from bertwright.run_folder import FORMAT, Asked, RunFolder
from bertwright.tasks.finetune import check_encoder, encoder_digests, finetune
from bertwright.tasks.initial import check_first_model, find_start, with_encoder
from bertwright.tasks.labelled import check_labelled
from bertwright.tasks.pretraining import check_budget, continue_from, pretrain
from bertwright.tasks.ranks import changes
from bertwright.tasks.registry import recipe_task
from bertwright.tasks.task import Task
from bertwright.text.corpus import parse_corpus_name, source_fingerprint
from bertwright.text.data_report import in_words
from bertwright.text.overlap import check_entry, evaluated_splits, fingerprint_of, texts_of
from bertwright.text.prepare import prepare_corpus
from bertwright.text.records import LabelledSplit, Record, read_split
from bertwright.train.engine import Engine, environment
from bertwright.train.tracking import track_scores


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
        self._fingerprints: dict[tuple[str, bool], str] = {}
        self._splits: dict[str, LabelledSplit] = {}
        self._read: dict[str, list[Any]] = {}

    @property
    def stages(self) -> list[str]:
        """All stages of the recipe: without labels none that reads them; with an encoder those after pre-training."""
        names = list(STAGES)
        if self.recipe.finetune.data == "":
            return [name for name in names if name not in ("finetune", "baselines")]
        return names if self.recipe.finetune.encoder is None else names[2:]

    def needs(self, stage: str) -> list[str]:
        """The stages that must be done before a stage, as far as the recipe has them."""
        return [before for before in STAGES[stage].needs if before in self.stages]

    def fingerprint(self, stage: str, *, budget: bool = True) -> str:
        """A hash of all that decides a stage's result: its part of the recipe, its sources, the stages before it.

        Args:
            stage: its name.
            budget: whether its own budget counts; results that differ in it alone continue one another.
        """
        if (stage, budget) not in self._fingerprints:
            before = [self.fingerprint(name) for name in self.needs(stage)]
            chosen = STAGES[stage]
            inputs = chosen.inputs(self) if budget or chosen.lineage is None else chosen.lineage(self)
            self.require_same(stage)
            self._fingerprints[stage, budget] = fingerprint(stage, FORMAT, *before, *inputs)
        return self._fingerprints[stage, budget]

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
                done = self.folder.finished(before) or {"format": FORMAT}
                older = done.get("format", 1) != FORMAT
                state = "was done by an older version of Bertwright" if older else "is not done for this recipe"
                raise UserError(f"{stage} needs `{before}`, which {state}; run `bertwright {before}` first")
        for entry in self.recipe.prepare.corpora if stage == "prepare" else ():
            check_entry(self.recipe, entry, "prepare.corpora")
        self.fingerprint(stage)  # looks for the sources

    def perform(self, stage: str) -> None:
        """Do a stage unless it is done; the report, seconds of work, anew each time.

        Raises:
            UserError: as `check`, or as the stage itself.
        """
        self.check(stage)
        self.require_same(stage)
        chosen = STAGES[stage]
        if stage == "report":
            chosen.work(self, self.folder.path)
            return
        asked = Asked(
            stage,
            self.fingerprint(stage),
            self.fingerprint(stage, budget=False),
            self.recipe,
            environment(self.engine) if self.engine.is_main else {},
        )
        together = self.engine.together if chosen.on_all else nullcontext
        self.folder.perform(asked, lambda place: chosen.work(self, place), self.notice, self.engine.is_main, together)

    def require_same(self, stage: str) -> None:
        """See that what a stage reads is what the fingerprints stand for: hours may have passed since.

        Raises:
            UserError: if it has changed since it was first looked at.
        """
        read = {"prepare": ("prepare", "baselines"), "evaluate": ("finetune", "baselines")}.get(stage, (stage,))
        now = [STAGES[name].inputs(self) for name in read if name in self.stages]
        if self._read.setdefault(stage, now) != now:
            raise UserError(
                f"the texts or the encoder that {stage} reads have changed since this command began; run it again: it "
                "begins with what has changed"
            )

    def sources(self, corpora: Sequence[str]) -> list[Any]:
        """What decides what is read from entries of `data`: their settings and content, wherever they lie."""
        # Not the path as it was written: a glob, or a folder's other name, is the same data.
        named = {name: self.recipe.source(name) for name in sorted({parse_corpus_name(name)[0] for name in corpora})}
        return [[name, decisive(replace(s, path="-")), source_fingerprint(s)] for name, s in named.items()]

    @cached_property
    def start(self) -> Path | None:
        """The folder with the encoder whose pre-training is continued; None where that starts from random weights."""
        return find_start(self.recipe, self.folder.path)

    @cached_property
    def resolved(self) -> Recipe:
        """The recipe with the network and the tokenizer of the encoder that it continues, if it names one.

        Raises:
            UserError: if the encoder cannot be read, or is not made for the recipe.
        """
        return self.recipe if self.start is None else with_encoder(self.recipe, self.start)

    @property
    def encoder(self) -> Path:
        """The folder with the weights that fine-tuning starts from."""
        given = self.recipe.finetune.encoder
        if given is None:
            return self.folder.stage("pretrain") / "model"
        found = find_model(given, "encoder")
        if found.resolve().is_relative_to(self.folder.stage("finetune").resolve()):
            raise UserError(f"finetune.encoder is {given}, which this run writes itself; name another folder: --out")
        return found

    @cached_property
    def evaluated(self) -> frozenset[bytes]:
        """Digests of the texts that are evaluated on: no other stage may read them.

        Raises:
            UserError: if they cannot be read.
        """
        recipe_task(self.recipe)  # a wrong one is refused with labels or without
        if self.recipe.finetune.data == "":
            return frozenset()
        return texts_of(self._split(name) for name in evaluated_splits(self.recipe))

    def _split(self, name: str) -> LabelledSplit:
        """A split of the labelled data, read once."""
        if name not in self._splits:
            config = self.recipe.finetune
            self._splits[name] = read_split(self.recipe.source(config.data), name, recipe_task(self.recipe).columns)
        return self._splits[name]

    @cached_property
    def labelled(self) -> tuple[Task, list[Record], Ints, list[Record]]:
        """As `check_labelled`."""
        splits = {name: self._split(name) for name in ("train", *evaluated_splits(self.recipe))}
        return check_labelled(self.recipe, splits, self.notice)

    def check_training(self, stages: Sequence[str]) -> None:
        """See that the training of these stages can begin, as far as that can be told before the stages before it.

        Raises:
            UserError: if pre-training has passed its budget, or a network or encoder of the recipe cannot be used.
        """
        if "pretrain" in stages and not self.is_done("pretrain"):
            check_first_model(self.recipe, self.start)
            lineage = self.fingerprint("pretrain", budget=False)
            for folder in (self.folder.stage("pretrain"), self.folder.place("pretrain")):
                check_budget(self.recipe, folder, lineage)
        if "finetune" in stages and self.recipe.finetune.encoder is not None:
            check_encoder(self.recipe.finetune, self.encoder)


def _without_path(config: Any, name: str) -> Any:
    """A section of a recipe that says of a path only whether one is given: its content is hashed itself."""
    return replace(config, **{name: getattr(config, name) and "-"})


def _prepare_inputs(work: Work) -> list[Any]:
    recipe = work.resolved
    own, files = _without_path(recipe.tokenizer, "path"), given_files(recipe.tokenizer.path)
    read = [recipe.pretrain.corpora] if own.new_words and recipe.pretrain.corpora else []  # whose words are new
    return [own, recipe.prepare, files, *work.sources(recipe.prepare.corpora), fingerprint_of(work.evaluated), *read]


def _pretrain_inputs(work: Work, *, budget: bool = True) -> list[Any]:
    own = decisive(work.recipe.pretrain, budget=budget)
    del own["encoder"]  # its content is hashed itself; without one, all is as before there was the setting
    own["phases"] = [decisive(phase) for phase in work.recipe.pretrain.phases]
    return [work.resolved.model, own, work.recipe.seed, *given_files(work.start)]


def _finetune_inputs(work: Work) -> list[Any]:
    own = _without_path(work.recipe.finetune, "encoder")
    start = encoder_digests(own, work.encoder) if own.encoder else []
    return [own, work.recipe.tokenizer.html_line_breaks, start, *work.sources(own.entries), *changes(own)]


def _baselines_inputs(work: Work) -> list[Any]:
    own = decisive(work.recipe.finetune)
    more = [own[name] for name in ("label_names", "embedding") if own.get(name)]  # what the columns of predictions are
    data = work.sources([work.recipe.finetune.data])
    return [own["task"], own["test_split"], *more, *data, *changes(work.recipe.finetune)]


def _prepare(work: Work, place: Path) -> None:
    def progress(doing: str, characters: int, documents: int) -> None:
        bar.set_description(doing, refresh=False)
        if characters < bar.n:
            bar.reset()
        bar.set_postfix({"documents": f"{documents:,}"}, refresh=False)
        bar.update(characters - bar.n)

    with tqdm(unit="char", unit_scale=True, dynamic_ncols=True, mininterval=0.5) as bar:
        report = prepare_corpus(work.resolved, place, work.fingerprint("prepare"), progress, work.evaluated)
    work.require_same("prepare")  # texts that were changed while they were read
    work.notice(in_words(report["total"]))
    for notice in report["notices"]:
        work.notice(notice)
    for warning in report["warnings"]:
        work.notice(f"warning: {warning}")


def _pretrain(work: Work, place: Path) -> None:
    lineage, earlier = work.fingerprint("pretrain", budget=False), work.folder.stage("pretrain")
    with work.engine.together():
        done = work.folder.finished("pretrain")
        if work.engine.is_main and done is not None and done.get("lineage") == lineage:
            continue_from(earlier, place, work.notice)
    pretrain(work.recipe, work.folder.stage("prepare"), place, lineage, work.engine, work.notice)


def _finetune(work: Work, place: Path) -> None:
    finetune(work.recipe, work.encoder, place, work.fingerprint("finetune"), work.engine, work.notice)


def _baselines(work: Work, place: Path) -> None:
    task, train, labels, test = work.labelled
    found = task.baselines(train, labels, test, work.notice)
    for name, predictions in found.items():
        if not isinstance(predictions, str):
            write_array(place / f"{name}.npy", predictions)
    write_json(place / "left_out.json", {name: why for name, why in found.items() if isinstance(why, str)})


def _evaluate(work: Work, place: Path) -> None:
    evaluate(work.recipe, work.folder.path, place, work.engine, work.notice)


def _report(work: Work, path: Path) -> None:
    """Write the report and print its table."""
    work.folder.write_recipe(work.recipe)
    done = {stage: work.folder.finished(stage) or {} for stage in work.stages if stage != "report"}
    results = collect_results(work.recipe, path, done)
    write_json(path / "results.json", results)
    write_report(path)
    track_scores(work.engine, work.recipe, results, path, work.notice)
    print(results_table(results, path, color=sys.stdout.isatty()))
    work.notice(f"report: {path / 'report.html'}")


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Args:
        needs: the stages that it reads from.
        work: fills the folder that it is given; may be interrupted and called again.
        inputs: what decides its result besides the stages that it needs.
        lineage: the same without its budget, if a longer budget continues from a shorter one.
        on_all: whether all processes of a distributed run take part; else the main one works and the others wait.
    """

    needs: tuple[str, ...]
    work: Callable[[Work, Path], None]
    inputs: Callable[[Work], list[Any]] = lambda _: []
    lineage: Callable[[Work], list[Any]] | None = None
    on_all: bool = False


STAGES: dict[str, Stage] = {
    "prepare": Stage((), _prepare, _prepare_inputs),
    "pretrain": Stage(("prepare",), _pretrain, _pretrain_inputs, partial(_pretrain_inputs, budget=False), on_all=True),
    "finetune": Stage(("pretrain",), _finetune, _finetune_inputs, on_all=True),
    "baselines": Stage((), _baselines, _baselines_inputs),
    "evaluate": Stage(
        ("pretrain", "finetune", "baselines"), _evaluate, lambda one: [one.recipe.finetune.positive_label]
    ),
    "report": Stage(("evaluate",), _report),
}
"""The stages in order."""
