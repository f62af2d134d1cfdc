"""Global batches, each built in a thread while the machine computes on the one before."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor

from bertwright.train.engine import Engine

Batch = dict[str, Tensor]


class BatchSource(Protocol):
    """Makes the batches of a training run."""

    def micro_batches(self, phase: int, number: int, rank: int, world: int) -> list[Batch]:
        """The rows of global batch `number` of a phase that belong to process `rank` of `world`, in micro-batches."""
        ...


class Prefetcher:
    """Builds the next batch ahead of time. A batch is a function of its number, so that nothing else changes.

    Args:
        source: makes the batches.
        engine: its rank and number of processes decide which rows are this process's.
    """

    def __init__(self, source: BatchSource, engine: Engine) -> None:
        self._source = source
        self._engine = engine
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, int] | None = None
        self._building: Future[list[Batch]]

    def _start(self, phase: int, number: int) -> None:
        self._next = (phase, number)
        self._building = self._pool.submit(
            self._source.micro_batches, phase, number, self._engine.rank, self._engine.world
        )

    def take(self, phase: int, number: int) -> tuple[list[Batch], float]:
        """The micro-batches of a global batch, and the seconds spent waiting for them; starts on the next one."""
        start = time.perf_counter()
        if self._next != (phase, number):
            self._start(phase, number)
        batches = self._building.result()
        waited = time.perf_counter() - start
        self._start(phase, number + 1)
        return batches, waited

    def close(self) -> None:
        """Build no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
