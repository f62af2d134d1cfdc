"""The machine's settings, as a run asks for them."""

import subprocess

import pytest
import torch

from bertwright.recipe import SystemConfig
from bertwright.train.engine import Engine
from processes import environment, in_two_processes


def test_runs_of_one_process_may_differ_in_precision():
    layer = torch.nn.Linear(8, 8)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        engine = Engine(SystemConfig(precision=precision, compile="off"), lambda _: None)
        assert engine.precision == precision
        with engine.autocast():
            assert layer(torch.ones(1, 8)).dtype == dtype


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_gradients_are_clipped_as_pytorch_does(limit):
    engine = Engine(SystemConfig(precision="fp32", compile="off"), print)
    networks = [torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 3)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    for network in networks:
        network(inputs).square().sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(networks[0].parameters(), limit)
    assert engine.clip_gradients(networks[1], limit) == pytest.approx(float(expected))
    assert (expected > limit) == (limit == 0.5)
    for theirs, ours in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.slow
def test_a_network_of_the_same_shape_finds_its_code_compiled(monkeypatch):
    forgotten = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(1))
    engine = Engine(SystemConfig(precision="fp32", compile="on"), print)
    for width, expected in ((8, 1), (8, 1), (9, 2), (8, 3)):
        layer = torch.nn.Linear(width, width)
        engine.prepare(layer, [layer])
        assert len(forgotten) == expected


ENDS = """
import atexit
import sys
import torch
from bertwright.recipe import SystemConfig
from bertwright.train.engine import Engine

sys.setswitchinterval(1000)  # nothing takes the interpreter's lock from the main thread, only gets it when it waits
# Called after what the engine has its process do at its end, since that comes later.
atexit.register(lambda: print("joined" if torch.distributed.is_initialized() else "parted", flush=True))
engine = Engine(SystemConfig(precision="fp32", compile="off"), print)
network = engine.prepare(torch.nn.Linear(2, 2))  # whose references to the group keep its threads
network(torch.ones(2, 2)).sum().backward()
assert torch.distributed.is_initialized()
with engine.together():  # as each stage of a run ends
    pass
"""


@pytest.mark.slow
def test_processes_part_before_they_end(tmp_path):
    # Where they do not, several of ten runs of this program are aborted after its last line (Gloo's threads).
    (tmp_path / "ends.py").write_text(ENDS)
    command = in_two_processes([str(tmp_path / "ends.py")])
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "".join(done.stdout.split()) == "parted" * 2  # their lines may mix
