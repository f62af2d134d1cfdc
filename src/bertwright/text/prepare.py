"""The prepare stage: corpora in, vocabulary and prepared corpus and data report out.

Documents stream through: this process reads them, workers split them into sentences and tokenize, and the results are
written in the order in which they were read. Memory holds a few megabytes of text per worker, whatever the corpus, and
70 to 90 bytes a document to recognize duplicates: about 12 MB for BookCorpus in 145,000 documents.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.errors import UserError
from bertwright.files import atomic_path, user_path, write_json
from bertwright.recipe import Recipe, fingerprint
from bertwright.settings import TokenizerConfig
from bertwright.text.corpus import Document, describe, parse_corpus_name, read_documents
from bertwright.text.data_report import SourceReport, TokenizedBatch, check_known, data_report
from bertwright.text.holdout import digest, exact_digest
from bertwright.text.lone_text import HOW, cut, is_one_file
from bertwright.text.new_words import with_new_words
from bertwright.text.overlap import LEFT_OUT, fingerprint_of, without_lines
from bertwright.text.store import CorpusWriter, TokenizedDocuments
from bertwright.text.tokenizing import own_cores, tokenize, workers
from bertwright.text.wordpiece import Tokenizer

_BATCH_CHARACTERS = 1_000_000
"""Text handed to a worker at a time: long enough to make the hand-over cheap, short enough to keep all cores busy."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, characters of text done, documents done)."""


def prepare_corpus(
    recipe: Recipe,
    folder: Path,
    inputs_fingerprint: str,
    progress: Progress = lambda *_: None,
    evaluated: Collection[bytes] = frozenset(),
) -> dict[str, Any]:
    """Train or load the vocabulary, and write tokenizer/, train.arrow, heldout.arrow and data_report.json.

    Args:
        recipe: names the corpora, the tokenizer and the held-out share.
        folder: written as a whole or not at all.
        inputs_fingerprint: of everything that went in; the corpus file's own content is hashed into its fingerprint.
        progress: told about every batch of documents.
        evaluated: digests of texts that are evaluated on; documents that are equal to one are left out.

    Returns:
        The data report.

    Raises:
        UserError: if a corpus can't be read, is empty, or is too small for the vocabulary or the held-out share; or if
            a given vocabulary does not know the words of one.
    """
    notices: list[str] = []
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        division = _divide(recipe, notices, evaluated)
        if recipe.tokenizer.path is not None:
            tokenizer = Tokenizer.load(user_path(recipe.tokenizer.path), recipe.tokenizer, notices.append)
            notices += _without_effect(recipe.tokenizer, tokenizer)
            if recipe.tokenizer.new_words:
                sample = _sample_texts(recipe, progress, evaluated, recipe.pretrain.corpora)
                progress(f"find {recipe.tokenizer.new_words} new words", 0, 0)
                tokenizer = with_new_words(tokenizer, sample, recipe.tokenizer.new_words, notices.append)
        else:
            sample = _sample_texts(recipe, progress, evaluated)
            progress(f"train a vocabulary of {recipe.tokenizer.vocab_size}", 0, 0)
            tokenizer = Tokenizer.train(sample, recipe.tokenizer, notices.append)
        tokenizer.save(temporary / "tokenizer")
        report = _tokenize_all(recipe, tokenizer, temporary, inputs_fingerprint, progress, division, notices)
    return report


def _without_effect(config: TokenizerConfig, given: Tokenizer) -> list[str]:
    """That settings were given which a tokenizer that exists does not follow."""
    of_training = ["type", "vocab_size", "limit_alphabet", "min_frequency"]
    of_training += [] if config.new_words else ["sample_megabytes"]  # new words are found in the sample
    default = TokenizerConfig()
    names = [name for name in of_training if getattr(config, name) != getattr(default, name)]
    if not given.is_bytes:
        lowercase, strips, _ = given.normalization
        names += ["lowercase"] if lowercase and not config.lowercase else []
        strips = lowercase if strips is None else strips
        names += ["strip_accents"] if config.strip_accents not in (None, strips) else []
    said = ", ".join(f"tokenizer.{name} {str(getattr(config, name)).lower()}" for name in names)
    used = f"the tokenizer of {config.path} is used, with its {given.vocab_size:,} entries"
    return [f"{used}; without effect: {said}"] if names else []


