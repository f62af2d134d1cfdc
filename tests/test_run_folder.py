"""Results are swapped in when they are whole, whatever stops a process and wherever."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from bertwright import files, run_folder
from bertwright.errors import UserError
from bertwright.files import read_json, write_json, write_text
from bertwright.recipe import Recipe
from bertwright.run_folder import FORMAT, Asked, RunFolder
from conftest import ROOT
from processes import environment


def asked(recipe, fingerprint, lineage=None):
    return Asked("finetune", fingerprint, lineage or fingerprint, recipe, {"machine": fingerprint})


@pytest.fixture
def recipe(small_recipe) -> Recipe:
    return small_recipe()


@pytest.fixture
def folder(recipe, tmp_path) -> RunFolder:
    """A run folder with a finished result, one, and its report."""
    made = RunFolder(tmp_path / "run")
    made.perform(asked(recipe, "one"), result("one"), lambda _: None)
    report(made.path, "one")
    return made


def result(text):
    return lambda place: write_text(place / "result.txt", text)


def report(path, fingerprint):
    write_json(path / "results.json", {"fingerprints": {"finetune": fingerprint}})
    write_text(path / "report.html", fingerprint)


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def valid(path):
    """The result that stands in a run folder, after seeing that the report beside it is no other one's."""
    found = read_json(path / "finetune" / "stage.json")["fingerprint"]
    assert (path / "finetune" / "result.txt").read_text() == found
    if (path / "report.html").exists():
        assert (path / "report.html").read_text() == found
        assert read_json(path / "results.json")["fingerprints"]["finetune"] == found
    return found


def test_work_that_fails_leaves_result_and_report_as_they_were(folder, recipe):
    before = files_of(folder.path)

    def fail(place):
        write_text(place / "result.txt", "half")
        raise UserError("the encoder is not there")

    with pytest.raises(UserError, match="not there"):
        folder.perform(asked(recipe, "two"), fail, lambda _: None)
    folder.settle()
    after = files_of(folder.path)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"finetune.new"}
    assert valid(folder.path) == "one"


def test_work_that_is_refused_before_it_wrote_anything_leaves_nothing(folder, recipe):
    before = files_of(folder.path)

    def refuse(place):
        raise UserError("the vocabulary is not there")

    with pytest.raises(UserError, match="vocabulary"):
        folder.perform(asked(recipe, "two"), refuse, lambda _: None)
    assert files_of(folder.path) == before


def test_a_whole_result_takes_the_place_of_the_earlier_one_which_is_kept_with_its_report(folder, recipe):
    said = []
    folder.perform(asked(recipe, "two"), result("two"), said.append)
    assert valid(folder.path) == "two"
    assert (folder.path / "finetune.before-1" / "result.txt").read_text() == "one"
    assert (folder.path / "report.before-1" / "report.html").read_text() == "one"
    assert not (folder.path / "report.html").exists()
    assert not (folder.path / "finetune.new").exists()
    assert read_json(folder.path / "environment.json") == {"machine": "two"}
    assert read_json(folder.path / "finetune.before-1" / "environment.json") == {"machine": "one"}
    assert any("stays in" in text for text in said)


class KilledError(BaseException):
    """Stands in for a kill: nothing of ours catches it."""


