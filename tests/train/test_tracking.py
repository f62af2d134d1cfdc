"""Trackers get what metrics.jsonl holds; it is read back without a network."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bertwright
from bertwright.errors import UserError
from bertwright.files import read_json
from bertwright.recipe import SystemConfig
from bertwright.tasks.pretraining import Pretraining, continue_from, pretrain
from bertwright.train.engine import Engine

TRACKERS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(
                LoggerType(name) not in get_available_trackers(), reason=f"NOT TESTED: {name} is not installed"
            ),
            pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the trackers' own use of others
        ],
    )
    for name in ("tensorboard", "wandb", "mlflow")
]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def from_tensorboard(run: Path, stage: str):
    folder = (run if stage == "report" else run / stage) / "tensorboard"
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    values = {(tag, one.step): one.value for tag in events.Tags()["scalars"] for one in events.Scalars(tag)}
    (settings,) = folder.glob("*/hparams.yml")
    return values, yaml.safe_load(settings.read_text())


def wandb_records(path: Path):
    """The records of a .wandb file: LevelDB's log format after a head of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def from_wandb(run: Path, stage: str):
    values, settings, ids = {}, {}, set()
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        records = list(wandb_records(path))
        about = next(record.run for record in records if record.HasField("run"))
        assert about.run_group == run.name
        if about.display_name != stage:
            continue
        ids.add(about.run_id)
        for record in records:
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    values[name, record.history.step.num] = json.loads(item.value_json)
            for item in (*record.run.config.update, *record.config.update):
                if item.key or item.nested_key:
                    settings[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    assert len(ids) == 1  # all sessions are one run
    return values, settings


def from_mlflow(run: Path, stage: str):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name != "Default")
    named = [
        one for one in client.search_runs([experiment.experiment_id]) if one.info.run_name == f"{run.name}/{stage}"
    ]
    (found,) = named  # all sessions are one run
    assert found.info.status == "FINISHED"
    points = [point for name in found.data.metrics for point in client.get_metric_history(found.info.run_id, name)]
    return {(point.key, point.step): point.value for point in points}, found.data.params


READERS = {"tensorboard": from_tensorboard, "wandb": from_wandb, "mlflow": from_mlflow}


