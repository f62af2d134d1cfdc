"""A web page and a JSON API for a trained model.

Every request has the same shape: `{"texts": ["A text.", "Another."]}`, or `{"rows": [...]}` where a model reads more
than a text. The answer is a list with one entry for each text or row. An error is `{"detail": "one sentence"}`. All
that a client sends is text; none of it is executed, loaded or stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

import bertwright
from bertwright.apps import answers
from bertwright.apps.batching import FairQueue, Limits, Work
from bertwright.apps.explain import check, explains
from bertwright.apps.gateway import Gateway, Metrics
from bertwright.apps.page import page_routes
from bertwright.apps.requests import (
    EmbedRequest,
    Example,
    ExplainRequest,
    MaskRequest,
    PairRequest,
    PredictRequest,
    Refusal,
    SearchRequest,
    TextsRequest,
    examples,
    sentence,
    such_as,
)
from bertwright.apps.search import Searcher
from bertwright.errors import UserError
from bertwright.inference import Model
from bertwright.text.formats import repaired

Answer = Callable[[Request, Callable[[], Work]], Any]

Described = Mapping[str, dict[str, Any]]
"""What a path's description has besides its schema, by path."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": description}
    for status, description in {
        400: "The body is not JSON in UTF-8.",
        408: "The body took too long to arrive.",
        413: "The body is too long.",
        422: "The request is wrong, or over a limit.",
        503: "Too much is waiting.",
        504: "There was no answer in time.",
    }.items()
}


def make_app(model: Model, limits: Limits | None = None, searcher: Searcher | None = None) -> FastAPI:
    """The server's application: page, API, its description at /docs and /openapi.json, /health and /metrics.

    Args:
        model: answers; its classifier and encoder are loaded before the first request.
        limits: the server's capacity.
        searcher: an index of texts, whose own model computes the queries; the default is none.

    Raises:
        UserError: if the model's folder holds no classifier.
    """
    _ = model.pretrained.model, model.pretrained.tokenizer
    model.predict([model.task.warm()])  # loads what a prediction needs, so that no client waits for it
    with suppress(UserError):  # of a folder whose vectors are not computed here; /embed says so
        model.encode("warm")
    if searcher is not None:
        searcher.find("warm", 1)
    limits, metrics = limits or Limits(), Metrics()

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        app.state.queue = queue = FairQueue(limits, metrics.batch_windows.observe)
        metrics.waiting.set_function(lambda: queue.waiting)
        yield
        await asyncio.to_thread(queue.close)

    async def answer(request: Request, read: Callable[[], Work]) -> Response:
        body = await request.app.state.queue.answer(read, request.scope["body_bytes"])
        return Response(body, media_type="application/json")

    app = FastAPI(
        title="Bertwright",
        version=bertwright.__version__,
        description=__doc__,
        lifespan=running,
        docs_url=None,  # FastAPI's pages load scripts from the network
        redoc_url=None,
    )
    app.add_middleware(Gateway, limits=limits, metrics=metrics)
    app.add_exception_handler(UserError, partial(_refuse, model))
    bodies = examples(model.task.warm(), explains(model))
    app.add_exception_handler(RequestValidationError, partial(_refuse_form, bodies))
    app.add_exception_handler(HTTPException, partial(_refuse_status, bodies))
    app.include_router(page_routes(model, None if searcher is None else searcher.examples()))
    app.include_router(_state_routes(model, metrics))
    described = {path: _described(body) for path, body in bodies.items()}
    app.include_router(_classifier_routes(model, limits, answer, described))
    app.include_router(_encoder_routes(model, limits, answer, described))
    if searcher is not None:
        app.include_router(_search_routes(searcher, limits, answer, described))
    return app


def _described(example: Example) -> dict[str, Any]:
    """The example of a path's body in its description; a schema's own would be that of all models."""
    return {"requestBody": {"content": {"application/json": {"example": example}}}}


async def _refuse(model: Model, _: Request, error: Exception) -> JSONResponse:
    """A mistake in a request, without the place of the model on this machine."""
    said = str(error)
    for folder in (model.classifier_folder, model.pretrained.folder):
        for path in (folder.resolve(), folder):
            if len(path.parts) > 1:  # a single name is what /health calls the model
                said = said.replace(str(path), "the model")
    return JSONResponse({"detail": repaired(said)}, 422)  # it can name a column that is half an emoji