def _says_how_to_read(recipe: Recipe) -> bool:
    """Whether a given vocabulary says what becomes of case and accents, as all do but a vocab.txt by itself."""
    if recipe.tokenizer.path is None:
        return False
    place = user_path(recipe.tokenizer.path)
    folder = place if place.is_dir() else place.parent
    names = ("tokenizer.json", "tokenizer_config.json")
    return place.suffix == ".json" or any((folder / name).exists() for name in names)


def _documents(
    recipe: Recipe, corpus_name: str, changed: Counter[str], evaluated: Collection[bytes]
) -> Iterator[Document]:
    name, splits = parse_corpus_name(corpus_name)
    return without_lines(read_documents(recipe.source(name), splits, changed), evaluated, changed)


@dataclass(frozen=True)
class _Division:
    """How the documents of the corpora are divided.

    Args:
        is_cut: whether the corpora are a single text, which is cut into documents.
        heldout_ratio: the recipe's, or more where that of a few documents is none.
        evaluated: digests of texts that are evaluated on.
    """

    is_cut: bool
    heldout_ratio: float
    evaluated: Collection[bytes]

    def documents(self, recipe: Recipe, corpus_name: str, changed: Counter[str]) -> Iterator[Document]:
        """The documents of a corpus."""
        found = _documents(recipe, corpus_name, changed, self.evaluated)
        return cut(found, recipe.tokenizer.html_line_breaks) if self.is_cut else found


def _divide(recipe: Recipe, notices: list[str], evaluated: Collection[bytes]) -> _Division:
    """Read the corpora up to the first document that is held out, to see that there is one.

    Raises:
        UserError: if there are not two documents.
    """
    wanted = recipe.prepare.heldout_ratio
    kept = 0
    for is_cut in (False, True) if not is_one_file(recipe) else (True,):
        division = _Division(is_cut, wanted, evaluated)
        choice = _Choice(wanted, recipe.prepare.drop_duplicates, evaluated)
        enough = int(0.5 / wanted) + 2
        for name in recipe.prepare.corpora:
            for document in division.documents(recipe, name, Counter()):
                choice.use(document, SourceReport())
                if choice.kept >= enough:
                    break
        kept = choice.kept
        if kept != 1:
            break
    if kept < 2:
        raise UserError(
            f"the corpora ({', '.join(recipe.prepare.corpora)}) hold {'a single sentence' if kept else 'no text'}; "
            "pre-training needs at least two documents, one to train on and one held out: add text"
        )
    if is_cut:
        notices.append(
            f"the corpus is a single text, which is cut into documents: {HOW}; if it holds several texts, give each "
            "its own file or row"
        )
    if kept < enough and int(kept * wanted + 0.5) == 0:
        notices.append(f"prepare.heldout_ratio {wanted:g} of {kept} documents is none; one is held out")
        return replace(division, heldout_ratio=1 / kept)
    return division


def _sample_texts(
    recipe: Recipe, progress: Progress, evaluated: Collection[bytes], corpora: Sequence[str] | None = None
) -> list[str]:
    """Texts for the vocabulary: documents with the smallest hashes, up to the sample size, of all corpora or some."""
    room = int(recipe.tokenizer.sample_megabytes * 1e6)
    kept: list[tuple[int, str]] = []  # a heap whose head has the largest hash
    size = characters = documents = 0
    for corpus_name in recipe.prepare.corpora if corpora is None else corpora:
        for document in _documents(recipe, corpus_name, Counter(), evaluated):
            if evaluated and digest(document.text) in evaluated:
                continue
            # A long document stands for as many short ones: pieces of it are sampled one by one.
            for start in range(0, len(document.text), 50_000):
                text = document.text[start : start + 50_000]
                key = exact_digest(text)
                heapq.heappush(kept, (-int.from_bytes(key, "big"), text))
                size += len(text)
                while size > room:
                    size -= len(heapq.heappop(kept)[1])
            characters += len(document.text)
            documents += 1
            if documents % 500 == 0:
                progress("read for the vocabulary", characters, documents)
    return [text for _, text in kept]


