"""Commands in processes of their own, also in two that Accelerate starts."""

import os
import sys
from collections.abc import Sequence

from conftest import ROOT

LAUNCH = "from accelerate.commands.accelerate_cli import main; main()"


def environment(*folders: str) -> dict[str, str]:
    """That of a process with one thread and no GPU, which finds the package and what lies in further folders."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", *folders))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def in_two_processes(words: Sequence[str]) -> list[str]:
    """The command that starts a script, or `-m` and a module, in two processes.

    Accelerate's --multi_gpu starts them by torch.distributed, with GPUs or without; its --cpu would start one.
    """
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    return [sys.executable, "-c", LAUNCH, "launch", *options.split(), "--main_process_port", "0", *words]
