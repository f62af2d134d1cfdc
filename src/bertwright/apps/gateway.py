"""Around the server's application: bodies are bounded, all answers are counted, errors are neutral, work is given up.

An exception that nobody expected gets a sentence with a number, under which the log on standard error has the rest. A
client that leaves cancels its request.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertwright.apps.batching import Limits

_log = logging.getLogger("bertwright.server")

_LEFT = 499
"""The status in /metrics of a request whose client left before the answer, as nginx counts them."""


class Metrics:
    """The counters at /metrics, in Prometheus's format."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("bertwright_requests", "Requests", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "bertwright_seconds", "Seconds from request to answer", ["path"], registry=self.registry
        )
        self.batch_windows = Histogram(
            "bertwright_batch_windows", "Windows in a batch", buckets=[2**n for n in range(8)], registry=self.registry
        )
        self.waiting = Gauge("bertwright_waiting_requests", "Requests in the queue", registry=self.registry)


class Gateway:
    """A middleware.

    Args:
        app: the application.
        limits: of bodies.
        metrics: count requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), _LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        except asyncio.CancelledError:  # by uvicorn, when it ends and requests take too long
            if status == _LEFT:
                refusal = "the server is stopping; try again later"
                await JSONResponse({"detail": refusal}, 503)(scope, receive, noting)
        except Exception:
            number = secrets.token_hex(4)
            _log.exception("error %s at %s", number, _route(scope))
            if status == _LEFT:  # nothing is sent yet
                refusal = f"the server made an error; its log has the details under {number}"
                await JSONResponse({"detail": refusal}, 500)(scope, receive, noting)
            status = 500
        finally:
            self._metrics.requests.labels(_route(scope), status).inc()
            self._metrics.seconds.labels(_route(scope)).observe(time.perf_counter() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(self._body(scope, receive), self._limits.body_seconds)
        except TimeoutError:
            refusal = f"the body did not arrive within {self._limits.body_seconds:g} seconds; send it at once"
            await JSONResponse({"detail": refusal}, 408, {"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            return
        if len(body) > self._limits.body_bytes:
            refusal = f"the body has more than {self._limits.body_bytes:,} bytes; send fewer or shorter texts"
            await JSONResponse({"detail": refusal}, 413, {"Connection": "close"})(scope, receive, send)
            return
        scope["body_bytes"] = len(body)
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.ensure_future(receive())  # after the body there is one more message: the client has left

        async def replay() -> Message:
            return whole.pop() if whole else await asyncio.shield(left)

        work = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            left.cancel()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or its first bytes where it is too long; None if the client left before its end."""
        told = dict(scope["headers"]).get(b"content-length", b"")
        if told.isdigit() and int(told) > self._limits.body_bytes:
            return bytes(self._limits.body_bytes + 1)
        parts, size, more = [], 0, True
        while more and size <= self._limits.body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        return b"".join(parts)


def _route(scope: MutableMapping[str, Any]) -> str:
    """The path of the API that a request met; paths that a client invents must not become labels or lines of a log."""
    return str(getattr(scope.get("route"), "path", "other"))
