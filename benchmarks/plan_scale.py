"""Planning an epoch of a corpus of BookCorpus's size: time and peak memory of one process.

    python benchmarks/plan_scale.py

A synthetic corpus of 74 million sentences is written to a temporary folder (2.1 GB), with random token ids. BookCorpus
has one sentence a row on the hub, from which documents of 512 sentences are made, and 13 words a sentence. A second
corpus has the same number of sentences in documents of 8: short documents take more memory.

In each round a fresh process, which imports only what planning needs, opens the corpus and plans two epochs with
`PretrainStream.plan`. `seconds` is the fastest first epoch of all rounds. `peak_mib` is the largest peak of resident
memory (`ru_maxrss`) of all rounds, of the whole process: interpreter, libraries, plan, mapped pages.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import bertwright
from bertwright.files import write_json
from bertwright.inputs.next_sentence import BLOCK_SENTENCES
from bertwright.inputs.pretraining import PretrainStream
from bertwright.text.store import CorpusWriter, PreparedCorpus, TokenizedDocuments
from bertwright.text.wordpiece import Tokenizer

MEAN_TOKENS = 13
"""Of a synthetic sentence: BookCorpus has 985 million words in 74 million sentences."""

_WRITTEN_SENTENCES = 300_000
"""Sentences generated at a time."""


def bundled_tokenizer() -> Tokenizer:
    """A stream must have one; planning does not use it."""
    return Tokenizer.load(Path(bertwright.__file__).parent / "bundled" / "encoder")


def synthetic_documents(sentences: int, document_sentences: int, vocab_size: int) -> Iterator[TokenizedDocuments]:
    """Documents of `document_sentences` sentences each, the last one shorter; lengths follow a gamma distribution."""
    rng = np.random.default_rng(0)
    per_write = max(1, _WRITTEN_SENTENCES // document_sentences) * document_sentences
    for begin in range(0, sentences, per_write):
        count = min(per_write, sentences - begin)
        lengths = 1 + rng.gamma(2.0, (MEAN_TOKENS - 0.5) / 2, count).astype(np.int32)
        sizes = np.full(-(-count // document_sentences), document_sentences, np.int32)
        sizes[-1] = count - (len(sizes) - 1) * document_sentences
        yield TokenizedDocuments(rng.integers(5, vocab_size, lengths.sum(), np.uint16), lengths, sizes)


def write_corpus(folder: Path, sentences: int, document_sentences: int) -> None:
    """Write the synthetic corpus as a prepared corpus."""
    tokenizer = bundled_tokenizer()
    with CorpusWriter(folder / "train.arrow", tokenizer.vocab_size, tokenizer.fingerprint) as writer:
        for documents in synthetic_documents(sentences, document_sentences, tokenizer.vocab_size):
            writer.write("synthetic", documents)
    write_json(folder / "manifest.json", {"fingerprint": "synthetic"})


def measure(folder: str, sequence_length: int, next_sentence: bool, batch_size: int, seed: int) -> None:
    """Plan two epochs in this process and print the figures as JSON."""
    tokenizer = bundled_tokenizer()
    seconds = [time.perf_counter()]
    corpus = PreparedCorpus(Path(folder) / "train.arrow", tokenizer.fingerprint)
    stream = PretrainStream(
        corpus,
        tokenizer,
        batch_size,
        None,
        sequence_length=sequence_length,
        next_sentence=next_sentence,
        short_sequence_probability=0.1,
        sources=None,
        seed=seed,
    )
    peaks = []
    for epoch in range(2):
        sequences = len(stream.plan(epoch))  # a reference to the plan would keep it in memory
        seconds.append(time.perf_counter())
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
    print(
        json.dumps(
            {
                "sentences": corpus.num_sentences,
                "documents": corpus.num_documents,
                "tokens": corpus.num_tokens,
                "sequences": sequences,
                "seconds": np.diff(seconds).round(2).tolist(),
                "peak_mib": [round(peak) for peak in peaks],
            }
        )
    )


def measure_in_fresh_processes(
    rounds: int, sentences: int, document_sentences: int, temporary: str | None, *settings: Any
) -> dict[str, Any]:
    """Write a corpus and call `measure` in new interpreters; returns the fastest round and the largest peak."""
    with TemporaryDirectory(dir=temporary) as folder:
        write_corpus(Path(folder), sentences, document_sentences)
        program = f"import plan_scale; plan_scale.measure(*{(folder, *settings)!r})"
        found = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=Path(__file__).parent,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found.append(json.loads(done.stdout))
            print(found[-1], flush=True)
    epochs = [one["seconds"] for one in found]
    return {
        **found[0],
        "peak_mib": max(max(one["peak_mib"]) for one in found),
        "seconds": min(first for first, _ in epochs),
        "seconds_of_rounds": epochs,
    }


def main(
    sentences: int = 74_000_000,
    document_sentences: int = 512,
    short_document_sentences: int = 8,
    sequence_length: int = 128,
    next_sentence: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    rounds: int = 3,
    temporary: str | None = None,
    out: str = "results/scale/plan.json",
) -> None:
    """Measure planning at scale.

    Args:
        sentences: of the synthetic corpus.
        document_sentences: sentences per document.
        short_document_sentences: sentences per document of the second corpus.
        sequence_length: the most tokens in a sequence.
        next_sentence: whether sequences have a B.
        batch_size: sequences per batch; sequences are sorted by length within 32 batches.
        seed: of the recipe.
        rounds: processes that plan, one after another.
        temporary: where the corpora are written for the time of the run; None takes the system's folder.
        out: the JSON file; a relative path starts at the repository.
    """
    settings = (sequence_length, next_sentence, batch_size, seed)
    long = measure_in_fresh_processes(rounds, sentences, document_sentences, temporary, *settings)
    short = measure_in_fresh_processes(rounds, sentences, short_document_sentences, temporary, *settings)

    from common import described, write  # imports torch: only now, so that the processes above start from a small one

    environment = described()
    write(
        {
            **environment,
            "processor": environment["machine"],
            "settings": {
                "sequence_length": sequence_length,
                "next_sentence": next_sentence,
                "short_sequence_probability": 0.1,
                "batch_size": batch_size,
                "seed": seed,
                "document_sentences": document_sentences,
                "block_sentences": BLOCK_SENTENCES,
                "rounds": rounds,
            },
            **long,
            "short_documents": {"document_sentences": short_document_sentences, **short},
        },
        out,
    )


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
