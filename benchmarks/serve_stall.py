"""How long one sentence waits while three clients send the most expensive requests that the server's limits allow.

    python benchmarks/serve_stall.py

The server is `bertwright serve` in a process of its own, on loopback; it shares the machine's cores with the clients.
Requests of several kinds, each as large as the limits allow, are timed alone; the slowest is the worst request. Then,
for each kind, three clients send it over and over, and a fourth sends one sentence after another.
"""

import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import httpx2
from jsonargparse import auto_cli

import bertwright
from bertwright.apps.answers import MOST_ATTENTION
from bertwright.apps.batching import Limits
from bertwright.apps.integrated_gradients import PASSES
from common import Json, described, write

Requests = dict[str, tuple[str, Json]]

SENTENCE = {"texts": ["A film to remember."]}
"""The fourth client's request."""


@contextmanager
def serving(model: str = "bundled", *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`bertwright serve` on a free port, for a block: its process and its address."""
    command = [sys.executable, "-m", "bertwright", "serve", "--model", model, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            yield process, found[0]
        finally:
            process.terminate()


def text_of(model: bertwright.Model, tokens: int) -> str:
    """A text of so many tokens, [CLS] and [SEP] included, in the vocabularies of classifier and encoder."""
    text = "the " * (tokens - 2)
    assert all(
        len(tokenizer.encode([text])[0]) == tokens - 2
        for tokenizer in (model.classifier_tokenizer, model.pretrained.tokenizer)
    )
    return text


def largest_requests(model: bertwright.Model, limits: Limits) -> Requests:
    """For each kind of work the largest request within the limits: path and body."""
    positions = model.pretrained.model.encoder.max_length
    full = [text_of(model, positions)] * min(limits.texts, limits.request_tokens // positions)
    explained = limits.request_tokens // PASSES
    own = limits.masks // len(full)
    masked = "[MASK] " * own + text_of(model, positions - own)
    # Tokenizing is slowest for words of a hundred letters that are not in the vocabulary.
    words = ("q" * 90 + "ह ") * (limits.body_bytes * 9 // 10 // 94)
    vectors = limits.answer_numbers // model.pretrained.model.encoder.config.hidden_size // positions
    return {
        "explain one text": ("/explain", {"texts": [text_of(model, explained)]}),
        "explain many texts": ("/explain", {"texts": [text_of(model, explained // limits.texts)] * limits.texts}),
        "predict long texts": (
            "/predict",
            # Each window has its own [CLS] and [SEP].
            {"texts": [text_of(model, limits.text_tokens * 15 // 16)] * (limits.request_tokens // limits.text_tokens)},
        ),
        "predict many texts": ("/predict", {"texts": full}),
        "words that take long to tokenize": ("/predict", {"texts": [words]}),
        "fill masks": ("/fill-mask", {"texts": [masked] * len(full), "top_k": 50}),
        "next sentence": ("/next-sentence", {"texts": full[::2], "text_pairs": full[::2]}),
        "embed": ("/embed", {"texts": full}),
        "embed tokens": ("/embed", {"texts": full[: max(1, vectors - 1)], "per_token": True}),
        "attention": ("/attention", {"texts": [text_of(model, MOST_ATTENTION)] * min(limits.texts, 30)}),
    }


def stall(address: str, path: str, body: Json, seconds: float, connections: int = 1) -> Json:
    """The waiting times of the fourth client.

    Args:
        address: of the server.
        path: of the request that the three clients send.
        body: of this request.
        seconds: for which they do.
        connections: of each of the three clients.
    """
    end = time.monotonic() + seconds
    statuses: dict[int, int] = {}
    lock = threading.Lock()

    def send_again() -> None:
        with httpx2.Client(base_url=address, timeout=120) as client:
            while time.monotonic() < end:
                status = client.post(path, json=body).status_code
                with lock:
                    statuses[status] = statuses.get(status, 0) + 1
                if status == 503:
                    time.sleep(0.2)

    clients = [threading.Thread(target=send_again) for _ in range(3 * connections)]
    for client in clients:
        client.start()
    time.sleep(min(1.0, seconds / 4))
    waited, failed = [], 0
    with httpx2.Client(base_url=address, timeout=120) as client:
        while time.monotonic() < end:
            start = time.perf_counter()
            failed += client.post("/predict", json=SENTENCE).status_code != 200
            waited.append(1000 * (time.perf_counter() - start))
            time.sleep(0.05)
    for thread in clients:
        thread.join()
    return {
        "median_ms_of_others": round(statistics.median(waited), 1),
        "greatest_ms_of_others": round(max(waited), 1),
        "requests_of_others": len(waited),
        "failed_of_others": failed,
        "large_requests_by_status": dict(sorted(statuses.items())),
    }


def alone(client: httpx2.Client, path: str, body: Json) -> float:
    """Milliseconds that a request takes on an idle server."""
    start = time.perf_counter()
    client.post(path, json=body).raise_for_status()
    return round(1000 * (time.perf_counter() - start), 1)


def main(model: str = "bundled", seconds: float = 15.0, out: str = "results/serve/stall.json") -> None:
    """Measure.

    Args:
        model: a model folder, the folder of a run, or bundled.
        seconds: for each kind of request.
        out: the JSON file; a relative path starts at the repository.
    """
    limits = Limits()
    requests = largest_requests(bertwright.load(model), limits)
    rows: dict[str, Any] = {}
    with serving(model) as (_, address):
        with httpx2.Client(base_url=address, timeout=120) as client:
            idle = statistics.median(alone(client, "/predict", SENTENCE) for _ in range(50))
            for name, (path, body) in requests.items():
                rows[name] = {"path": path, "texts": len(body["texts"]), "alone_ms": alone(client, path, body)}
        for name, (path, body) in requests.items():
            rows[name] |= stall(address, path, body, seconds)
            print(f"{name}: {rows[name]}", flush=True)
        worst = max(rows, key=lambda name: rows[name]["alone_ms"])
        several = stall(address, *requests[worst], seconds, connections=4)
    write(
        {
            **described(),
            "model": model,
            "limits": asdict(limits),
            "worst_request": f"{worst}: POST {rows[worst]['path']}, {rows[worst]['alone_ms']:.0f} ms alone",
            "median_ms_of_others": rows[worst]["median_ms_of_others"],
            "requests_of_others": rows[worst]["requests_of_others"],
            "median_ms_when_idle": idle,
            "by_request": rows,
            "worst_request_on_four_connections_each": several,
        },
        out,
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
