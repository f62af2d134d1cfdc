"""The machine: precision, compiler, processes. The only module that imports Accelerate.

Nothing here changes the result, beyond rounding.
"""

from __future__ import annotations

import atexit
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

import bertwright
from bertwright.errors import UserError
from bertwright.recipe import SystemConfig

Notice = Callable[[str], None]

COMPILE_SECONDS = 90.0
"""What compiling takes: 60 to 125 s on two cores with an empty cache of the compiler, about 60 s on a GPU."""

CORE_FLOPS = 5e10
"""Operations a second of uncompiled training on a CPU's core, from results/speed: about 1e11 on two."""

GPU_FLOPS = 5e13
"""Operations a second of uncompiled training on a GPU, in order of magnitude."""

LONGEST_WAIT = timedelta(hours=12)
"""For another process, before a run on several gives up."""

RELEASE_SECONDS = 0.5
"""For which a process on CPUs waits at its end; the threads that it waits for need microseconds."""


class Engine:
    """One process of a run, with its device and its way to the other processes.

    Args:
        config: what the recipe asks of the machine.
        notice: told in a sentence where something that was asked for is missing.
        folder: of the run, for what a tracker keeps on this machine.

    Raises:
        UserError: if the recipe insists on a compiler and there is none, or names a tracker that is not installed.
    """

    def __init__(self, config: SystemConfig, notice: Notice, folder: Path = Path()) -> None:
        # Loaded here: answers of a model need `has_bf16` alone, and start sooner without Accelerate.
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import InitProcessGroupKwargs, LoggerType, ProjectConfiguration

        tracker = config.tracker
        if tracker != "none" and LoggerType(tracker) not in get_available_trackers():
            raise UserError(
                f"system.tracker is {tracker}, whose package is not installed; pip install {tracker}, or set it to none"
            )
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if has_bf16() else "fp32"
        if precision == "bf16" and not has_bf16():
            notice("this machine has no fast bfloat16; it is emulated and slow (system.precision: fp32 avoids that)")
        self.precision = precision
        # Accelerate keeps the first precision of a process, and refuses a run in another one.
        AcceleratorState._reset_state(reset_partial_state=False)
        self._accelerator = Accelerator(
            mixed_precision="bf16" if precision == "bf16" else "no",
            cpu=not torch.accelerator.is_available(),  # several processes on CPUs are only joined if told so
            dynamo_backend="no",  # whatever the launcher's settings say: we compile by ourselves
            # The others wait while the main process prepares a corpus or fits the baselines.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
            log_with=None if tracker == "none" else tracker,
            project_config=ProjectConfiguration(logging_dir=str(folder)),
        )
        self.folder = folder
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        if self.world > 1 and self.device.type == "cpu":
            atexit.register(_part)
        self.config = config
        self.compiles = self._find_compiler(config, notice)
        self._compiled = ""  # which network the compiler's code is of

    @staticmethod
    def _find_compiler(config: SystemConfig, notice: Notice) -> bool:
        if config.compile == "off":
            return False
        missing = _missing_for_compiler()
        if missing is None:
            return True
        if config.compile == "on":
            raise UserError(f"system.compile is on, but {missing[0]}; {missing[1]}, or set it to auto or off")
        notice(f"{missing[0]}: training runs uncompiled, at perhaps half the speed ({missing[1]} to fix it)")
        return False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def repays_compiling(self, flops: float, seconds: float) -> bool:
        """Whether a training run is compiled: with `auto`, if that is planned to save more time than it takes.

        A function of the plan and the kind of machine alone, so that a run that resumes decides as before.

        Args:
            flops: floating-point operations of all planned steps, or 0 if the budget is in seconds.
            seconds: the budget in seconds, or 0.
        """
        if self.config.compile != "auto":
            return self.compiles
        plain = GPU_FLOPS if self.device.type == "cuda" else CORE_FLOPS * (os.cpu_count() or 1)
        # Compiled steps take half the time, so that as much is saved as they take.
        return self.compiles and max(flops / plain / 2, seconds) > COMPILE_SECONDS

    def prepare(self, module: nn.Module, parts: Sequence[nn.Module] = ()) -> nn.Module:
        """The module on the device, in the precision, and joined to the other processes.

        Args:
            module: to train.
            parts: of it that are compiled, if the machine has a compiler, each by itself: the layers of a network are
                alike, so that one compilation serves them all, and takes a third of the whole network's time.
        """
        if self.compiles and parts:
            # Dropout's seeds come from PyTorch's own generator, so that plain and compiled runs drop the same elements.
            torch._inductor.config.fallback_random = True
            # Between processes the compiler would cut its parts where DDP's buckets end, and fails there on dropout's
            # seeds (torch 2.13).
            torch._dynamo.config.optimize_ddp = False
            # Eight compilations of one function and the compiler gives up on it: those of other networks do not count.
            # A further seed's network is alike, and finds all compiled.
            network = repr(module)
            if network != self._compiled:
                torch.compiler.reset()
            self._compiled = network
            # Batches have as many rows and columns as their texts need; one compilation serves all of them.
            for part in parts:
                part.compile(dynamic=True)
        prepared: nn.Module = self._accelerator.prepare(module)
        return prepared

    def release(self) -> None:
        """Let go of every module that was prepared, at the end of a training run."""
        self._accelerator.free_memory()

    def autocast(self) -> AbstractContextManager[None]:
        """The run's precision, for the block."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    def accumulate(self, module: nn.Module) -> AbstractContextManager[None]:
        """Add up a module's gradients in the block, without exchanging them between processes."""
        context: AbstractContextManager[None] = self._accelerator.no_sync(module)
        return context

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to the parameters', and outside of `accumulate` average them over all processes."""
        loss.backward()  # type: ignore[no-untyped-call]  # Accelerate's would divide it as the launcher's settings say

    def clip_gradients(self, module: nn.Module, max_norm: float) -> float:
        """Scale the gradients down to a global norm of at most `max_norm`, and forget those that are zero throughout.

        A head without an item to score in a batch, as that for next sentences in a phase without pairs, has such
        gradients. With them momentum and weight decay would go their ways, and the head would shrink phase-long.

        Returns:
            The norm before.
        """
        given = [(parameter, parameter.grad) for parameter in module.parameters() if parameter.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient) for _, gradient in given])
        for (parameter, gradient), norm in zip(given, norms.tolist(), strict=True):
            if norm == 0 and not gradient.any():  # squares of tiny numbers can be zero, too
                parameter.grad = None
        total = torch.linalg.vector_norm(norms)
        if total > max_norm:
            torch.nn.utils.clip_grads_with_norm_(module.parameters(), max_norm, total)
        return float(total)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes end together, even if one of them makes no headway: nobody waits for ever.

        Raises:
            UserError: in all processes, if the block raised one in any of them.
        """
        failed: UserError | None = None
        try:
            yield
        except UserError as error:
            if self.world == 1:
                raise
            failed = error
        if self.world > 1:
            from accelerate.utils import gather_object

            texts: list[str | None] = gather_object([None if failed is None else str(failed)])
            first = next((text for text in texts if text is not None), None)
            if first is not None:
                raise UserError(first) from failed

    def start_tracker(self, project: str, settings: Mapping[str, Any] | None, folder: Path, /, **options: Any) -> Any:
        """Begin a run of the tracker, or continue one.

        Args:
            project: its name; that of TensorBoard's folder.
            settings: of the run, by name; None where the tracker has them.
            folder: that TensorBoard's is made in.
            options: of the tracker's own function that begins a run.

        Returns:
            The tracker's own object of the run.
        """
        accelerator, tracker = self._accelerator, self.config.tracker
        accelerator.project_configuration.logging_dir = str(folder)
        try:
            accelerator.init_trackers(project, settings and dict(settings), {tracker: options})
        except Exception:
            with suppress(Exception):  # of a tracker that has not begun
                self.stop_tracker()
            raise
        return accelerator.get_tracker(tracker, unwrap=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values to the tracker's run."""
        self._accelerator.log(dict(values), step)

    def stop_tracker(self) -> None:
        """End the tracker's run."""
        # As Accelerate's end_training, which would also part the processes: other stages follow.
        running, self._accelerator.trackers = self._accelerator.trackers, []
        for tracker in running:
            tracker.finish()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world == 1:
            return value
        total: Tensor = self._accelerator.reduce(value.to(self.device), reduction="sum")
        return total

    def from_main(self, value: float) -> float:
        """The main process's value of a number, such as its clock."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value if self.is_main else 0.0, dtype=torch.float64, device=self.device)
        return float(self.sum(tensor))


def _part() -> None:
    """End the connection to the other processes, whose threads could otherwise abort a process that has succeeded.

    Gloo's threads drop the tensors of an exchange after it, and need the interpreter's lock for it. One that asks for
    the lock when the interpreter is ending is unwound, and C++ aborts the process (pytorch/pytorch#190489; Python 3.14
    lets it hang). Ending the group ends its threads, unless a network was prepared: DDP leaves references to the group.
    So they are also given the time to drop what they hold.

    Only where Gloo connects them: on GPUs, NCCL ends by itself, and asked to by a process that has failed alone it
    could wait for the others.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(RELEASE_SECONDS)


