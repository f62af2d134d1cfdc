"""Systems that take turns on the same batches, and the machine's matrix rate measured between their turns."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from common import Json, spread

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SYSTEMS = ("ours", "transformers_fp32", "transformers_bf16", "transformers_bf16_compiled")
BASELINES = SYSTEMS[1:]

Step = Callable[[int], float | Tensor]
"""One training step on a numbered batch; returns its loss."""


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(step: Callable[[int], object], numbers: Iterable[int], seconds: float) -> tuple[list[int], float]:
    """Steps until the time is up: the numbers done, and the time they took."""
    done = []
    synchronize()
    start = time.perf_counter()
    for number in numbers:
        step(number)
        done.append(number)
        if time.perf_counter() - start >= seconds:
            break
    synchronize()
    return done, time.perf_counter() - start


def matmul_gflops(dtype: torch.dtype, seconds: float) -> float:
    """The rate of a linear map, 4096 x 1024 by 1024 x 1024 (on a GPU, four times as much each way)."""
    scale = 4 if DEVICE.type == "cuda" else 1
    rows, width = 4096 * scale, 1024 * scale
    left, right = (torch.randn(size, width, device=DEVICE).to(dtype) for size in (rows, width))

    def product(_: int) -> None:
        torch.nn.functional.linear(left, right)

    timed(product, range(3), seconds)
    done, took = timed(product, itertools.count() if scale == 1 else range(round(seconds * 200)), seconds)
    return 2 * rows * width**2 * len(done) / took / 1e9


def race(
    steps: Mapping[str, Step], tokens: Sequence[int], flops: Sequence[float], rounds: int, seconds: float
) -> tuple[Json, dict[str, list[float]]]:
    """All systems in turns.

    Args:
        steps: each of `SYSTEMS`, as a step on numbered batches.
        tokens: real tokens of each batch.
        flops: useful work of each batch.
        rounds: how often each system has its turn.
        seconds: the length of a turn.

    Returns:
        The figures, and the matrix rates of all rounds.
    """
    batches = len(tokens)
    for name, step in steps.items():
        for number in range(batches if name in ("ours", "transformers_bf16_compiled") else 2):
            step(number)
        print(f"  {name} is warm", flush=True)
    speed: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    work: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    rates: dict[str, list[float]] = {"bf16": [], "fp32": []}
    for turn in range(rounds):
        for name, step in steps.items():
            done, took = timed(step, itertools.cycle(range(batches)), seconds)
            speed[name].append(sum(tokens[number] for number in done) / took)
            work[name].append(sum(flops[number] for number in done) / took / 1e9)
        rates["bf16"].append(matmul_gflops(torch.bfloat16, min(2.0, seconds)))
        rates["fp32"].append(matmul_gflops(torch.float32, min(2.0, seconds)))
        print(f"  round {turn + 1}: " + ", ".join(f"{name} {speed[name][-1]:,.0f}" for name in SYSTEMS), flush=True)
    medians = {name: statistics.median(values) for name, values in speed.items()}
    best = max(BASELINES, key=medians.__getitem__)
    ratios = {
        f"ratio_{short}": spread([a / b for a, b in zip(speed["ours"], speed[name], strict=True)])
        for short, name in (("fp32", "transformers_fp32"), ("best", best))
    }
    ratio = spread([done / rate for done, rate in zip(work["ours"], rates["bf16"], strict=True)])
    figures = {
        **{name: round(value, 1) for name, value in medians.items()},
        "transformers_best": round(medians[best], 1),
        "best_system": best,
        **{name: ratio["median"] for name, ratio in ratios.items()},
        "spread": {**ratios, "matmul_ratio": ratio},
        "matmul_ratio": ratio["median"],
        "gflops": {name: round(statistics.median(values), 1) for name, values in work.items()},
    }
    return figures, rates


def show(figures: Json, rate: float) -> None:
    """The table of a size."""
    print(f"{'':28}{'tokens/s':>10}{'/ fp32':>8}{'/ best':>8}{'GFLOP/s':>9}{'of bf16':>9}{'MiB':>8}")
    for name in SYSTEMS:
        peak = figures.get("peak_memory_mib", {}).get(name, float("nan"))
        ratios = [figures[name] / figures[other] for other in ("transformers_fp32", "transformers_best")]
        work = figures["gflops"][name]
        print(
            f"{name:28}{figures[name]:10,.0f}{ratios[0]:8.2f}{ratios[1]:8.2f}{work:9,.0f}{work / rate:9.1%}{peak:8,.0f}"
        )
    for name, values in figures["spread"].items():
        print(f"{name}: {values['median']} ({values['least']} to {values['greatest']})")