def _tokenize_all(
    recipe: Recipe,
    tokenizer: Tokenizer,
    folder: Path,
    inputs_fingerprint: str,
    progress: Progress,
    division: _Division,
    notices: list[str],
) -> dict[str, Any]:
    reports = {name: SourceReport() for name in recipe.prepare.corpora}
    choice = _Choice(division.heldout_ratio, recipe.prepare.drop_duplicates, division.evaluated)
    processes = recipe.prepare.workers or own_cores()
    vocabulary = (tokenizer.vocab_size, tokenizer.fingerprint)
    waiting: deque[tuple[str, list[bool], Future[TokenizedBatch]]] = deque()
    with (
        CorpusWriter(folder / "train.arrow", *vocabulary) as train,
        CorpusWriter(folder / "heldout.arrow", *vocabulary) as heldout,
        workers(processes, tokenizer) as pool,
    ):

        def write(number: int) -> None:
            """Write what the workers made, in order, until only some batches wait."""
            while len(waiting) > number:
                name, held, future = waiting.popleft()
                result, is_held = future.result(), np.array(held, np.bool_)
                reports[name].add(result, is_held)
                heldout.write(name, _select(result.documents, is_held))
                train.write(name, _select(result.documents, ~is_held))

        for name, report in reports.items():
            source = recipe.source(parse_corpus_name(name)[0])
            report.how = f"{source.path} is cut into documents: {HOW}." if division.is_cut else describe(source)
            for batch, held in _batches(division.documents(recipe, name, report.changed), report, choice):
                waiting.append((name, held, pool.submit(tokenize, batch)))
                write(3 * processes)
                progress("split and tokenize", choice.characters, choice.documents)
        write(0)
    if train.documents == 0 or heldout.documents == 0:
        raise UserError(
            f"of {choice.kept} documents, {train.documents} to train on and {heldout.documents} held out have a token; "
            "both need one: add documents"
        )
    if recipe.tokenizer.path is not None:
        check_known(recipe, reports)
    report_all = data_report(reports, train, heldout, notices, recipe.prepare.heldout_ratio, _says_how_to_read(recipe))
    report_all["overlap"] = {
        "evaluated": fingerprint_of(division.evaluated),
        "documents_left_out": sum(report.left_out[LEFT_OUT] for report in reports.values()),
    }
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


class _Choice:
    """Which documents are used, and which of them are held out.

    It keeps 8 bytes of a hash per document, which take 70 to 90 in a set: all that grows with the corpus.
    """

    def __init__(self, heldout_ratio: float, drop_duplicates: bool, evaluated: Collection[bytes]) -> None:
        self.documents = self.characters = 0
        self.kept = 0
        self._ratio = heldout_ratio
        self._drop_duplicates = drop_duplicates
        self._evaluated = evaluated
        self._seen: set[bytes] = set()
        self._held: set[bytes] = set()

    def use(self, document: Document, report: SourceReport) -> bool | None:
        """Whether a document is held out; None if it is left out, which is counted with its reason."""
        self.documents += 1
        self.characters += len(document.text)
        report.documents += 1
        if not document.text.strip():
            report.empty_documents += 1
            report.leave_out("empty", document.where)
            return None
        if self._evaluated and digest(document.text) in self._evaluated:
            report.leave_out(LEFT_OUT, document.where)
            return None
        key = exact_digest(document.text)
        known = key in self._seen
        if known:
            report.duplicate_documents += 1
            if self._drop_duplicates:
                report.leave_out("repeats an earlier document to the letter", document.where)
                return None
        # Evenly spread; a repeated document goes where the first one went.
        due = int((self.kept + 1) * self._ratio + 0.5) > int(self.kept * self._ratio + 0.5)
        held = key in self._held or (not known and due)
        self._seen.add(key)
        if held:
            self._held.add(key)
        self.kept += 1
        return held


def _batches(
    documents: Iterator[Document], report: SourceReport, choice: _Choice
) -> Iterator[tuple[list[Document], list[bool]]]:
    """Documents to use, a million characters at a time, and which of them are held out; the last batch may be empty."""
    batch: list[Document] = []
    held: list[bool] = []
    size = 0
    for document in documents:
        is_held = choice.use(document, report)
        if is_held is None:
            continue
        batch.append(document)
        held.append(is_held)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch, held
            batch, held, size = [], [], 0
    yield batch, held


def _select(documents: TokenizedDocuments, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> TokenizedDocuments:
    """The wanted documents that have a token at all."""
    wanted = wanted & (documents.document_sentences > 0)
    sentence_wanted = np.repeat(wanted, documents.document_sentences)
    return TokenizedDocuments(
        documents.tokens[np.repeat(sentence_wanted, documents.sentence_lengths)],
        documents.sentence_lengths[sentence_wanted],
        documents.document_sentences[wanted],
    )
