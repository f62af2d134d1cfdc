"""Files that are whole or absent, after kills at the worst moments."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bertwright.errors import UserError
from bertwright.files import atomic_path, digests, means_disk_full, recover

KILLED = """
import os, pathlib, shutil, signal, sys
from bertwright import files

target = pathlib.Path(sys.argv[1])
rename = pathlib.Path.rename
calls = 0

def rename_then_die(self, other):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, other)

pathlib.Path.rename = rename_then_die
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with files.atomic_path(target) as temporary:
    temporary.mkdir()
    (temporary / "weights").write_text("new")
"""


@pytest.mark.parametrize(
    ("killed_at", "kept"),
    [pytest.param(1, "old", id="before"), pytest.param(2, "old", id="between"), pytest.param(3, "new", id="after")],
)
def test_a_folder_survives_a_kill_while_it_is_replaced(tmp_path: Path, killed_at: int, kept: str) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(target), str(killed_at)], check=False)
    assert process.returncode == -signal.SIGKILL
    recover(target)
    assert (target / "weights").read_text() == kept
    assert os.listdir(tmp_path) == ["model"]


def test_what_another_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".model.tmp-{os.getppid()}"
    other.mkdir()
    with atomic_path(tmp_path / "model") as temporary:
        temporary.write_text("done")
    assert sorted(os.listdir(tmp_path)) == [other.name, "model"]


def test_weights_can_be_read_by_whoever_can_read_the_rest(tmp_path):
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        save_file({"weight": torch.zeros(2)}, temporary / "model.safetensors")
    (tmp_path / "plain").write_text("as any program writes it")
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"secret may not be read \(Permission denied\)"):
        digests([tmp_path / "secret"])


def test_a_file_replaces_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("old")
    (tmp_path / "file").write_text("old")
    refused = pytest.raises(UserError, match="folder is a folder, which no file replaces; give the name of a file")
    with refused, atomic_path(tmp_path / "folder") as temporary:
        temporary.write_text("new")
    with pytest.raises(UserError, match="file can't be written"), atomic_path(tmp_path / "file") as temporary:
        temporary.mkdir()
    assert (tmp_path / "folder" / "kept").read_text() == (tmp_path / "file").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("name", ["model/inside/..", "link"])
def test_a_folder_is_replaced_under_any_of_its_names(tmp_path: Path, monkeypatch, name: str) -> None:
    (tmp_path / "model" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path)
    with atomic_path(Path(name)) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["link", "model"]
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "model") == ["weights"]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda source, target: target.write_bytes(source.read_bytes()), id="bytes"),
        pytest.param(lambda source, target: shutil.copytree(source.parent, target), id="a folder's copy"),
        pytest.param(lambda source, target: np.save(target.with_suffix(".npy"), np.zeros(100_000)), id="an array"),
        pytest.param(lambda source, target: save_file({"x": torch.zeros(100_000)}, target), id="weights"),
    ],
)
def test_a_full_disk_is_known_whoever_reports_it(tmp_path: Path, write) -> None:
    source = tmp_path / "folder" / "source"
    source.parent.mkdir()
    source.write_bytes(bytes(200_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # no file may grow beyond this
    try:
        with pytest.raises(Exception) as found:  # noqa: PT011 (each has a type of its own)
            write(source, tmp_path / "target")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert means_disk_full(found.value)
    assert not means_disk_full(OSError(2, "No such file or directory"))
