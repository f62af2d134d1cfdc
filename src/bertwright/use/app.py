"""A web page and a JSON API for a trained model.

One thread computes. Requests that arrive while it is busy wait in a queue, and are then judged together: the busier the
server, the larger its batches, and an idle one answers at once. Everything that a client sends is text; nothing of it
is evaluated, loaded or kept.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import bertwright
from bertwright.errors import UserError
from bertwright.tasks.classify import Ids
from bertwright.use.explain import explain, strengths
from bertwright.use.predict import Model, Verdict

MAX_CHARACTERS = 20_000
"""Of one text: some ten times what the model reads at once."""

MAX_TEXTS = 64
"""In one request."""

MAX_BODY = 4 * MAX_CHARACTERS * MAX_TEXTS
"""Bytes of a request's body."""

MAX_ATTENTION = 64
"""Tokens of a text whose attention is shown: a picture of more has no readable rows, and grows with the square."""

Text = Annotated[str, Field(max_length=MAX_CHARACTERS, examples=["A film to remember."])]


class PredictRequest(BaseModel):
    """Texts to judge."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


class TextRequest(BaseModel):
    """A text."""

    text: Text


class MaskRequest(BaseModel):
    """A text with one [MASK] or more."""

    text: Annotated[str, Field(max_length=MAX_CHARACTERS, examples=["The film was [MASK]."])]
    top_k: Annotated[int, Field(ge=1, le=50)] = 5


class PairRequest(BaseModel):
    """Two texts, of which the second may follow the first."""

    first: Text
    second: Text


@dataclass(frozen=True)
class Limits:
    """What a server does not let its clients exceed.

    Args:
        waiting: texts in the queue; more are refused with status 503.
        seconds: that a request may take; then it is given up with status 504.
        batch: texts that are judged together.
    """

    waiting: int = 1_024
    seconds: float = 30.0
    batch: int = 128


@dataclass(frozen=True)
class _Waiting:
    encoded: list[Ids]
    answer: asyncio.Future[list[Verdict]]


class Batcher:
    """Judges together what waits together.

    Args:
        model: computes.
        thread: the one thread that computes.
        limits: of the queue and of a batch.
        observe: told how many texts each batch has.
    """

    def __init__(
        self, model: Model, thread: ThreadPoolExecutor, limits: Limits, observe: Callable[[int], None]
    ) -> None:
        self._model = model
        self._thread = thread
        self._limits = limits
        self._observe = observe
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self.waiting = 0

    async def judge(self, encoded: list[Ids]) -> list[Verdict]:
        """The verdicts on a request's texts, in order.

        Raises:
            HTTPException: if too many texts wait already.
        """
        with self.room(len(encoded)):
            item = _Waiting(encoded, asyncio.get_running_loop().create_future())
            await self._queue.put(item)
            return await item.answer

    @contextmanager
    def room(self, texts: int) -> Iterator[None]:
        """Counts texts as waiting, whatever they wait for.

        Raises:
            HTTPException: if too many wait already.
        """
        if self.waiting + texts > self._limits.waiting:
            raise HTTPException(503, "too many texts are waiting; try again in a moment", {"Retry-After": "1"})
        self.waiting += texts
        try:
            yield
        finally:
            self.waiting -= texts

    async def work(self) -> None:
        """Judge what comes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and sum(len(item.encoded) for item in batch) < self._limits.batch:
                batch.append(self._queue.get_nowait())
            batch = [item for item in batch if not item.answer.done()]  # whose clients have not given up meanwhile
            texts = [ids for item in batch for ids in item.encoded]
            if not texts:
                continue
            self._observe(len(texts))
            try:
                verdicts = iter(await loop.run_in_executor(self._thread, self._model.judge, texts))
            except Exception as error:
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(error)
                continue
            for item in batch:
                own = [next(verdicts) for _ in item.encoded]
                if not item.answer.done():
                    item.answer.set_result(own)