@pytest.mark.slow
def test_a_kill_before_or_after_any_change_on_the_disk_loses_nothing(recipe, tmp_path, monkeypatch):
    renames = []
    original = {name: getattr(Path, name) for name in ("rename", "replace")}

    def counting(kill_at, after):
        def patched(name):
            def move(self, target):
                renames.append(name)
                if len(renames) == kill_at and not after:
                    raise KilledError
                moved = original[name](self, target)
                if len(renames) == kill_at:
                    raise KilledError
                return moved

            return move

        for name in original:
            monkeypatch.setattr(Path, name, patched(name))

    number, after = 0, False
    while True:
        number, after = (number, True) if not after and number else (number + 1, False)
        made = RunFolder(tmp_path / f"run-{number}-{after}")
        made.perform(asked(recipe, "one"), result("one"), lambda _: None)
        report(made.path, "one")
        renames.clear()
        counting(number, after)
        try:
            made.perform(asked(recipe, "two"), result("two"), lambda _: None)
            ended = True
        except KilledError:
            ended = False
        monkeypatch.undo()
        with made.locked():  # as the next command does
            assert valid(made.path) in ("one", "two")
            before = valid(made.path)
            kept = [path.read_text() for path in made.path.glob("finetune*/result.txt")]
            assert "one" in kept, "the earlier result is never lost"
            made.perform(asked(recipe, "two"), result("two"), lambda _: None)
            assert valid(made.path) == "two"
            reports = [path.read_text() for path in made.path.glob("report*/report.html")]
            assert reports == ["one"], (number, after, before)
        if ended:
            break
    assert number > 6


def test_unfinished_work_for_another_recipe_is_kept_and_of_the_same_is_resumed(folder, recipe):
    def stop(place):
        write_text(place / "half.txt", "half")
        raise KilledError

    said = []
    with pytest.raises(KilledError):
        folder.perform(asked(recipe, "two"), stop, said.append)
    folder.perform(asked(recipe, "two"), lambda place: result((place / "half.txt").read_text())(place), said.append)
    assert "finetune: resuming" in said
    with pytest.raises(KilledError):
        folder.perform(asked(recipe, "three"), stop, said.append)
    folder.perform(asked(recipe, "four"), result("four"), said.append)
    assert valid(folder.path) == "four"
    assert (folder.path / "finetune.before-2" / "half.txt").exists()
    assert any("unfinished work for another recipe" in text for text in said)


def test_work_with_another_budget_is_resumed(folder, recipe):
    def stop(place):
        write_text(place / "half.txt", "half")
        raise KilledError

    with pytest.raises(KilledError):
        folder.perform(asked(recipe, "60 steps", "same"), stop, lambda _: None)
    said = []
    folder.perform(asked(recipe, "90 steps", "same"), result("90 steps"), said.append)
    assert "finetune: resuming" in said
    assert valid(folder.path) == "90 steps"


def test_a_result_of_an_older_version_is_named_as_such(folder, recipe):
    stage = folder.path / "finetune" / "stage.json"
    write_json(stage, {"fingerprint": "one", "seconds": 1.0})
    said = []
    folder.perform(asked(recipe, "two"), result("two"), said.append)
    assert any(f"made by an older version of Bertwright (format 1; this is {FORMAT})" in text for text in said)
    assert (folder.path / "finetune.before-1" / "result.txt").read_text() == "one"


def test_a_report_of_an_older_version_stands_beside_results_of_that_version_alone(folder, recipe):
    write_json(folder.path / "finetune" / "stage.json", {"fingerprint": "one", "seconds": 1.0})
    write_json(folder.path / "results.json", {"scores": {}})
    folder.settle()
    assert (folder.path / "report.html").exists()
    folder.perform(asked(recipe, "two"), result("two"), lambda _: None)
    assert not (folder.path / "report.html").exists()


