"""Sentence splitters side by side: speed, and agreement of their boundaries with ours.

    python benchmarks/sentence_speed.py /path/to/data        (needs: pip install sentencex blingfire syntok pysbd)

Each splitter gets the same paragraphs, on one core. There is no gold standard for this text; agreement is the F1 of
boundaries (offsets in the text without white space) between two splitters. Slow splitters get a part of the text.
"""

import json
import lzma
import platform
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import blingfire
import pysbd
import sentencex
import syntok.segmenter

from bertwright.text.sentences import split_sentences

MEGABYTES = 3.0
_pysbd = pysbd.Segmenter("en", clean=False)
SPLITTERS: dict[str, tuple[Callable[[str], Iterable[str]], float]] = {
    "bertwright": (split_sentences, MEGABYTES),
    "sentencex": (lambda text: sentencex.segment("en", text), MEGABYTES),
    "blingfire": (lambda text: blingfire.text_to_sentences(text).split("\n"), MEGABYTES),
    "syntok": (
        lambda text: ["".join(map(str, words)) for part in syntok.segmenter.process(text) for words in part],
        0.3,
    ),
    "pysbd": (_pysbd.segment, 0.1),
}


def paragraphs(files: Iterable[Path], megabytes: float) -> list[str]:
    """The first paragraphs of some files, alike for all splitters: line breaks and tags are no test of a splitter."""
    found: list[str] = []
    for file in files:
        size = 0
        with lzma.open(file, "rt", encoding="utf-8") as rows:
            for row in rows:
                for line in json.loads(row)["text"].replace("<br />", "\n").splitlines():
                    if line.strip() and size < megabytes * 1e6:
                        found.append(line.strip())
                        size += len(line.encode())
                if size >= megabytes * 1e6:
                    break
    return found


def boundaries(texts: list[str], split: Callable[[str], Iterable[str]]) -> set[tuple[int, int]]:
    """Where sentences end inside paragraphs, in characters other than white space."""
    found = set()
    for index, text in enumerate(texts):
        ends = list(accumulate(len("".join(sentence.split())) for sentence in split(text)))
        found |= {(index, end) for end in ends if 0 < end < ends[-1]}
    return found


def main(data: Path) -> None:
    """Prints the table and writes results/speed/sentences.json."""
    table = []
    for corpus, file in (("imdb", "imdb/train.jsonl.xz"), ("books", "books/books-03.jsonl.xz")):
        for name, (split, megabytes) in SPLITTERS.items():
            texts = paragraphs([data / file], megabytes)
            size = sum(len(text.encode()) for text in texts) / 1e6
            seconds = []
            for _ in range(3 if megabytes == MEGABYTES else 1):
                start = time.perf_counter()
                count = sum(len(list(split(text))) for text in texts)
                seconds.append(time.perf_counter() - start)
            row = {"corpus": corpus, "splitter": name, "sentences_per_kB": round(count / size / 1e3, 2)}
            row["MB_per_s"] = round(size / min(seconds), 2)
            mine = boundaries(texts, split)
            for other in ("bertwright", "sentencex", "blingfire"):
                theirs = boundaries(texts, SPLITTERS[other][0])
                row[f"F1_{other}"] = round(2 * len(mine & theirs) / (len(mine) + len(theirs)), 4)
            table.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    names = ("sentencex", "blingfire", "syntok", "pysbd")
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "megabytes": {name: megabytes for name, (_, megabytes) in SPLITTERS.items()},
        "table": table,
    }
    target = Path(__file__).resolve().parents[1] / "results" / "speed" / "sentences.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