def lines_of(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_tracked(values, lines):
    """The values are those of the lines, each as kind/name at its step, and no others."""
    expected = {
        (f"{line['kind']}/{name}", line["step"]): value
        for line in lines
        for name, value in line.items()
        if name not in ("kind", "step")
    }
    assert values.keys() == expected.keys()
    assert values == {key: pytest.approx(value, rel=1e-6, nan_ok=True) for key, value in expected.items()}


class StopHereError(Exception):
    """Stands in for a kill between two steps."""


def stop(*arguments):
    raise StopHereError


def tracked(small_recipe, tracker, **pretrain_settings):
    system = SystemConfig(precision="fp32", compile="off", tracker=tracker)
    return replace(small_recipe(pretrain=pretrain_settings), system=system)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_has_each_line_of_a_run_that_was_stopped_and_resumed(
    small_recipe, small_prepared, tmp_path, monkeypatch, tracker
):
    recipe, folder = tracked(small_recipe, tracker), tmp_path / "pretrain"
    engine = Engine(recipe.system, print, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "evaluate", stop)
        with pytest.raises(StopHereError):  # at the evaluation after step 3; the last checkpoint is that of step 2
            pretrain(recipe, small_prepared, folder, "x", engine, print)
    first, before = read_json(folder / "tracker.json"), lines_of(folder)
    pretrain(recipe, small_prepared, folder, "x", engine, print)
    assert read_json(folder / "tracker.json") == first
    values, settings = READERS[tracker](tmp_path, "pretrain")
    # Step 3 is done twice: TensorBoard hides its first values, the others show the last of each name.
    assert_tracked(values, lines_of(folder) if tracker == "tensorboard" else before + lines_of(folder))
    assert str(settings["pretrain.max_steps"]) == "6"
    assert settings["prepare.corpora"] == '["books", "reviews:train"]'
    assert str(settings["system.tracker"]) == tracker
    assert not engine._accelerator.trackers


@pytest.mark.slow
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_longer_budget_is_another_run_of_the_tracker_with_all_lines(small_recipe, small_prepared, tmp_path, tracker):
    for steps, run in ((2, "short"), (4, "long")):
        recipe = tracked(small_recipe, tracker, max_steps=steps)
        if run == "long":
            continue_from(tmp_path / "short" / "pretrain", tmp_path / "long" / "pretrain", print)
        engine = Engine(recipe.system, print, tmp_path / run)
        pretrain(recipe, small_prepared, tmp_path / run / "pretrain", "x", engine, print)
    lines = lines_of(tmp_path / "long" / "pretrain")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    values, settings = READERS[tracker](tmp_path / "long", "pretrain")
    assert_tracked(values, lines)
    assert str(settings["pretrain.max_steps"]) == "4"


@pytest.mark.slow
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_whole_run_has_a_tracked_run_for_each_training_and_one_for_the_report(recipe_file, tmp_path, tracker):
    changes = {"pretrain": {"max_steps": 2}, "finetune": {"epochs": 1}, "system": {"tracker": tracker}}
    run = bertwright.run(recipe_file, out=str(tmp_path / "run"), **changes)
    read = READERS[tracker]
    for stage in ("pretrain", "finetune/seed-0", "finetune/seed-1"):
        assert_tracked(read(run.path, stage)[0], lines_of(run.path / stage))
    scores = run.results["scores"] | {f"bert-seed-{seed}": one for seed, one in run.results["bert_seeds"].items()}
    assert {"bert", "bert-seed-0", "bert-seed-1"} < scores.keys()
    line = {f"{system}/{name}": value for system, one in scores.items() for name, value in one.items()}
    numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
    values, settings = read(run.path, "report")
    assert_tracked(values, [{"kind": "test", "step": 0} | numbers])
    assert settings["evaluate"] == run.results["fingerprints"]["evaluate"]
    # A report that is written again says nothing new.
    bertwright.run(recipe_file, out=str(tmp_path / "run"), stages=["report"], **changes)
    assert read(run.path, "report") == (values, settings)


@pytest.mark.slow
def test_without_a_tracker_nothing_is_written_for_one(finished):
    assert not [path for path in finished.rglob("*") if path.name in ("tensorboard", "tracker.json", "wandb", "mlruns")]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_before_any_work(monkeypatch, tracker):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UserError, match=f"system.tracker is {tracker}, .* pip install {tracker}, or set it to none"):
        Engine(SystemConfig(tracker=tracker), print)


@pytest.mark.slow
def test_a_tracker_that_cannot_start_is_one_sentence(small_recipe, small_prepared, tmp_path):
    recipe, folder = tracked(small_recipe, "tensorboard"), tmp_path / "pretrain"
    folder.mkdir()
    (folder / "tensorboard").write_text("in the way")
    engine = Engine(recipe.system, print, tmp_path)
    with pytest.raises(UserError, match=r"^system.tracker is tensorboard, which cannot start \(.*--system"):
        pretrain(recipe, small_prepared, folder, "x", engine, print)
    assert not (folder / "tracker.json").exists()
    assert not engine._accelerator.trackers


@pytest.mark.slow
def test_a_tracker_that_fails_later_does_not_end_the_training(small_recipe, small_prepared, tmp_path, monkeypatch):
    recipe, folder = tracked(small_recipe, "tensorboard"), tmp_path / "pretrain"
    engine, said = Engine(recipe.system, print, tmp_path), []
    original = engine.log

    def log(values, step):
        if step == 3:
            raise OSError("no space left")
        original(values, step)

    monkeypatch.setattr(engine, "log", log)
    assert pretrain(recipe, small_prepared, folder, "x", engine, said.append).step == 6
    assert sum("tensorboard takes no more values (no space left)" in sentence for sentence in said) == 1
    assert [line["step"] for line in lines_of(folder) if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    values, _ = from_tensorboard(tmp_path, "pretrain")
    assert {step for _, step in values} == {1, 2}