class _BodyLimit:
    """Refuses bodies over `MAX_BODY` bytes, also those that do not say their length, before they are in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        size = int(told) if told.isdigit() else 0
        refusal = JSONResponse({"detail": f"the request has more than {MAX_BODY:,} bytes"}, 413)
        if size > MAX_BODY:
            await refusal(scope, receive, send)
            return
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > MAX_BODY:
                await refusal(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)


def make_app(model: Model, limits: Limits | None = None) -> FastAPI:
    """The server's application: page, API, its description at /openapi.json, /health and /metrics.

    Args:
        model: answers; its classifier and encoder are loaded before the first request.
        limits: what clients may not exceed.

    Raises:
        UserError: if the model's folder holds no classifier.
    """
    limits = limits or Limits()
    _ = model.pretrained, model.tokenizer
    model.judge(model.encode(["warm"]))  # loads what a verdict needs, so that no client waits for it
    registry = CollectorRegistry()
    requests = Counter("bertwright_requests", "Requests", ["path", "status"], registry=registry)
    seconds = Histogram("bertwright_seconds", "Seconds from request to answer", ["path"], registry=registry)
    sizes = Histogram("bertwright_batch_texts", "Texts in a batch", buckets=[2**n for n in range(8)], registry=registry)
    thread = ThreadPoolExecutor(1, "compute")
    batcher = Batcher(model, thread, limits, sizes.observe)
    Gauge("bertwright_waiting_texts", "Texts in the queue", registry=registry).set_function(lambda: batcher.waiting)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()
        thread.shutdown()

    app = FastAPI(title="Bertwright", version=bertwright.__version__, description=__doc__, lifespan=running)

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        response = await answer(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")  # a client's invented paths must not become labels
        requests.labels(path, response.status_code).inc()
        seconds.labels(path).observe(time.perf_counter() - start)
        return response

    app.add_middleware(_BodyLimit)

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without what was sent, which FastAPI would repeat: it may be long, or not even be text.
        faults = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
        return JSONResponse({"detail": faults}, 422)

    async def within(work: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(work, limits.seconds)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {limits.seconds:g} seconds") from None

    async def compute(function: Callable[..., Any], *arguments: Any) -> Any:
        with batcher.room(1):
            return await within(asyncio.get_running_loop().run_in_executor(thread, function, *arguments))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return importlib.resources.files("bertwright.use").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server can answer, and with which model."""
        return {"status": "ok", "model": model.name, "labels": model.classifier.label_names}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/predict")
    async def predict(request: PredictRequest) -> list[dict[str, Any]]:
        """The class of each text, in order: label, score and the probabilities of all classes."""
        encoded = await asyncio.to_thread(model.encode, request.texts)
        return [asdict(verdict) for verdict in await within(batcher.judge(encoded))]

    @app.post("/explain")
    async def why(request: TextRequest) -> dict[str, Any]:
        """The verdict on a text and each word's part in it; `strength` is its share of the heaviest word's weight."""
        found = await compute(explain, model, request.text)
        words = [asdict(w) | {"strength": s} for w, s in zip(found.words, strengths(found), strict=True)]
        return {"text": found.text, **asdict(found.verdict), "words": words}

    @app.post("/fill-mask")
    async def fill_mask(request: MaskRequest) -> list[list[dict[str, Any]]]:
        """The likeliest tokens at each [MASK]."""
        found = await compute(model.fill_mask, request.text, request.top_k)
        return [[asdict(guess) for guess in guesses] for guesses in found]

    @app.post("/next-sentence")
    async def next_sentence(request: PairRequest) -> dict[str, float]:
        """The probability that the second text follows the first."""
        return {"score": await compute(model.next_sentence, request.first, request.second)}

    @app.post("/attention")
    async def attention(request: TextRequest) -> dict[str, Any]:
        """Who looks at whom in the pre-trained encoder: tokens, and weights as layers, heads, rows, columns."""
        found: dict[str, Any] = await compute(_attention, model, request.text)
        return found

    return app


def _attention(model: Model, text: str) -> dict[str, Any]:
    """As lists of lists, which are made in the thread that computes: of BERT-base they are half a million."""
    tokens, weights = model.attention(text, MAX_ATTENTION)
    return {"tokens": tokens, "weights": np.round(weights, 3).tolist()}
