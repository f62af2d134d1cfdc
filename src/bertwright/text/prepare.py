"""The prepare stage: corpora in, vocabulary and prepared corpus and data report out.

Documents stream through: this process reads them, workers split them into sentences and tokenize, and the results are
written in the order in which they were read. Memory holds a few megabytes of text per worker, whatever the corpus, and
70 to 90 bytes a document to recognize duplicates: about 12 MB for BookCorpus in 145,000 documents.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.errors import UserError
from bertwright.files import atomic_path, write_json
from bertwright.recipe import Recipe, fingerprint
from bertwright.text.corpus import Document, describe, parse_corpus_name, read_documents
from bertwright.text.sentences import split_sentences
from bertwright.text.store import CorpusWriter, TokenizedDocuments, token_dtype
from bertwright.text.wordpiece import Tokenizer

_BATCH_CHARACTERS = 1_000_000
"""Text handed to a worker at a time: long enough to make the hand-over cheap, short enough to keep all cores busy."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, characters of text done, documents done)."""


@dataclass
class SourceReport:
    """What was found in one corpus.

    Args:
        how: one sentence on how documents were made.
        left_out: documents that were not used, by reason.
        changed: documents that were used but not as they stand in the source, by what was done to them.
    """

    how: str = ""
    documents: int = 0
    sentences: int = 0
    words: int = 0
    tokens: int = 0
    empty_documents: int = 0
    duplicate_documents: int = 0
    one_sentence_documents: int = 0
    longest_document_tokens: int = 0
    unknown_tokens: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, with unknown tokens as a fraction of all."""
        plain: dict[str, Any] = {**vars(self), "left_out": dict(self.left_out), "changed": dict(self.changed)}
        plain["unknown_token_ratio"] = plain.pop("unknown_tokens") / max(1, self.tokens)
        return plain


def prepare_corpus(
    recipe: Recipe, folder: Path, inputs_fingerprint: str, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Train or load the vocabulary, and write tokenizer/, train.arrow, heldout.arrow and data_report.json.

    Args:
        recipe: names the corpora, the tokenizer and the held-out share.
        folder: written as a whole or not at all.
        inputs_fingerprint: of everything that went in; the corpus file's own content is hashed into its fingerprint.
        progress: told about every batch of documents.

    Returns:
        The data report.

    Raises:
        UserError: if a corpus can't be read, is empty, or is too small for the vocabulary or the held-out share.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        if recipe.tokenizer.path is not None:
            tokenizer = Tokenizer.load(Path(recipe.tokenizer.path), recipe.tokenizer)
        else:
            sample = _sample_texts(recipe, progress)
            progress(f"train a vocabulary of {recipe.tokenizer.vocab_size}", 0, 0)
            tokenizer = Tokenizer.train(sample, recipe.tokenizer)
        tokenizer.save(temporary / "tokenizer")
        report = _tokenize_all(recipe, tokenizer, temporary, inputs_fingerprint, progress)
    return report


def _documents(recipe: Recipe, corpus_name: str, changed: Counter[str]) -> Iterator[Document]:
    name, splits = parse_corpus_name(corpus_name)
    return read_documents(recipe.source(name), splits, changed)


def _sample_texts(recipe: Recipe, progress: Progress) -> list[str]:
    """Texts for the vocabulary: the documents with the smallest hashes, up to the sample size, from all corpora."""
    room = int(recipe.tokenizer.sample_megabytes * 1e6)
    kept: list[tuple[int, str]] = []  # a heap whose head has the largest hash
    size = characters = documents = 0
    for corpus_name in recipe.prepare.corpora:
        for document in _documents(recipe, corpus_name, Counter()):
            # A long document stands for as many short ones: pieces of it are sampled one by one.
            for start in range(0, len(document.text), 50_000):
                text = document.text[start : start + 50_000]
                digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
                heapq.heappush(kept, (-int.from_bytes(digest, "big"), text))
                size += len(text)
                while size > room:
                    size -= len(heapq.heappop(kept)[1])
            characters += len(document.text)
            documents += 1
            if documents % 500 == 0:
                progress("read for the vocabulary", characters, documents)
    return [text for _, text in kept]


@contextmanager
def _workers(number: int, tokenizer: Tokenizer) -> Iterator[ProcessPoolExecutor]:
    """Processes that tokenize; an interrupted run does not wait for what is still queued."""
    with ProcessPoolExecutor(
        number, get_context("spawn"), _start_worker, (tokenizer.to_json(), tokenizer.html_line_breaks)
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _tokenize_all(
    recipe: Recipe, tokenizer: Tokenizer, folder: Path, inputs_fingerprint: str, progress: Progress
) -> dict[str, Any]:
    reports = {name: SourceReport() for name in recipe.prepare.corpora}
    share = recipe.prepare.heldout_ratio
    # 8 bytes of a hash per document, which take 70 to 90 in a set: all that grows with the corpus.
    seen: set[bytes] = set()
    seen_held: set[bytes] = set()
    kept = characters = documents = 0

    def write(name: str, held: Sequence[bool], result: _Tokenized) -> None:
        report = reports[name]
        report.words += result.words
        report.unknown_tokens += result.unknown
        report.sentences += len(result.documents.sentence_lengths)
        report.tokens += len(result.documents.tokens)
        counts = result.documents.document_sentences
        without_tokens = int((counts == 0).sum())
        report.empty_documents += without_tokens
        if without_tokens:
            report.left_out["no token in it"] += without_tokens
        report.one_sentence_documents += int((counts == 1).sum())
        is_held = np.array(held, np.bool_)
        heldout.write(name, _select(result.documents, is_held))
        train.write(name, _select(result.documents, ~is_held))
        report.longest_document_tokens = max(report.longest_document_tokens, _longest(result.documents))

    workers = recipe.prepare.workers or os.cpu_count() or 1
    vocabulary = (tokenizer.vocab_size, tokenizer.fingerprint)
    with (
        CorpusWriter(folder / "train.arrow", *vocabulary) as train,
        CorpusWriter(folder / "heldout.arrow", *vocabulary) as heldout,
        _workers(workers, tokenizer) as pool,
    ):
        waiting: deque[tuple[str, list[bool], Future[_Tokenized]]] = deque()

        def submit(name: str, batch: list[Document], held: list[bool]) -> None:
            waiting.append((name, held, pool.submit(_tokenize, batch)))
            while len(waiting) > 3 * workers:
                done_name, done_held, future = waiting.popleft()
                write(done_name, done_held, future.result())

        for name in recipe.prepare.corpora:
            report = reports[name]
            report.how = describe(recipe.source(parse_corpus_name(name)[0]))
            batch: list[Document] = []
            held: list[bool] = []
            size = 0
            for document in _documents(recipe, name, report.changed):
                report.documents += 1
                documents += 1
                characters += len(document.text)
                digest = hashlib.blake2b(document.text.encode("utf-8", "replace"), digest_size=8).digest()
                if not document.text.strip():
                    report.empty_documents += 1
                    report.left_out["empty"] += 1
                    continue
                if digest in seen:
                    report.duplicate_documents += 1
                    if recipe.prepare.drop_duplicates:
                        report.left_out["repeats an earlier document to the letter"] += 1
                        continue
                # Evenly spread; a repeated document goes where the first one went.
                is_held = digest in seen_held or (
                    digest not in seen and int((kept + 1) * share + 0.5) > int(kept * share + 0.5)
                )
                seen.add(digest)
                if is_held:
                    seen_held.add(digest)
                batch.append(document)
                held.append(is_held)
                kept += 1
                size += len(document.text)
                if size >= _BATCH_CHARACTERS:
                    submit(name, batch, held)
                    batch, held, size = [], [], 0
                    progress("split and tokenize", characters, documents)
            submit(name, batch, held)
        while waiting:
            name, held, future = waiting.popleft()
            write(name, held, future.result())
        progress("split and tokenize", characters, documents)
    if train.documents == 0 or heldout.documents == 0:
        raise UserError(
            f"prepare.heldout_ratio {recipe.prepare.heldout_ratio:g} of {kept} documents leaves {train.documents} to "
            f"train on and {heldout.documents} held out; both need one: raise it, or add documents"
        )
    report_all = _data_report(reports, train, heldout)
    write_json(folder / "data_report.json", report_all)
    write_json(
        folder / "manifest.json",
        {
            "fingerprint": fingerprint(inputs_fingerprint, train.content_hash, heldout.content_hash),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "train": {"documents": train.documents, "tokens": train.tokens},
            "heldout": {"documents": heldout.documents, "tokens": heldout.tokens},
        },
    )
    return report_all


def _data_report(reports: dict[str, SourceReport], train: CorpusWriter, heldout: CorpusWriter) -> dict[str, Any]:
    total = SourceReport()
    for report in reports.values():
        for key, value in vars(report).items():
            if key == "longest_document_tokens":
                total.longest_document_tokens = max(total.longest_document_tokens, value)
            elif key in ("left_out", "changed"):
                getattr(total, key).update(value)
            elif key != "how":
                setattr(total, key, getattr(total, key) + value)
    warnings = []
    for name, report in reports.items():
        used = report.documents - sum(report.left_out.values())
        if report.one_sentence_documents > 0.1 * max(1, used):
            warnings.append(
                f"{name}: {report.one_sentence_documents} of {used} documents have a single sentence, which has no "
                "next one; they are cut in two for next-sentence prediction. If a blank line follows each sentence of "
                "your text, or each row is a sentence, set `rows: sentences`."
            )
        if report.duplicate_documents > 0.05 * max(1, report.documents):
            warnings.append(f"{name}: {report.duplicate_documents} of {report.documents} documents repeat another one.")
        if report.unknown_tokens > 0.005 * max(1, report.tokens):
            share = report.unknown_tokens / report.tokens
            warnings.append(f"{name}: {share:.1%} of the tokens are unknown to the vocabulary.")
    return {
        "sources": {name: report.as_dict() for name, report in reports.items()},
        "total": total.as_dict(),
        "train": {"documents": train.documents, "tokens": train.tokens},
        "heldout": {"documents": heldout.documents, "tokens": heldout.tokens},
        "warnings": warnings,
    }


@dataclass(frozen=True)
class _Tokenized:
    documents: TokenizedDocuments
    words: int
    unknown: int


_worker_tokenizer: Tokenizer


def _start_worker(tokenizer_json: str, html_line_breaks: bool) -> None:
    global _worker_tokenizer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a worker: the workers are the parallelism
    _worker_tokenizer = Tokenizer.from_json(tokenizer_json, html_line_breaks)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _tokenize(batch: list[Document]) -> _Tokenized:
    sentences: list[str] = []
    per_document = []
    for document in batch:
        found = (
            document.text.splitlines()
            if document.presplit
            else split_sentences(document.text, _worker_tokenizer.html_line_breaks)
        )
        sentences.extend(found)
        per_document.append(len(found))
    ids = _worker_tokenizer.encode(sentences)
    lengths = np.fromiter((len(sentence) for sentence in ids), np.int32, len(ids))
    dtype = token_dtype(_worker_tokenizer.vocab_size)
    tokens = np.concatenate([np.zeros(0, np.int32), *ids]).astype(dtype)
    owner = np.repeat(np.arange(len(batch)), per_document)
    documents = TokenizedDocuments(
        tokens, lengths[lengths > 0], np.bincount(owner[lengths > 0], minlength=len(batch)).astype(np.int32)
    )
    words = sum(len(document.text.split()) for document in batch)
    return _Tokenized(documents, words, int((tokens == _worker_tokenizer.unk_id).sum()))


def _select(documents: TokenizedDocuments, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> TokenizedDocuments:
    """The wanted documents that have a token at all."""
    wanted = wanted & (documents.document_sentences > 0)
    sentence_wanted = np.repeat(wanted, documents.document_sentences)
    return TokenizedDocuments(
        documents.tokens[np.repeat(sentence_wanted, documents.sentence_lengths)],
        documents.sentence_lengths[sentence_wanted],
        documents.document_sentences[wanted],
    )


def _longest(documents: TokenizedDocuments) -> int:
    owner = np.repeat(np.arange(len(documents.document_sentences)), documents.document_sentences)
    sizes = np.bincount(owner, weights=documents.sentence_lengths, minlength=1)
    return int(sizes.max())
