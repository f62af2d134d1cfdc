"""A web page and a JSON API for a trained model.

Requests that arrive while the server computes wait in a queue, and are then predicted in one batch. All that a client
sends is text; none of it is executed, loaded or stored.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import bertwright
from bertwright.apps.batching import Batcher, Limits
from bertwright.apps.explain import explain, relative_attributions
from bertwright.errors import UserError
from bertwright.inference import Model

MAX_CHARACTERS = 20_000
"""Of one text: some ten times what the model reads at once."""

MAX_TEXTS = 64
"""In one request."""

MAX_BODY = 4 * MAX_CHARACTERS * MAX_TEXTS
"""Bytes of a request's body."""

MAX_ATTENTION = 64
"""Tokens of a text whose attention is shown: a picture of more has no readable rows, and grows with the square."""

Text = Annotated[str, Field(max_length=MAX_CHARACTERS, examples=["The text to classify."])]


class PredictRequest(BaseModel):
    """Texts to classify."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


class TextRequest(BaseModel):
    """A text."""

    text: Text


class MaskRequest(BaseModel):
    """A text with one [MASK] or more."""

    text: Annotated[str, Field(max_length=MAX_CHARACTERS, examples=["The house was [MASK]."])]
    top_k: Annotated[int, Field(ge=1, le=50)] = 5


class PairRequest(BaseModel):
    """Two texts, of which the second may follow the first."""

    first: Text
    second: Text


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


class _Metrics:
    """The figures at /metrics, in Prometheus's format."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("bertwright_requests", "Requests", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "bertwright_seconds", "Seconds from request to answer", ["path"], registry=self.registry
        )
        self.batch_texts = Histogram(
            "bertwright_batch_texts", "Texts in a batch", buckets=[2**n for n in range(8)], registry=self.registry
        )
        self.waiting_texts = Gauge("bertwright_waiting_texts", "Texts in the queue", registry=self.registry)

    async def count(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """A middleware that counts and times requests."""
        start = time.perf_counter()
        response = await answer(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")  # paths that a client invents must not become labels
        self.requests.labels(path, response.status_code).inc()
        self.seconds.labels(path).observe(time.perf_counter() - start)
        return response


def make_app(model: Model, limits: Limits | None = None) -> FastAPI:
    """The server's application: page, API, its description at /openapi.json, /health and /metrics.

    Args:
        model: answers; its classifier and encoder are loaded before the first request.
        limits: the server's capacity.

    Raises:
        UserError: if the model's folder holds no classifier.
    """
    _ = model.pretrained.model, model.pretrained.tokenizer
    model.predict(["warm"])  # loads what a prediction needs, so that no client waits for it
    metrics = _Metrics()
    thread = ThreadPoolExecutor(1, "compute")
    batcher = Batcher(model, thread, limits or Limits(), metrics.batch_texts.observe)
    metrics.waiting_texts.set_function(lambda: batcher.waiting)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()
        thread.shutdown()

    app = FastAPI(title="Bertwright", version=bertwright.__version__, description=__doc__, lifespan=running)
    app.middleware("http")(metrics.count)
    app.add_middleware(_BodyLimit)
    app.add_exception_handler(UserError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_form)
    app.include_router(_pages(model, metrics.registry))
    app.include_router(_classifier_routes(model, batcher))
    app.include_router(_encoder_routes(model, batcher))
    return app


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _refuse_form(_: Request, error: Exception) -> JSONResponse:
    # Without the input, which FastAPI would repeat: it can be long, or not even text.
    assert isinstance(error, RequestValidationError)
    faults = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
    return JSONResponse({"detail": faults}, 422)


def _pages(model: Model, registry: CollectorRegistry) -> APIRouter:
    """The routes /, /health and /metrics."""
    routes = APIRouter()

    @routes.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return importlib.resources.files("bertwright.apps").joinpath("page.html").read_text(encoding="utf-8")

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server can answer, and with which model."""
        return {"status": "ok", "model": model.name, "labels": model.classifier.label_names}

    @routes.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def _classifier_routes(model: Model, batcher: Batcher) -> APIRouter:
    """The routes that the fine-tuned model answers."""
    routes = APIRouter()

    @routes.post("/predict")
    async def predict(request: PredictRequest) -> list[dict[str, Any]]:
        """The class of each text, in order: label, score and the probabilities of all classes."""
        encoded = await asyncio.to_thread(model.encode, request.texts)
        return [asdict(prediction) for prediction in await batcher.predict(encoded)]

    @routes.post("/explain")
    async def explain_text(request: TextRequest) -> dict[str, Any]:
        """The class of a text, and each word's attribution, in log-odds of that class.

        `baseline_log_odds` are those of a text of masks. `relative_attribution` is divided by the largest magnitude.
        """
        found = await batcher.compute(explain, model, request.text)
        relative = relative_attributions(found)
        return {
            "text": found.text,
            **asdict(found.prediction),
            "baseline_log_odds": found.baseline_log_odds,
            "words": [
                {**asdict(word), "relative_attribution": own} for word, own in zip(found.words, relative, strict=True)
            ],
        }

    return routes


def _encoder_routes(model: Model, batcher: Batcher) -> APIRouter:
    """The routes that the pre-trained encoder answers."""
    routes = APIRouter()

    @routes.post("/fill-mask")
    async def fill_mask(request: MaskRequest) -> list[list[dict[str, Any]]]:
        """The most probable tokens at each [MASK]."""
        found = await batcher.compute(model.fill_mask, request.text, request.top_k)
        return [[asdict(prediction) for prediction in predictions] for predictions in found]

    @routes.post("/next-sentence")
    async def next_sentence(request: PairRequest) -> dict[str, float]:
        """The probability that the second text follows the first."""
        return {"score": await batcher.compute(model.next_sentence, request.first, request.second)}

    @routes.post("/attention")
    async def attention(request: TextRequest) -> dict[str, Any]:
        """The attention weights of the pre-trained encoder: tokens, and weights as layers, heads, rows, columns."""
        found: dict[str, Any] = await batcher.compute(_attention, model, request.text)
        return found

    return routes


def _attention(model: Model, text: str) -> dict[str, Any]:
    """As lists of lists, which are made in the thread that computes: of BERT-base they are half a million."""
    tokens, weights = model.attention(text, MAX_ATTENTION)
    return {"tokens": tokens, "weights": np.round(weights, 3).tolist()}
