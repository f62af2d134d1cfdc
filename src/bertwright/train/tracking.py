"""Experiment trackers: what TensorBoard, Weights & Biases or MLflow are told of a run, through Accelerate.

Each training run, and the report, is one run of the tracker. Its settings are the recipe's. metrics.jsonl is what
counts: a tracker that fails while the network is trained is left alone from there on.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.recipe import Recipe, fingerprint, to_dict
from bertwright.train.engine import Engine

_STATE = "tracker.json"
"""The file that says which run of a tracker is continued where training resumes."""


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run when it begins.

    Args:
        name: pretrain, finetune/seed-N or report.
        recipe: the whole recipe.
        more: further settings to tell runs of one recipe apart by.
    """

    name: str
    recipe: Recipe
    more: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, bool | int | float | str]:
        """The recipe's settings by dotted name; what is no number, boolean or string is written as JSON.

        Without those of a network and a tokenizer that are an encoder's.
        """
        plain = to_dict(self.recipe)
        if self.recipe.pretrain.encoder is not None or self.recipe.finetune.encoder is not None:
            del plain["model"], plain["tokenizer"]
        return dict(_flat(plain | dict(self.more)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield _clean(prefix + name), value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _clean(name: str) -> str:
    """A name of letters, digits and signs that all trackers take: labels and sources may have others."""
    return re.sub(r"[^\w./-]", "_", name)


class Tracker:
    """A run of the tracker that the recipe names. It says nothing to anyone if there is none.

    The run is continued if the folder has its id, and the recipe is what it was.

    Args:
        engine: of the main process.
        tracked: what the tracker is told; None is no tracker.
        folder: keeps the id of the tracker's run.
        step: that training resumes from.
        notice: told in a sentence if the tracker fails later.

    Raises:
        UserError: if the tracker cannot start.
    """

    def __init__(
        self, engine: Engine, tracked: Tracked | None, folder: Path, step: int, notice: Callable[[str], None]
    ) -> None:
        self._engine, self._notice = engine, notice
        self._name = "none" if tracked is None else engine.config.tracker
        self._is_own_store = False
        self.is_new = self._name != "none"
        if tracked is None or self._name == "none":
            return
        settings = tracked.settings()
        state = {"tracker": self._name, "settings": fingerprint(settings)}
        before = read_json(folder / _STATE) if (folder / _STATE).exists() else {}
        self.is_new = {key: before.get(key) for key in state} != state
        try:
            begin = {"tensorboard": self._tensorboard, "wandb": self._wandb, "mlflow": self._mlflow}[self._name]
            id_ = begin(tracked, settings, folder, step, None if self.is_new else before["id"])
        except Exception as error:  # each tracker has errors of its own: no account, no network, a run that is gone
            self._leave_store()
            advice = "" if self.is_new else f"; to begin another of its runs, remove {folder / _STATE}"
            raise UserError(
                f"system.tracker is {self._name}, which cannot start ({' '.join(str(error).split())}){advice}; "
                "without a tracker: --system.tracker none"
            ) from error
        write_json(folder / _STATE, state | {"id": id_})

    def log(self, line: Mapping[str, Any]) -> None:
        """Send a line of metrics.jsonl: each value as kind/name."""
        if self._name == "none":
            return
        values = {
            f"{line['kind']}/{_clean(name)}": value for name, value in line.items() if name not in ("kind", "step")
        }
        try:
            self._engine.log(values, line["step"])
        except Exception as error:
            self._fail(error)

    def finish(self) -> None:
        """End the tracker's run; its last values are sent."""
        if self._name == "none":
            return
        try:
            self._engine.stop_tracker()
        except Exception as error:
            self._fail(error)
        self._leave_store()

    def _leave_store(self) -> None:
        if self._is_own_store:
            _use_store("")
            self._is_own_store = False

    def _fail(self, error: Exception) -> None:
        name, self._name = self._name, "none"
        self._notice(
            f"warning: {name} takes no more values ({' '.join(str(error).split())}); this run continues without it, "
            "and metrics.jsonl has them all"
        )

    def _tensorboard(self, tracked: Tracked, settings: dict[str, Any], folder: Path, step: int, id_: str | None) -> str:
        if id_ is None:  # all lines are sent anew
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        # Points after the step that a run resumes from are hidden.
        self._engine.start_tracker("tensorboard", None if id_ else settings, folder, purge_step=step + 1)
        return "tensorboard"

    def _wandb(self, tracked: Tracked, settings: dict[str, Any], folder: Path, step: int, id_: str | None) -> str:
        run = self._engine.start_tracker(
            _project(tracked),
            settings,
            folder,
            dir=str(self._engine.folder),
            group=self._engine.folder.resolve().name,
            name=tracked.name,
            id=id_,
            resume="allow",
        )
        return str(run.id)

    def _mlflow(self, tracked: Tracked, settings: dict[str, Any], folder: Path, step: int, id_: str | None) -> str:
        import mlflow  # a package that not everyone has

        place = self._engine.folder.resolve()
        if not mlflow.is_tracking_uri_set():
            self._is_own_store = True
            place.mkdir(parents=True, exist_ok=True)
            _use_store(f"sqlite:///{place / 'mlflow.db'}")
        run = self._engine.start_tracker(
            _project(tracked),
            None if id_ else settings,  # which MLflow lets nobody change
            folder,
            logging_dir=(place / "mlruns").as_uri() if self._is_own_store else None,
            run_id=id_,
            run_name=f"{place.name}/{tracked.name}",
        )
        return str(run.info.run_id)


def _use_store(uri: str) -> None:
    """Have MLflow write to a store; an empty name is the one that it finds by itself."""
    import mlflow

    mlflow.set_tracking_uri(uri)


def _project(tracked: Tracked) -> str:
    return _clean(tracked.recipe.name).replace("/", "-")


def track_scores(
    engine: Engine, recipe: Recipe, results: Mapping[str, Any], folder: Path, notice: Callable[[str], None]
) -> None:
    """Send the metrics of the test split, of each system and of BERT's seeds, as a run of their own, once.

    Args:
        engine: of the main process.
        recipe: the whole recipe.
        results: the content of results.json.
        folder: of the run.
        notice: told in a sentence if the tracker fails.

    Raises:
        UserError: if the tracker cannot start.
    """
    if "scores" not in results:  # a run without labels; what held-out text says is logged during pre-training
        return
    tracker = Tracker(engine, Tracked("report", recipe, results["fingerprints"]), folder, 0, notice)
    systems = results["scores"] | {f"bert-seed-{seed}": scores for seed, scores in results["bert_seeds"].items()}
    if tracker.is_new:
        for system, scores in systems.items():
            numbers = {f"{system}/{name}": value for name, value in scores.items() if isinstance(value, int | float)}
            tracker.log({"kind": "test", "step": 0} | numbers)
    tracker.finish()
