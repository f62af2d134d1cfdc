"""The server's fair queue: one thread computes, a short piece of one request after another.

A request's work comes in pieces of a fraction of a second: its texts are tokenized, then windows are computed, or one
text is answered, or one pass of an explanation is made. After each piece the turn goes to the request that has had the
least time, so that a short request waits for a piece of a long one, and not for its end. Windows of several requests
for the same model are computed in one batch: the busier the server, the larger its batches. A request whose time is up,
or whose client has left, gets no further turn.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from fastapi import HTTPException
from torch import Tensor

from bertwright.inputs.sequences import Sequence

Compute = Callable[[list[Sequence]], list[Tensor]]
"""What a model makes of windows: a tensor for each."""

Steps = Generator["Windows | None", list[Tensor] | None, bytes]
"""A request's work after its texts are tokenized, in pieces.

It yields windows to be computed in a batch with those of other requests, and is resumed with their tensors; None is a
pause. It returns the answer's body.
"""

_BATCH_TOKENS = 4_096
"""Tokens from which a batch takes no further window."""

_HEAD_START = 1.0
"""Seconds of computing time that a new request of one sentence has ahead of those that wait already.

It is ahead by as much again until its texts are tokenized, so that their windows are there when a batch is made. The
longer the body, the smaller the head start, since tokenizing a long one takes most of a second.
"""


@dataclass(frozen=True)
class Windows:
    """Windows that a request needs computed.

    Args:
        parts: the windows.
        compute: the model; windows of requests with the same one make a batch.
    """

    parts: list[Sequence]
    compute: Compute


@dataclass(frozen=True)
class Limits:
    """The capacity of a server, which its clients cannot exceed.

    Args:
        body_bytes: of a request's body.
        body_seconds: in which a client must have sent the body.
        texts: in a request; of multiple choice, choices.
        text_tokens: of a text, as far as the model reads it.
        request_tokens: that a request computes; an explanation computes each token of its texts in every pass.
        masks: in a request.
        answer_numbers: in an answer's vectors and attention weights.
        answer_characters: in the texts of an index that an answer has.
        waiting_requests: that are not answered yet; more are refused with status 503.
        waiting_tokens: that these have still to compute. A request may take half of what is free, so that a few large
            ones leave capacity for small ones; others are refused with status 503.
        seconds: in which a request is answered; then its work ends, with status 504.
    """

    body_bytes: int = 98_304
    body_seconds: float = 10.0
    texts: int = 64
    text_tokens: int = 8_192
    request_tokens: int = 16_384
    masks: int = 128
    answer_numbers: int = 1_000_000
    answer_characters: int = 4_000_000
    waiting_requests: int = 256
    waiting_tokens: int = 131_072
    seconds: float = 30.0


@dataclass(frozen=True)
class Work:
    """What a request needs once its texts are tokenized.

    Args:
        tokens: that are computed.
        steps: the work.
    """

    tokens: int
    steps: Steps


@dataclass(eq=False)
class _Job:
    """A request in the queue.

    Args:
        read: tokenizes its texts.
        level: seconds of computing time that it has had, from where it was when the request came.
        ahead: its head start in seconds.
        deadline: by `time.monotonic`.
        answer: where the client waits for the body.
        work: None before its texts are tokenized.
        windows: that are to be computed now, if some are.
        found: the tensors of the first of these windows.
    """

    read: Callable[[], Work]
    level: float
    ahead: float
    deadline: float
    answer: Future[bytes] = field(default_factory=Future)
    work: Work | None = None
    windows: Windows | None = None
    found: list[Tensor] = field(default_factory=list)

    @property
    def left(self) -> list[Sequence]:
        """The windows that are still to be computed."""
        return [] if self.windows is None else self.windows.parts[len(self.found) :]

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for more: answered, given up by its client, or too late."""
        return self.answer.done() or time.monotonic() >= self.deadline

    def fail(self, error: Exception) -> None:
        """Give the client an error in place of an answer."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


class FairQueue:
    """Shares one thread's time out among requests.

    Args:
        limits: of the queue.
        observe: called with the number of windows of each batch.
    """

    def __init__(self, limits: Limits, observe: Callable[[int], None]) -> None:
        self._limits = limits
        self._observe = observe
        self._jobs: list[_Job] = []
        self._level = 0.0  # seconds that a request would have had that had been there all the time
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    async def answer(self, read: Callable[[], Work], body_bytes: int) -> bytes:
        """The body of a request's answer.

        Args:
            read: tokenizes the request's texts, and says what is to be done. It is called in the thread that computes.
            body_bytes: of the request.

        Raises:
            HTTPException: if the queue is full, or the answer takes too long.
        """
        ahead = _HEAD_START * (1 - body_bytes / self._limits.body_bytes)
        with self._changed:
            if len(self._jobs) >= self._limits.waiting_requests:
                raise _busy()
            job = _Job(read, self._level - 2 * ahead, ahead, time.monotonic() + self._limits.seconds)
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.answer), self._limits.seconds)
        except TimeoutError:
            problem = f"there was no answer within {self._limits.seconds:g} seconds; send fewer or shorter texts"
            raise HTTPException(504, f"{problem}, or try again when the server is less busy") from None

    def close(self) -> None:
        """End the thread, after the piece that it computes now."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        """Compute piece after piece until the queue is closed."""
        while turn := self._next_turn():
            start = time.perf_counter()
            self._compute(turn)
            self._charge(turn, time.perf_counter() - start)

    def _next_turn(self) -> dict[_Job, list[Sequence]]:
        """The request whose turn it is; where it has windows, with others that have such, and the windows of a batch.

        It waits for a request, and is empty when the queue is closed.
        """
        with self._changed:
            while True:
                for job in [job for job in self._jobs if job.is_over or self._closed]:
                    self._jobs.remove(job)
                    if job.work is not None:
                        job.work.steps.close()
                if self._jobs or self._closed:
                    break
                self._changed.wait()
            jobs = sorted(self._jobs, key=lambda job: job.level)
        turn: dict[_Job, list[Sequence]] = {}
        capacity = _BATCH_TOKENS
        for job in jobs:
            if not turn and not job.left:
                return {job: []}
            left = job.left if _compute_of(job) == _compute_of(jobs[0]) else []
            fitting = int(np.searchsorted(np.cumsum([len(window) for window in left]), capacity, side="right"))
            if taken := left[: fitting if turn else max(1, fitting)]:
                turn[job] = taken
                capacity -= sum(map(len, taken))
        return turn

    def _compute(self, turn: dict[_Job, list[Sequence]]) -> None:
        """A piece of the work of each request of a turn. A failure is their answer, and never ends the thread."""
        windows = [window for own in turn.values() for window in own]
        compute = _compute_of(next(iter(turn)))
        try:
            found = iter(compute(windows) if compute is not None and windows else [])
        except Exception as error:
            for job in turn:
                job.fail(error)
            return
        if windows:
            self._observe(len(windows))
        for job, own in turn.items():
            job.found += [next(found) for _ in own]
            if not job.left:
                self._advance(job)

    def _advance(self, job: _Job) -> None:
        """Tokenize a request's texts, or resume its work."""
        try:
            if job.work is None:
                job.level += job.ahead
                job.work = self._admitted(job.read())
                job.windows = job.work.steps.send(None)
            else:
                found, job.found = job.found, []
                job.windows = job.work.steps.send(found)
        except StopIteration as done:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_result(done.value)
        except Exception as error:
            job.fail(error)

    def _admitted(self, work: Work) -> Work:
        """Work that the queue has capacity for.

        Raises:
            HTTPException: if it has not.
        """
        with self._changed:
            waiting = sum(job.work.tokens for job in self._jobs if job.work is not None and not job.is_over)
        if work.tokens > (self._limits.waiting_tokens - waiting) / 2:
            raise _busy()
        return work

    def _charge(self, turn: dict[_Job, list[Sequence]], seconds: float) -> None:
        """Count a turn's time for its requests, by their tokens, and let time pass for a request that is to come."""
        tokens = {job: sum(map(len, own)) or 1 for job, own in turn.items()}
        with self._changed:
            for job, own in tokens.items():
                job.level += seconds * own / sum(tokens.values())
            self._level += seconds / len(self._jobs)


def _compute_of(job: _Job) -> Compute | None:
    return None if job.windows is None else job.windows.compute


def _busy() -> HTTPException:
    return HTTPException(503, "too many texts are waiting; try again in a moment", {"Retry-After": "1"})
