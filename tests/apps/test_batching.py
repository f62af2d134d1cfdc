"""The fair queue, with work of known length in place of a model's."""

import asyncio
import time

import pytest
from fastapi import HTTPException

from bertwright.apps.batching import FairQueue, Limits, Windows, Work

PIECE = 0.01


def pieces(number, tokens=10):
    """Reads a request whose work is so many pieces of `PIECE` seconds."""

    def steps():
        for _ in range(number):
            yield None
            time.sleep(PIECE)
        return b"done"

    return lambda: Work(tokens, steps())


def with_queue(test, limits=None):
    """Call an asynchronous test with a queue."""

    async def run():
        queue = FairQueue(limits or Limits(), lambda _: None)
        try:
            await asyncio.wait_for(test(queue), 30)
        finally:
            queue.close()

    asyncio.run(run())


@pytest.mark.slow
def test_a_short_request_waits_for_a_piece_of_each_long_one_at_most():
    async def test(queue):
        long = [asyncio.create_task(queue.answer(pieces(100), 100)) for _ in range(4)]
        await asyncio.sleep(0.3)
        waited = []
        for _ in range(5):
            start = time.monotonic()
            assert await queue.answer(pieces(1), 100) == b"done"
            waited.append(time.monotonic() - start)
        assert not any(task.done() for task in long)
        assert sorted(waited)[2] < 8 * PIECE
        for task in long:
            task.cancel()

    with_queue(test)


@pytest.mark.slow
def test_long_requests_advance_alike_and_short_ones_do_not_starve_them():
    async def test(queue):
        ended = {}

        async def timed(name, number):
            await queue.answer(pieces(number), 100)
            ended[name] = time.monotonic()

        async def send_short_ones():
            while True:
                await queue.answer(pieces(1), 100)

        start = time.monotonic()
        short = [asyncio.create_task(send_short_ones()) for _ in range(3)]
        await asyncio.gather(timed("a", 40), timed("b", 40))
        for task in short:
            task.cancel()
        assert abs(ended["a"] - ended["b"]) < 0.3 * (max(ended.values()) - start)

    with_queue(test)


def test_a_few_large_requests_leave_capacity_for_small_ones():
    async def test(queue):
        large = [asyncio.create_task(queue.answer(pieces(100, tokens=400), 100)) for _ in range(5)]
        await asyncio.sleep(0.2)
        refused = [task for task in large if task.done()]
        assert len(refused) == 4  # the second would take more than half of what the first leaves free
        for task in refused:
            with pytest.raises(HTTPException) as error:
                task.result()
            assert error.value.status_code == 503
        assert await queue.answer(pieces(1, tokens=10), 100) == b"done"

    with_queue(test, Limits(waiting_tokens=1_000))


def test_work_ends_when_its_time_is_up_and_when_its_client_has_left():
    closed = []

    def endless():
        try:
            while True:
                yield None
                time.sleep(PIECE)
        finally:
            closed.append(True)

    async def test(queue):
        with pytest.raises(HTTPException) as error:
            await queue.answer(lambda: Work(1, endless()), 100)
        assert error.value.status_code == 504
        left = asyncio.create_task(queue.answer(lambda: Work(1, endless()), 100))
        await asyncio.sleep(3 * PIECE)
        left.cancel()
        while len(closed) < 2 or queue.waiting:
            await asyncio.sleep(PIECE)

    with_queue(test, Limits(seconds=0.2))


def test_what_a_request_raises_is_its_own_answer():
    def fails():
        yield None
        raise ValueError("mine")

    async def test(queue):
        with pytest.raises(ValueError, match="mine"):
            await queue.answer(lambda: Work(1, fails()), 100)
        assert await queue.answer(pieces(1), 100) == b"done"

    with_queue(test)


def test_windows_of_one_model_make_a_batch_and_those_of_another_do_not():
    batches = []

    def model(name):
        def compute(parts):
            time.sleep(PIECE)
            batches.append((name, len(parts)))
            return [f"{name}{part[0]}" for part in parts]

        return compute

    models = {"a": model("a"), "b": model("b")}

    def request(name, number):
        def steps():
            yield None
            time.sleep(5 * PIECE if number == 0 else 0)  # so that the others are there by then
            found = yield Windows([[number]] * 2, models[name])
            return "".join(found).encode()

        return lambda: Work(10, steps())

    async def test(queue):
        asked = [(name, number) for number in range(4) for name in "ab"]
        found = await asyncio.gather(*(queue.answer(request(*one), 100) for one in asked))
        assert found == [f"{name}{number}".encode() * 2 for name, number in asked]
        assert sum(size for _, size in batches) == 16
        assert max(size for _, size in batches) > 2

    with_queue(test)
