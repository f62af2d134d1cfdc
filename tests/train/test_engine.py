"""The machine's settings, as a run asks for them."""

import torch

from bertwright.recipe import SystemConfig
from bertwright.train.engine import Engine


def test_runs_of_one_process_may_differ_in_precision():
    layer = torch.nn.Linear(8, 8)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        engine = Engine(SystemConfig(precision=precision, compile="off"), lambda _: None)
        assert engine.precision == precision
        with engine.autocast():
            assert layer(torch.ones(1, 8)).dtype == dtype
