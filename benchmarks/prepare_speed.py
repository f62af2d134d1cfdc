"""From text to a prepared corpus and on to batches: ours against the `tokenizers` library alone.

    python benchmarks/prepare_speed.py                                              (the bundled sample)
    python benchmarks/prepare_speed.py --texts /path/to/imdb --rounds 5

The contenders take turns on the same documents, on all cores, with the same vocabulary; a ratio is taken within a
round, and the table shows the median:

- `prepared`: `prepare_corpus`, all of it: it starts its workers, reads and unpacks the files, splits sentences, drops
  duplicates, tokenizes, and writes train.arrow and heldout.arrow. It runs in a fresh process, whose start is not timed.
- `tokenizers`: `encode_batch_fast` in one process and all its threads, on documents that are in memory already, in
  calls of 16 million characters; nothing is read, split or written.
- `reading`: one process that reads and unpacks the files and throws the documents away. With packed files (.xz) this
  part of `prepared` takes a core from the tokenizer.

Speed is in MB (10^6 bytes of UTF-8) of all documents a second. The vocabulary comes first, in a run of its own that
reads the text twice; its training is also timed alone, on as much text as a recipe takes by default (120 MB). Memory is
the most, over time, of the resident memory of the preparing process and its workers together (shared pages count in
each). Batches are then built, masked and cut in one thread from the prepared corpus, as the training loop does it: real
tokens a second, with planning, once per epoch, timed apart.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from jsonargparse import auto_cli

from bertwright.inputs.pretraining import PretrainStream
from bertwright.recipe import MaskingConfig, PretrainConfig, Source, TokenizerConfig
from bertwright.text.corpus import read_documents
from bertwright.text.prepare import prepare_corpus
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from common import Json, described, prepare_with_vocabulary, recipe_of, spread, write

ROOT = Path(__file__).resolve().parents[1]
CALL_CHARACTERS = 16_000_000
SAMPLE_EVERY = 0.1


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def with_peak(function: Callable[..., object], *arguments: object) -> tuple[object, float]:
    """What a function returns in a process of its own, and the peak MiB of that process and its children."""
    peak = 0
    over = threading.Event()

    def watch(child: psutil.Process) -> None:
        nonlocal peak
        while not over.wait(SAMPLE_EVERY):
            total = 0
            for process in (child, *child.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, total)

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        child = psutil.Process(pool.submit(os.getpid).result())
        watcher = threading.Thread(target=watch, args=(child,))
        watcher.start()
        try:
            result = pool.submit(function, *arguments).result()
        finally:
            over.set()
            watcher.join()
    return result, peak / 2**20


def learn(text: str, folder: Path) -> tuple[int, float]:
    """Prepare with a vocabulary of its own; returns its size and the seconds taken (of the size that worked)."""
    start = time.perf_counter()
    entries = prepare_with_vocabulary(text, folder)
    return entries, time.perf_counter() - start


def prepare(text: str, tokenizer: Path, folder: Path) -> float:
    """Prepare with a vocabulary that is there; returns the seconds taken."""
    recipe = recipe_of(text, TokenizerConfig(path=str(tokenizer)))
    return timed(prepare_corpus, recipe, folder, "benchmark")


def read(text: str) -> Iterator[str]:
    """The documents of a text."""
    return (document.text for document in read_documents(Source(path=text), None))


def exhaust(text: str) -> None:
    """Read and throw away."""
    for _ in read(text):
        pass


def encode(tokenizer: Tokenizer, documents: list[str]) -> None:
    """The library alone; a call holds no more than a few hundred megabytes of results."""
    begin = size = 0
    for i, document in enumerate(documents):
        size += len(document)
        if size >= CALL_CHARACTERS or i == len(documents) - 1:
            tokenizer.inner.encode_batch_fast(documents[begin : i + 1], add_special_tokens=False)
            begin, size = i + 1, 0


def vocabulary_sample(documents: list[str], megabytes: float) -> list[str]:
    """Documents up to a size, in pieces as `prepare_corpus` makes them."""
    pieces = [text[start : start + 50_000] for text in documents for start in range(0, len(text), 50_000)]
    ends = itertools.accumulate(map(len, pieces))
    return [piece for piece, end in zip(pieces, ends, strict=True) if end <= megabytes * 1e6] or pieces[:1]


def serve(prepared: Path, sequence_length: int, seconds: float) -> Json:
    """The rate at which batches come out of a prepared corpus, in one thread."""
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    corpus = PreparedCorpus(prepared / "train.arrow", tokenizer.fingerprint)
    config = PretrainConfig(max_steps=1)
    stream = PretrainStream(
        corpus,
        tokenizer,
        config.batch_tokens // sequence_length,
        MaskingConfig(),
        sequence_length=sequence_length,
        next_sentence=True,
        short_sequence_probability=config.short_sequence_probability,
        sources=None,
        seed=0,
    )
    plan_seconds = timed(stream.plan, 0)
    sequences = len(stream.plan(0))
    whole = max(1, sequences // stream.batch_size)  # batches of the first epoch: the plan is not made again
    stream.batch(0)
    tokens = computed = 0
    start = time.perf_counter()
    for number in itertools.count():
        for part in stream.batch(number % whole).cut(config.micro_batch_tokens):
            tokens += int(part.attention_mask.sum())
            computed += part.attention_mask.size
        if (took := time.perf_counter() - start) >= seconds:
            break
    return {
        "tokens_per_second": round(tokens / took),
        "real_token_ratio": round(tokens / computed, 3),
        "plan_seconds": round(plan_seconds, 3),
        "sequences": sequences,
    }


def measure(text: str, rounds: int, seconds: float, temporary: Path) -> Json:
    """All figures of a text."""
    prepared = temporary / "prepared"
    (entries, learnt), learning_peak = with_peak(learn, text, prepared)
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    documents = list(read(text))
    megabytes = sum(len(document.encode("utf-8", "replace")) for document in documents) / 1e6
    sample = vocabulary_sample(documents, TokenizerConfig().sample_megabytes)
    training = timed(Tokenizer.train, sample, TokenizerConfig(vocab_size=entries))
    print(f"{text}: {megabytes:.1f} MB in {len(documents)} documents, {entries} entries", flush=True)

    speed: dict[str, list[float]] = {"prepared": [], "tokenizers": [], "reading": []}
    peaks = []
    for turn in range(rounds):
        again = temporary / f"again-{turn}"
        took, peak = with_peak(prepare, text, prepared / "tokenizer", again)
        peaks.append(peak)
        speed["prepared"].append(megabytes / took)
        speed["tokenizers"].append(megabytes / timed(encode, tokenizer, documents))
        speed["reading"].append(megabytes / timed(exhaust, text))
        print(f"  round {turn + 1}: " + ", ".join(f"{k} {v[-1]:.2f} MB/s" for k, v in speed.items()), flush=True)
    del documents
    ratio = spread([a / b for a, b in zip(speed["prepared"], speed["tokenizers"], strict=True)])
    batches = {str(length): serve(temporary / "again-0", length, seconds) for length in (128, 512)}
    return {
        "megabytes": round(megabytes, 2),
        "vocabulary": {
            "entries": entries,
            "train_seconds": round(training, 2),
            "train_megabytes": round(sum(len(piece.encode("utf-8", "replace")) for piece in sample) / 1e6, 2),
            "prepare_seconds_with_vocabulary": round(learnt, 2),
            "peak_memory_mib": round(learning_peak),
        },
        "megabytes_per_second": {name: spread(values, 2) for name, values in speed.items()},
        "ratio": ratio["median"],
        "spread": ratio,
        "peak_memory_mib": round(max(peaks)),
        "batches": batches,
    }


def show(figures: Json) -> None:
    """The table of a text."""
    for name, values in figures["megabytes_per_second"].items():
        print(f"  {name:12}{values['median']:8.2f} MB/s  ({values['least']} to {values['greatest']})")
    ratio, learnt = figures["spread"], figures["vocabulary"]
    print(f"  prepared / tokenizers: {ratio['median']} ({ratio['least']} to {ratio['greatest']})")
    print(
        f"  peak memory: {figures['peak_memory_mib']} MiB; learning the vocabulary too: {learnt['peak_memory_mib']} MiB"
    )
    print(f"  vocabulary training: {learnt['train_seconds']} s for {learnt['train_megabytes']} MB")
    for length, batch in figures["batches"].items():
        print(
            f"  batches of length {length}: {batch['tokens_per_second']:,} real tokens/s; "
            f"an epoch of {batch['sequences']:,} sequences is planned in {batch['plan_seconds']} s"
        )


def main(
    texts: str = str(ROOT / "sample" / "books"),
    rounds: int = 5,
    seconds: float = 10.0,
    out: str = "results/speed/prepare-KIND.json",
) -> None:
    """Measure the preparation of text.

    Args:
        texts: files, folders or globs, as in a recipe, parted by commas.
        rounds: how often each contender has its turn.
        seconds: how long batches are served, for each sequence length.
        out: the JSON file; a relative path starts at the repository, and KIND becomes the kind of processor: amx.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    results = {}
    for text in texts.split(","):
        with TemporaryDirectory() as temporary:
            results[text] = measure(text, rounds, seconds, Path(temporary))
        show(results[text])
    write({**described(), "texts": results}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
