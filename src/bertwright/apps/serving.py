"""From an address to a running server: the socket, uvicorn's timeouts, the log, and the end."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from bertwright.apps.search import open_searcher
from bertwright.apps.server import make_app
from bertwright.errors import UserError
from bertwright.inference import Model

DRAIN_SECONDS = 10
"""That requests have to end after SIGTERM or Ctrl-C; then they are given up."""

MOST_CONNECTIONS = 1_000
"""Open at once; a client over that gets status 503 at once, before files run out."""


def serve_forever(
    load: Callable[[], Model], host: str, port: int, index: str | None = None, index_model: str | None = None
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Args:
        load: gives the model. The address is taken before it is called, since a large model takes long to load.
        host: the address to listen on.
        port: of the address; 0 takes a free one.
        index: the folder of an index of texts; the default is none.
        index_model: where the model that built the index has been moved to; the default is where it was.

    Raises:
        UserError: if the address cannot be listened on, or the model or the index cannot be read.
    """
    if index_model is not None and index is None:
        raise UserError("--index-model is the model that built an --index; give one, or leave it out")
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    with listen(host, port) as listener:
        server = uvicorn.Server(server_config(load(), index, index_model))
        shown = f"[{host}]" if ":" in host else host
        print(f"serving on http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        # Which uvicorn passes on once it has ended in order, unless a shell in the background has it ignored.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        with suppress(BrokenPipeError):  # whoever read the address may be gone
            print("the server has stopped", flush=True)


def server_config(model: Model, index: str | None = None, index_model: str | None = None) -> uvicorn.Config:
    """How uvicorn serves a model, and an index of texts if there is one."""
    searcher = None if index is None else open_searcher(Path(index), model=index_model, loaded=model)
    return uvicorn.Config(
        make_app(model, searcher=searcher),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        UserError: if it cannot.
    """
    if not 0 <= port <= 65_535:
        raise UserError(f"--port is {port}; give a number from 0 to 65535, where 0 takes a free port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host} is no address of this machine; give 127.0.0.1, or 0.0.0.0 for all") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            problem = f"port {port} of {host} is in use; stop the other server, or give another --port"
        elif error.errno == errno.EACCES:
            problem = f"port {port} needs rights that you do not have; give a --port from 1024"
        else:
            problem = f"--host {host} is no address of this machine; give 127.0.0.1, or 0.0.0.0 for all"
        raise UserError(problem) from error
    return listener
