"""What an exact search of many texts takes, and what a graph of near neighbours saves and misses.

    python benchmarks/search_speed.py --books '/path/to/books-*.jsonl.xz' --texts 500000

Texts are distinct paragraphs of books, with the vectors of the bundled encoder; queries are further paragraphs. Two
hybrid indexes hold the same texts, one of them with a graph (`bertwright search build --approximate`). Each query is
answered by both in turns, by vectors and as a hybrid, ten texts each, in one process after some for warmth. `recall_10`
is the part of the exact ten that the graph finds.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli

import bertwright
from bertwright.apps.search_index import Built, Entry, Part, SearchIndex, write_index
from bertwright.apps.search_texts import text_vectors
from common import Json, described, read_lines, spread, write

TOP = 10
SHORTEST = 40
"""Characters of a paragraph, so that it says something."""
CHUNK = 20_000
WARM = 5
"""Queries whose time does not count."""


def paragraphs(books: str, most: int) -> list[str]:
    """Distinct paragraphs of books, in order.

    Args:
        books: a pattern of .jsonl files, perhaps compressed, with a column `text`.
        most: how many.
    """
    found: dict[str, None] = {}
    for path in sorted(glob(books)):
        for book in read_lines(Path(path)):
            found.update(dict.fromkeys(one for one in book["text"].split("\n\n") if len(one) >= SHORTEST))
            if len(found) >= most:
                return list(found)[:most]
    raise SystemExit(f"{books} has {len(found):,} paragraphs, fewer than {most:,}")


def parts_of(texts: list[str], model: bertwright.Model) -> Iterator[Part]:
    """Texts with their vectors, a chunk after another."""
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        entries = [Entry("books", start + number + 1, text) for number, text in enumerate(chunk)]
        yield entries, text_vectors(model, chunk)[0]


def main(
    books: str,
    texts: int = 500_000,
    queries: int = 200,
    work: str = "runs/search-speed",
    out: str = "results/search/speed.json",
) -> None:
    """Build both indexes, and search them.

    Args:
        books: a pattern of .jsonl files, perhaps compressed, with a column `text`.
        texts: how many are searched.
        queries: how many are asked.
        work: a folder for the indexes, which are written anew.
        out: the JSON file; a relative path starts at the repository.
    """
    model, folder = bertwright.load(), Path(work)
    found = paragraphs(books, texts + queries)
    asked = found[:: len(found) // queries][:queries]
    left_out = set(asked)
    searched = [text for text in found if text not in left_out][:texts]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_index(folder / "exact", Built("bundled", "0", hybrid=True), parts_of(searched, model))
    start = time.perf_counter()
    graph_built = Built("bundled", "0", hybrid=True, approximate=True)
    write_index(folder / "graph", graph_built, SearchIndex(folder / "exact").parts())
    results: Json = {
        "texts": texts,
        "queries": queries,
        "top": TOP,
        "graph_index_seconds": round(time.perf_counter() - start, 1),
        "bytes": {file.name: file.stat().st_size for file in (folder / "graph").iterdir() if file.is_file()},
        "environment": described(),
    }
    indexes = {}
    for name in ("exact", "graph"):
        start = time.perf_counter()
        indexes[name] = SearchIndex(folder / name)
        results[f"{name}_open_seconds"] = round(time.perf_counter() - start, 2)
    vectors = text_vectors(model, asked)[0]
    rankings: tuple[Literal["vectors", "hybrid"], ...] = ("vectors", "hybrid")
    for by in rankings:
        milliseconds: dict[str, list[float]] = {name: [] for name in indexes}
        recalls = []
        for number, (text, vector) in enumerate(zip(asked, vectors, strict=True)):
            lines = {}
            for name, index in indexes.items():
                start = time.perf_counter()
                hits = index.rank(text, vector, TOP, by)
                milliseconds[name].append((time.perf_counter() - start) * 1e3)
                lines[name] = {hit.entry.line for hit in hits}
            if number >= WARM:
                recalls.append(len(lines["exact"] & lines["graph"]) / TOP)
        results[by] = {
            **{f"{name}_milliseconds": spread(own[WARM:], 2) for name, own in milliseconds.items()},
            "recall_10": round(statistics.mean(recalls), 4),
        }
        print(by, results[by], flush=True)
    write(results, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
