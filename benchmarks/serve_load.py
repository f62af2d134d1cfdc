"""Requests per second of the server on loopback, with our model and with transformers' pipeline behind the same server.

    python benchmarks/serve_load.py --model bundled --texts /path/to/imdb

The server runs in a process of its own. Clients keep a number of connections busy, one review a request, for a bounded
time; each answer is compared with the same system's answer for that review alone, so that a lost or mixed-up answer
shows. Client and server share the machine's cores.
"""

import asyncio
import itertools
import multiprocessing
import socket
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import httpx2
import numpy as np
from jsonargparse import auto_cli
from prometheus_client.parser import text_string_to_metric_families

from bertwright.recipe import Source
from bertwright.text.records import read_records
from common import Json, described, write

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Whole:
    """A text in place of its tokens, with the length that the server's limits count."""

    text: str

    def __len__(self) -> int:
        return min(512, len(self.text.split()) + 2)


def serve(model: str, system: str, port: int) -> None:
    """Serve until terminated; to be called in a process of its own."""
    import torch
    import transformers
    import uvicorn

    import bertwright
    from bertwright.apps.server import make_app
    from bertwright.inference import Model

    served = bertwright.load(model)
    if system == "pipeline":
        transformers.utils.logging.set_verbosity_error()
        classify = transformers.pipeline("text-classification", model=str(served.classifier_folder), device="cpu")

        class Pipeline(Model):
            """A model whose texts stay text, and are classified by transformers, one after the other, as it does."""

            def encode(self, texts):
                return [Whole(text) for text in texts]

            def windows(self, sequence):
                return [sequence]

            def window_logits(self, parts):
                found = classify([part.text for part in parts], truncation=True, top_k=None)
                rows = [{one["label"]: one["score"] for one in row} for row in found]
                return [torch.tensor([row[name] for name in self.classifier.label_names]).log() for row in rows]

        served = Pipeline(served.name, served.classifier_folder, served.pretrained.folder)
    uvicorn.run(make_app(served), host="127.0.0.1", port=port, log_level="error")


async def batches(client: httpx2.AsyncClient) -> tuple[float, float]:
    """How many windows of texts the server has classified so far, and in how many batches."""
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return values["bertwright_batch_windows_sum"], values["bertwright_batch_windows_count"]


async def load(port: int, texts: list[str], clients: int, seconds: float) -> Json:
    """Keep `clients` connections busy; returns counts and times of the answers."""
    expected: dict[int, str] = {}
    took: list[float] = []
    failed = mixed = 0
    numbers = itertools.cycle(range(len(texts)))
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for number, text in enumerate(texts):  # alone, one after the other: what each answer must be
            expected[number] = (await client.post("/predict", json={"texts": [text]})).json()[0]["label"]
        before = await batches(client)
        end = time.perf_counter() + seconds

        async def keep_sending() -> None:
            nonlocal failed, mixed
            while (start := time.perf_counter()) < end:
                number = next(numbers)
                answer = await client.post("/predict", json={"texts": [texts[number]]})
                took.append(time.perf_counter() - start)
                if answer.status_code != 200:
                    failed += 1
                elif answer.json()[0]["label"] != expected[number]:
                    mixed += 1

        start = time.perf_counter()
        await asyncio.gather(*(keep_sending() for _ in range(clients)))
        passed = time.perf_counter() - start
        classified, made = (after - earlier for after, earlier in zip(await batches(client), before, strict=True))
    p50, p99 = np.percentile(took, [50, 99])
    return {
        "requests": len(took),
        "requests_per_second": round(len(took) / passed, 1),
        "p50_ms": round(1000 * float(p50), 1),
        "p99_ms": round(1000 * float(p99), 1),
        "failed": failed,
        "other_label_than_alone": mixed,
        "windows_per_batch": round(classified / made, 1),
    }


def main(
    model: str = "bundled",
    texts: str = str(ROOT / "sample" / "reviews"),
    count: int = 200,
    clients: str = "1,32",
    seconds: float = 20.0,
    out: str = "results/serve/load.json",
) -> None:
    """Load the server.

    Args:
        model: the folder of a run.
        texts: labelled texts with a test split, as in a recipe.
        count: different reviews, drawn at random.
        clients: numbers of connections that are kept busy, parted by commas.
        seconds: for each.
        out: the JSON file; a relative path starts at the repository.
    """
    rows = read_records(Source(path=texts), "test", ("text",))
    drawn = np.random.default_rng(0).choice(len(rows), min(count, len(rows)), replace=False)
    reviews = [rows[i].text for i in drawn]
    result: Json = {**described(), "transformers": version("transformers"), "model": model, "systems": {}}
    system: Literal["ours", "pipeline"]
    for system in ("ours", "pipeline"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(model, system, port))
        process.start()
        try:
            wait_for(port)
            found = {number: asyncio.run(load(port, reviews, int(number), seconds)) for number in clients.split(",")}
        finally:
            process.terminate()
            process.join()
        result["systems"][system] = found
        for number, figures in found.items():
            print(f"{system:10}{number:>4} clients: {figures}", flush=True)
    write(result, out)


def wait_for(port: int, seconds: float = 120.0) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/health").raise_for_status()
        except httpx2.TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
