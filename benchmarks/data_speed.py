"""How preparation grows with the text: time and peak memory for 10, 100 and 360 MB of books.

    python benchmarks/data_speed.py --books '/path/to/books-*.jsonl.xz'

Each size is the first so many megabytes of the books, written out as JSON lines, then prepared from scratch in a fresh
process: vocabulary (30,522 entries, or the most that the text allows), sentences, token ids, Arrow files. Peak memory
is that of the process and its workers together. Batches are then served from what was prepared, as in prepare_speed.py,
which also holds the comparison with `tokenizers` alone. A size beyond the text is left out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from jsonargparse import auto_cli

from bertwright.recipe import Source
from bertwright.text.corpus import read_documents
from common import Json, described, write
from prepare_speed import learn, serve, with_peak


def first_megabytes(books: str, megabytes: float, target: Path) -> float:
    """Write documents up to a size as JSON lines; returns the megabytes written."""
    written = 0.0
    with target.open("w", encoding="utf-8") as file:
        for document in read_documents(Source(path=books), None):
            text = document.text
            size = len(text.encode("utf-8", "replace")) / 1e6
            if written + size > megabytes:  # part of a book, so that the size is met
                text = text[: round(len(text) * (megabytes - written) / size)]
                size = megabytes - written
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += size
            if written >= megabytes - 1e-6:
                break
    return written


def rows(books: str, sizes: tuple[float, ...], seconds: float) -> Iterator[tuple[str, Json]]:
    """The figures of each size."""
    for size in sizes:
        with TemporaryDirectory() as temporary:
            text = Path(temporary) / "books.jsonl"
            if first_megabytes(books, size, text) < 0.99 * size:
                print(f"{books} has less than {size:g} MB", flush=True)
                continue
            prepared = Path(temporary) / "prepared"
            (entries, took), peak = with_peak(learn, str(text), prepared)
            yield (
                f"{size:g}",
                {
                    "entries": entries,
                    "seconds": round(took, 1),
                    "megabytes_per_second": round(size / took, 2),
                    "peak_memory_mib": round(peak),
                    "batches": serve(prepared, 128, seconds),
                },
            )


def main(
    books: str,
    sizes: tuple[float, ...] = (10, 100, 360),
    seconds: float = 10.0,
    out: str = "results/speed/data-KIND.json",
) -> None:
    """Measure how preparation grows.

    Args:
        books: files, a folder or a glob, as in a recipe.
        sizes: megabytes of text.
        seconds: how long batches are served.
        out: the JSON file; a relative path starts at the repository, and KIND becomes the kind of processor: amx.
    """
    figures = {}
    print(f"{'MB':>6}{'seconds':>9}{'MB/s':>8}{'peak MiB':>10}{'batches, tokens/s':>20}")
    for size, row in rows(books, sizes, seconds):
        figures[size] = row
        print(
            f"{size:>6}{row['seconds']:9.1f}{row['megabytes_per_second']:8.2f}{row['peak_memory_mib']:10,}"
            f"{row['batches']['tokens_per_second']:20,}",
            flush=True,
        )
    write({**described(), "books": books, "sizes": figures}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