KILLED = """
import os, signal, sys, time
from pathlib import Path
from bertwright import run_folder
run_folder.RECORD_EVERY = 0.05
place = Path(sys.argv[1])
with run_folder._recording(place, lambda: {"seconds": time.monotonic() - start} if (start := BEGUN) else {}):
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_time_before_a_kill_counts(recipe, tmp_path):
    program = KILLED.replace("start := BEGUN", "start := float(sys.argv[2])")
    place = tmp_path / "begun.json"
    words = [sys.executable, "-c", program, str(place), str(time.monotonic() - 100)]
    process = subprocess.Popen(words, env=environment())
    deadline = time.monotonic() + 60
    while not place.exists() or read_json(place)["seconds"] < 100.3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    made = RunFolder(tmp_path / "run")
    spent = read_json(place)["seconds"]
    begun = {"format": FORMAT, "fingerprint": "one", "lineage": "one", "seconds": spent}
    write_json(made.path / "finetune" / "begun.json", begun)
    made.perform(asked(recipe, "one"), result("one"), lambda _: None)
    assert spent <= read_json(made.path / "finetune" / "stage.json")["seconds"] < spent + 30


def test_time_is_recorded_while_the_work_goes_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "RECORD_EVERY", 0.01)
    made = RunFolder(tmp_path)
    seen = []

    def work(place):
        deadline = time.monotonic() + 20
        while len(set(seen)) < 3 and time.monotonic() < deadline:
            seen.append(read_json(place / "begun.json")["seconds"])
            time.sleep(0.02)

    made.perform(asked(recipe, "one"), work, lambda _: None)
    assert len(set(seen)) >= 3


def test_a_place_that_cannot_be_written_is_told_before_the_work(recipe, tmp_path, monkeypatch):
    # Processes that share a stage hear of it where they end a block together, and not in the midst of the work.
    def full(path, value):
        raise UserError(f"no space left on the disk while writing {path}")

    monkeypatch.setattr(run_folder, "write_json", full)
    ended = []

    @contextmanager
    def together():
        try:
            yield
        except UserError:
            ended.append("failed")
            raise
        ended.append("well")

    with pytest.raises(UserError, match="no space left"):
        RunFolder(tmp_path).perform(asked(recipe, "one"), lambda _: ended.append("work"), print, together=together)
    assert ended == ["well", "failed"]


POSIX_ONLY = ("fcntl", "grp", "posix_ipc", "pwd", "resource", "termios")

ELSEWHERE = f"""
import importlib, os, pkgutil, stat, sys
import bertwright
names = [found.name for found in pkgutil.walk_packages(bertwright.__path__, "bertwright.")]
names = [name for name in names if "bundled" not in name and not name.endswith("__main__")]
before = set(sys.modules)
for name in names:
    importlib.import_module(name)  # what others need of this system they may have
for name in [name for name in sys.modules if name.startswith("bertwright")]:
    del sys.modules[name]
for name in {POSIX_ONLY}:
    sys.modules[name] = None
if hasattr(os, "sysconf"):
    del os.sysconf
whole, opened = os.fsync, os.open
def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise PermissionError(13, "a folder is not synced here")
    return whole(descriptor)
os.fsync = fsync
for name in names:
    importlib.import_module(name)
from pathlib import Path
from bertwright.files import recover, write_json
from bertwright.recipe import SystemConfig
from bertwright.train.engine import Engine, environment
place = Path(sys.argv[1])
write_json(place / "a" / "b.json", {{}})
(place / ".c.json.tmp-1").write_text("of a process that lives")
recover(place / "c.json")
assert (place / ".c.json.tmp-1").exists()
assert environment(Engine(SystemConfig(), print))["memory_gib"] > 0
print(len(names))
"""


@pytest.mark.slow
def test_the_package_starts_without_what_only_posix_has(tmp_path):
    words = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 50
    # On Windows os.kill ends a process, whatever the signal.
    assert not [path for path in (ROOT / "src").rglob("*.py") if "os.kill" in path.read_text()]


def test_names_of_files_are_legal_on_windows(folder, recipe):
    folder.perform(asked(recipe, "two"), result("two"), lambda _: None)
    for name in files_of(folder.path):
        assert not set(name) & set('<>:"\\|?*'), name
        assert not any(part.endswith((".", " ")) for part in name.split("/")), name


def test_a_folder_that_is_not_synced_is_no_error(tmp_path, monkeypatch):
    def fail(path, *_):
        raise PermissionError(13, "a folder can't be opened")

    monkeypatch.setattr(files.os, "open", fail)
    write_json(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
