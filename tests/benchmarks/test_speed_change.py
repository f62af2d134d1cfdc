"""The comparison of two commits' speed, on work of known seconds."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import bertwright
import speed_change
from bertwright.train import engine

KNOWN = """
import json, sys
from seconds import SECONDS
json.dump(SECONDS, open(sys.argv[1] + "/seconds.json", "w"))
"""


def commit(folder, seconds):
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "seconds.py").write_text(f"SECONDS = {seconds}\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "seconds"]):
        subprocess.run([*git, *words], check=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    commit(tmp_path, {"even": 2.0, "slower": 1.0})
    commit(tmp_path, {"even": 2.05, "slower": 1.2})
    monkeypatch.setattr(speed_change, "ROOT", tmp_path)
    monkeypatch.setattr(speed_change, "WORK", KNOWN)
    return tmp_path


@pytest.mark.slow
def test_more_than_a_twentieth_is_a_warning_and_less_is_none(repository, capsys):
    speed_change.main(rounds=1)
    _, even, slower, warning = capsys.readouterr().out.splitlines()
    assert even.split()[:4] == ["even", "2.00", "2.05", "1.025"]
    assert slower.split()[:4] == ["slower", "1.00", "1.20", "1.200"]
    assert "WARNING: slower takes 20% more time than before" in warning
    left = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(left.stdout.splitlines()) == 1


@pytest.mark.slow
def test_what_cannot_be_compared_is_said(repository, capsys):
    speed_change.main(before="v9")
    assert "NOT COMPARED: there is no commit 'v9'" in capsys.readouterr().out
    (repository / "src" / "seconds.py").write_text("raise ImportError('no seconds')")
    speed_change.main(rounds=1)
    assert capsys.readouterr().out == "NOT COMPARED: now cannot do the work: ImportError: no seconds\n"


@pytest.mark.parametrize("has_bf16", [True, False])
def test_training_in_bfloat16_is_compared_where_the_machine_has_it(has_bf16, tmp_path, monkeypatch):
    asked = []
    monkeypatch.chdir(speed_change.ROOT)
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path)])
    monkeypatch.setattr(
        bertwright, "run", lambda *_, stages, system, **more: asked.append((stages[0], *system.values()))
    )
    monkeypatch.setattr(bertwright, "load", lambda: SimpleNamespace(predict=len))
    monkeypatch.setattr(engine, "has_bf16", lambda: has_bf16)
    exec(speed_change.WORK, {})
    seconds = json.loads((tmp_path / "seconds.json").read_text())
    assert ("the same in bfloat16" in seconds) == has_bf16
    in_bf16 = [("pretrain", "bf16", "off")] if has_bf16 else []
    plain = [(name, "fp32", "off") for name in ("prepare", "pretrain", "finetune")]
    assert asked == plain[:2] + in_bf16 + plain[2:]