def _missing_for_compiler() -> tuple[str, str] | None:
    """What PyTorch's compiler lacks here, and what to do, in words; None if nothing."""
    on_gpu = torch.cuda.is_available()  # where Triton needs a compiler for C
    names, variable = (("gcc", "clang", "cc"), "CC") if on_gpu else (("g++", "clang++", "c++"), "CXX")
    if not os.environ.get(variable) and not any(shutil.which(name) for name in names):
        return f"no {'C' if on_gpu else 'C++'} compiler was found", f"install {names[0]}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the headers of Python, which compiled code needs, are missing", "install python3-dev"
    return None


def has_bf16() -> bool:
    """Whether matrix products in bfloat16 are made in hardware here."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo")
    return "AVX512" in capability and flags.exists() and "avx512_bf16" in flags.read_text()


def environment(engine: Engine) -> dict[str, Any]:
    """What a reader must know to repeat a figure: versions, machine, precision, commit."""
    return {
        "bertwright": bertwright.__version__,
        "commit": _commit(),
        "command": shlex.join(["bertwright", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "machine": _machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processes": engine.world,
        "precision": engine.precision,
        "compile": engine.config.compile,
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    extras = [flag for flag in ("amx_bf16", "avx512_bf16") if cpuinfo.exists() and flag in cpuinfo.read_text()]
    return f"{name}, {os.cpu_count()} cores" + (f" ({', '.join(extras)})" if extras else "")


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # A package that is installed may lie in the repository of another project.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
