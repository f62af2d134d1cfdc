"""The server's queue: requests that wait are predicted in one batch.

One thread computes. Requests that arrive while it is busy wait in a queue, and are then predicted together: the busier
the server, the larger its batches, and an idle one answers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException

from bertwright.inference import Model
from bertwright.inputs.sequences import Sequence
from bertwright.tasks.task import Prediction


@dataclass(frozen=True)
class Limits:
    """The capacity of a server, which its clients can not exceed.

    Args:
        waiting: the most texts in the queue; more are refused with status 503.
        seconds: the most that a request takes; then it is given up with status 504.
        batch: the texts from which a batch takes no further request.
    """

    waiting: int = 1_024
    seconds: float = 30.0
    batch: int = 128


@dataclass(frozen=True)
class _Request:
    """A request in the queue: its texts, and where its client waits for the predictions."""

    encoded: list[Sequence]
    answer: asyncio.Future[list[Prediction]]


class Batcher:
    """Predicts the texts of waiting requests in one batch.

    Args:
        model: computes.
        thread: the one thread that computes.
        limits: of the queue and of a batch.
        observe: called with the number of texts of each batch.
    """

    def __init__(
        self, model: Model, thread: ThreadPoolExecutor, limits: Limits, observe: Callable[[int], None]
    ) -> None:
        self._model = model
        self._thread = thread
        self._limits = limits
        self._observe = observe
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self.waiting = 0

    async def predict(self, encoded: list[Sequence]) -> list[Prediction]:
        """The predictions for a request's texts, in order.

        Raises:
            HTTPException: if the queue is full.
        """
        with self.counted(len(encoded)):
            request = _Request(encoded, asyncio.get_running_loop().create_future())
            await self._queue.put(request)
            predictions: list[Prediction] = await self._within(request.answer)
            return predictions

    async def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a call that is no batch of predictions, in the same thread.

        Raises:
            HTTPException: if the queue is full, or the call takes too long.
        """
        with self.counted(1):
            return await self._within(asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments))

    async def _within(self, work: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(work, self._limits.seconds)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self._limits.seconds:g} seconds") from None

    @contextmanager
    def counted(self, texts: int) -> Iterator[None]:
        """Count texts as waiting for the duration of the block.

        Raises:
            HTTPException: if the queue has no capacity for as many.
        """
        if self.waiting + texts > self._limits.waiting:
            raise HTTPException(503, "too many texts are waiting; try again in a moment", {"Retry-After": "1"})
        self.waiting += texts
        try:
            yield
        finally:
            self.waiting -= texts

    async def work(self) -> None:
        """Predict queued texts, batch after batch, until the task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            texts = [sequence for request in batch for sequence in request.encoded]
            if not texts:
                continue
            self._observe(len(texts))
            try:
                predictions = iter(await loop.run_in_executor(self._thread, self._model.predict_encoded, texts))
            except Exception as error:
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
                continue
            for request in batch:
                own = [next(predictions) for _ in request.encoded]
                if not request.answer.done():
                    request.answer.set_result(own)

    async def _next_batch(self) -> list[_Request]:
        """Queued requests, without those whose clients have given up meanwhile."""
        batch = [await self._queue.get()]
        while not self._queue.empty() and sum(len(request.encoded) for request in batch) < self._limits.batch:
            batch.append(self._queue.get_nowait())
        return [request for request in batch if not request.answer.done()]
