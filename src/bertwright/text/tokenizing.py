"""Worker processes that split documents into sentences and tokenize them.

They are spawned, so that they work alike on every system. A spawned process would first run the main script again, for
what is defined there; ours need nothing of it, and are started without: a script may prepare a corpus at its top level.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

import numpy as np

from bertwright.errors import UserError
from bertwright.text.byte_bpe import SpecialTokens
from bertwright.text.characters import CharacterCheck
from bertwright.text.corpus import Document
from bertwright.text.data_report import TokenizedBatch
from bertwright.text.sentences import split_lines, split_sentences
from bertwright.text.store import TokenizedDocuments, token_dtype
from bertwright.text.wordpiece import Tokenizer


class _WithoutMain(SpawnProcess):
    """A spawned process that does not run the main script."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # of no file, so that there is nothing to run
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _WithoutMain


def own_cores() -> int:
    """The cores that this process may use, which in a container or a batch job are not all of the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 61) if sys.platform == "win32" else cores  # more workers a pool cannot have there


@contextmanager
def workers(number: int, tokenizer: Tokenizer) -> Iterator[ProcessPoolExecutor]:
    """Processes that tokenize; an interrupted run does not wait for what is still queued.

    Args:
        number: of processes.
        tokenizer: of all of them.

    Raises:
        UserError: if a process ends before its work is done.
    """
    with ProcessPoolExecutor(
        number, _Context(), _start_worker, (tokenizer.to_json(), tokenizer.html_line_breaks, tokenizer.special)
    ) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                "a process that tokenizes was ended from outside, perhaps for want of memory; set prepare.workers to "
                "a smaller number"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker_tokenizer: Tokenizer
_worker_check: CharacterCheck


def _start_worker(tokenizer_json: str, html_line_breaks: bool, special: SpecialTokens) -> None:
    global _worker_tokenizer, _worker_check
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a worker: the workers are the parallelism
    _worker_tokenizer = Tokenizer.from_json(tokenizer_json, html_line_breaks, special)
    _worker_check = CharacterCheck(_worker_tokenizer.encoder)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def tokenize(batch: Sequence[Document]) -> TokenizedBatch:
    """Documents as token ids, with what is lost of them. Runs in a worker."""
    sentences: list[str] = []
    per_document = []
    for document in batch:
        breaks = _worker_tokenizer.html_line_breaks
        found = split_lines(document.text, breaks) if document.presplit else split_sentences(document.text, breaks)
        sentences.extend(found)
        per_document.append(len(found))
    ids = _worker_tokenizer.encode(_worker_tokenizer.spaced(sentences, per_document))
    lengths = np.fromiter((len(sentence) for sentence in ids), np.int32, len(ids))
    dtype = token_dtype(_worker_tokenizer.vocab_size)
    tokens = np.concatenate([np.zeros(0, np.int32), *ids]).astype(dtype)
    owner = np.repeat(np.arange(len(batch)), per_document)
    documents = TokenizedDocuments(
        tokens, lengths[lengths > 0], np.bincount(owner[lengths > 0], minlength=len(batch)).astype(np.int32)
    )
    words = sum(len(document.text.split()) for document in batch)
    lost = _worker_check.count("\n".join(document.text for document in batch))
    characters = np.array([len(document.text) for document in batch], np.int64)
    lost.characters = int(characters.sum())
    unknown = int((tokens == _worker_tokenizer.unk_id).sum())
    return TokenizedBatch(documents, words, unknown, lost, tuple(document.where for document in batch), characters)