async def _refuse_form(bodies: Mapping[str, Example], request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": repaired(sentence(error, bodies[_path(request)]))}, 422)


async def _refuse_status(bodies: Mapping[str, Example], request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses before a request is read, as a sentence; the queue's refusals have theirs."""
    assert isinstance(error, HTTPException)
    path, said = _path(request), error.detail
    if error.status_code == 400:
        said = f"the body is not JSON in UTF-8, or is nested too deep; in UTF-8, {such_as(bodies[path])}"
    elif error.status_code == 404 and path == "/search":
        said = "this server has no index of texts to search; start it with bertwright serve --index INDEX"
    elif error.status_code == 404:
        said = "this server has no such path; /docs names its paths"
    elif error.status_code == 405 and path in bodies:
        said = f"this path takes POST; with the header Content-Type: application/json, {such_as(bodies[path])}"
    elif error.status_code == 405:
        said = "this path takes GET; /docs names the paths that take POST"
    return JSONResponse({"detail": said}, error.status_code, error.headers)


def _path(request: Request) -> str:
    """The path of the API, also where the application is mounted in another."""
    return str(request.scope["path"].removeprefix(request.scope.get("root_path", "")))


def _state_routes(model: Model, metrics: Metrics) -> APIRouter:
    """The routes /health and /metrics."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server can answer, and with which model: its name, its task and its labels."""
        return {"status": "ok", "model": model.name, "task": model.task.name, "labels": model.classifier.label_names}

    @routes.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def _classifier_routes(model: Model, limits: Limits, answer: Answer, described: Described) -> APIRouter:
    """The routes that the fine-tuned model answers."""
    routes = APIRouter(responses=_ERRORS)

    @routes.post("/predict", openapi_extra=described["/predict"])
    async def predict(request: Request, body: PredictRequest) -> Any:
        """The class of each text: `label`, `score`, and the `probabilities` of all classes.

        A model for several labels gives `labels` and `probabilities`; one for numbers, or for how alike two texts are,
        gives `score`. Pairs are `rows` with `text` and `text_pair`.

        A model for tokens reads `texts`, or `rows` with `tokens`. It gives `text`, `tokens`, `tags`, `scores`, and
        `entities` with `start`, `end`, `text`, `label` and `score`; places count characters from 0. One for questions
        reads `rows` with `question` and `context`, and gives `text`, `start`, `end` and `score`; one for choices reads
        `context` and `choices`, and gives `text`, `index`, `score` and `probabilities`.
        """
        return await answer(request, lambda: answers.predict(model, body, limits))

    if not explains(model):

        @routes.api_route("/explain", methods=["GET", "POST"], include_in_schema=False)
        async def refuse() -> None:
            """Say that this model's predictions are not explained, whatever is sent."""
            check(model)

        return routes

    @routes.post("/explain", openapi_extra=described["/explain"])
    async def explain(request: Request, body: ExplainRequest) -> Any:
        """What /predict gives for each text or pair, and each word's attribution, for classes, labels and numbers.

        Attributions are log-odds of the `label` that is asked for, else of the most probable one, or parts of the
        number; `explained_label` names it. `words` have `text`, `start`, `end`, `attribution`, and
        `relative_attribution`, which is divided by the largest magnitude; those of a second text are `words_pair`.
        `text` and `text_pair` are the texts as the model reads them. `baseline_log_odds` are those of a text of masks;
        of a number it is `baseline_score`.
        """
        return await answer(request, lambda: answers.explain(model, body, limits))

    return routes


def _encoder_routes(model: Model, limits: Limits, answer: Answer, described: Described) -> APIRouter:
    """The routes that the pre-trained encoder answers."""
    routes = APIRouter(responses=_ERRORS)

    @routes.post("/fill-mask", openapi_extra=described["/fill-mask"])
    async def fill_mask(request: Request, body: MaskRequest) -> Any:
        """The most probable tokens at each [MASK] of each text: a list for each text, in it one for each mask.

        That holds `token` and `score`, the most probable first.
        """
        return await answer(request, lambda: answers.fill_mask(model, body, limits))

    @routes.post("/next-sentence", openapi_extra=described["/next-sentence"])
    async def next_sentence(request: Request, body: PairRequest) -> Any:
        """Whether each of `text_pairs` follows the text of its place: `is_next`, and `score`, its probability."""
        return await answer(request, lambda: answers.next_sentence(model, body, limits))

    @routes.post("/embed", openapi_extra=described["/embed"])
    async def embed(request: Request, body: EmbedRequest) -> Any:
        """One vector of each text to compare texts by, `vector`, as `Model.encode` computes it.

        `left_out` counts the tokens at the text's end that the encoder does not read. With `per_token` the answer is
        `tokens` and their `vectors` of the pre-trained encoder, with `pooled`, the pooler's output, and `mean`.
        """
        return await answer(request, lambda: answers.embed(model, body, limits))

    @routes.post("/attention", openapi_extra=described["/attention"])
    async def attention(request: Request, body: TextsRequest) -> Any:
        """The attention weights for the first tokens of each text, [CLS] and [SEP] included.

        `tokens`, and `weights` as nested lists: layers, heads, rows, columns.
        """
        return await answer(request, lambda: answers.attention(model, body, limits))

    return routes


def _search_routes(searcher: Searcher, limits: Limits, answer: Answer, described: Described) -> APIRouter:
    """The route that an index of texts answers."""
    routes = APIRouter(responses=_ERRORS)

    @routes.post("/search", openapi_extra=described["/search"])
    async def search(request: Request, body: SearchRequest) -> Any:
        """The texts of the index that are nearest to each text: a list for each, the nearest first.

        That holds `score`, `file`, `line`, which is counted from 1, `text`, and `unit`: whether `line` is a row.
        """
        return await answer(request, lambda: answers.search(searcher, body, limits))

    return routes
