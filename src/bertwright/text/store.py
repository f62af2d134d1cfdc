"""The prepared corpus: token ids of all documents in two Arrow files, written once and memory-mapped by every reader.

A row is a document: its source, its token ids and the lengths of its sentences. pandas and DuckDB open the files
directly. Training slices its batches from the mapped buffers, without a Python object per token. A reader holds views
of the mapping, a few kilobytes per record batch; arrays with an entry per sentence are built only on request.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.files import read_json

CHUNK_TOKENS = 4_000_000
"""Tokens after which a record batch is written: memory while writing stays at a few times this."""

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class TokenizedDocuments:
    """A few documents as token ids.

    Args:
        tokens: ids of all documents end to end, uint16 or int32 (tokens,).
        sentence_lengths: tokens of each sentence, none of them 0, int32 (sentences,).
        document_sentences: sentences of each document, int32 (documents,).
    """

    tokens: Array
    sentence_lengths: npt.NDArray[np.int32]
    document_sentences: npt.NDArray[np.int32]


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """The narrowest type that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


class CorpusWriter:
    """Writes documents to an Arrow file, a record batch at a time.

    Args:
        path: the file to write.
        vocab_size: entries of the vocabulary, which decides the type of the ids.
        tokenizer_fingerprint: stored in the file, so that readers can refuse another tokenizer.
    """

    def __init__(self, path: Path, vocab_size: int, tokenizer_fingerprint: str) -> None:
        self._dtype = token_dtype(vocab_size)
        self._schema = pa.schema(
            [
                ("source", pa.string()),
                ("input_ids", pa.large_list(pa.from_numpy_dtype(self._dtype))),
                ("sentence_lengths", pa.large_list(pa.int32())),
            ],
            metadata={"tokenizer_fingerprint": tokenizer_fingerprint, "vocab_size": str(vocab_size)},
        )
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._pending: list[tuple[str, TokenizedDocuments]] = []
        self._hash = hashlib.sha256()
        self.documents = 0
        self.tokens = 0
        self._pending_tokens = 0

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, source: str, documents: TokenizedDocuments) -> None:
        """Append documents of one source."""
        if len(documents.document_sentences) == 0:
            return
        self._pending.append((source, documents))
        self._pending_tokens += len(documents.tokens)
        self.documents += len(documents.document_sentences)
        self.tokens += len(documents.tokens)
        if self._pending_tokens >= CHUNK_TOKENS:
            self._flush()

    @property
    def content_hash(self) -> str:
        """A short hash of everything flushed so far; after the `with` block, of the whole file."""
        return self._hash.hexdigest()[:16]

    def _flush(self) -> None:
        if not self._pending:
            return
        parts = [documents for _, documents in self._pending]
        tokens = np.concatenate([part.tokens for part in parts]).astype(self._dtype, copy=False)
        lengths = np.concatenate([part.sentence_lengths for part in parts])
        counts = np.concatenate([part.document_sentences for part in parts])
        sources = [name for name, part in self._pending for _ in part.document_sentences]
        sentence_offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        token_offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[sentence_offsets]
        self._hash.update(tokens.tobytes())
        self._hash.update(lengths.tobytes())
        self._hash.update(counts.tobytes())
        self._writer.write_batch(
            pa.record_batch(
                [
                    pa.array(sources, pa.string()),
                    pa.LargeListArray.from_arrays(pa.array(token_offsets), pa.array(tokens)),
                    pa.LargeListArray.from_arrays(pa.array(sentence_offsets), pa.array(lengths)),
                ],
                schema=self._schema,
            )
        )
        self._pending = []
        self._pending_tokens = 0


@dataclass(frozen=True)
class Sentences:
    """Where the sentences of some documents are.

    Args:
        lengths: tokens of each sentence, document after document, int32 (sentences,).
        counts: sentences of each document, int64 (documents,).
        starts: position in the corpus of each document's first token, int64 (documents,).
    """

    lengths: npt.NDArray[np.int32]
    counts: Ints
    starts: Ints


@dataclass(frozen=True)
class _Chunk:
    """Views of one record batch. Offsets count from 0 in each batch, one more than there are documents."""

    tokens: Array
    token_offsets: Ints
    lengths: npt.NDArray[np.int32]
    sentence_offsets: Ints
    sources: pa.StringArray

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> _Chunk:
        ids, lengths = batch.column("input_ids"), batch.column("sentence_lengths")
        return cls(
            tokens=ids.values.to_numpy(zero_copy_only=True),
            token_offsets=ids.offsets.to_numpy(zero_copy_only=True),
            lengths=lengths.values.to_numpy(zero_copy_only=True),
            sentence_offsets=lengths.offsets.to_numpy(zero_copy_only=True),
            sources=batch.column("source"),
        )


class PreparedCorpus:
    """One memory-mapped Arrow file of documents.

    Token positions count through the whole file: document after document, sentence after sentence. Properties with an
    entry per sentence or document build their array at each access.

    Args:
        path: train.arrow or heldout.arrow of a prepared corpus, with its manifest.json in the same folder.
        tokenizer_fingerprint: of the tokenizer that the reader is going to use.

    Attributes:
        fingerprint: of the corpus and the part of it that this file holds.
        num_documents: documents in the file.
        num_sentences: sentences in the file.
        num_tokens: tokens in the file, without special ones: these are added when sequences are built.

    Raises:
        UserError: if the file is missing, broken, or was written with another tokenizer.
    """

    def __init__(self, path: Path, tokenizer_fingerprint: str) -> None:
        if not path.exists():
            raise UserError(f"there is no prepared corpus at {path}; run `bertwright prepare` first")
        try:
            with path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(self._mapping))
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (ValueError, OSError) as error:  # Arrow's own error is a ValueError
            raise UserError(
                f"{path} is not a whole Arrow file; remove its folder and run `bertwright prepare`"
            ) from error
        stored = (reader.schema.metadata or {}).get(b"tokenizer_fingerprint", b"").decode()
        if stored != tokenizer_fingerprint:
            raise UserError(
                f"{path} was prepared with another tokenizer (its fingerprint is {stored}, this one's is "
                f"{tokenizer_fingerprint}); run `bertwright prepare` again"
            )
        manifest = path.with_name("manifest.json")
        try:
            self.fingerprint: str = read_json(manifest)["fingerprint"] + path.stem
        except (UserError, KeyError, TypeError) as error:
            raise UserError(
                f"{manifest} is missing or broken; remove its folder and run `bertwright prepare`"
            ) from error
        self._chunks = [_Chunk.of(batch) for batch in batches]
        # Each chunk's first document and first token, and at the end their numbers: (chunks + 1,)
        self._first_document = _starts(len(chunk.sources) for chunk in self._chunks)
        self._first_token = _starts(len(chunk.tokens) for chunk in self._chunks)
        self.num_documents = int(self._first_document[-1])
        self.num_sentences = sum(len(chunk.lengths) for chunk in self._chunks)
        self.num_tokens = int(self._first_token[-1])

    def spans(self, starts: Ints, lengths: npt.NDArray[np.signedinteger]) -> list[Array]:
        """Views of the tokens [start, start + length) for each pair; a span must lie within one document."""
        chunks = np.searchsorted(self._first_token, starts, side="right") - 1
        chunks = np.minimum(chunks, len(self._chunks) - 1)
        local = starts - self._first_token[chunks]
        return [
            self._chunks[chunk].tokens[start : start + length]
            for chunk, start, length in zip(chunks.tolist(), local.tolist(), lengths.tolist(), strict=True)
        ]

    def sentences(self, documents: npt.NDArray[np.signedinteger]) -> Sentences:
        """The sentences of some documents, copied: 4 bytes a sentence and 16 a document.

        Args:
            documents: their numbers, ascending, (documents,).
        """
        lengths, counts, starts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        bounds = np.searchsorted(documents, self._first_document)
        for number, chunk in enumerate(self._read()):
            local = documents[bounds[number] : bounds[number + 1]] - self._first_document[number]
            first = chunk.sentence_offsets[local]
            counts.append(chunk.sentence_offsets[local + 1] - first)
            starts.append(chunk.token_offsets[local] + self._first_token[number])
            lengths.append(chunk.lengths[ranges(first, counts[-1])])
        return Sentences(np.concatenate(lengths), np.concatenate(counts), np.concatenate(starts))

    def _read(self) -> Iterator[_Chunk]:
        """The chunks one after another.

        Pages of the file that were read are given back to the system, which keeps them in its cache. They would count
        as memory of each process.
        """
        for chunk in self._chunks:
            yield chunk
            if hasattr(mmap, "MADV_DONTNEED"):
                self._mapping.madvise(mmap.MADV_DONTNEED)

    @property
    def sentence_counts(self) -> npt.NDArray[np.int32]:
        """Sentences of each document, int32 (documents,)."""
        counts = [np.diff(chunk.sentence_offsets).astype(np.int32) for chunk in self._read()]
        return np.concatenate([np.zeros(0, np.int32), *counts])

    @property
    def sentence_lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each sentence, int32 (sentences,)."""
        return np.concatenate([np.zeros(0, np.int32), *(chunk.lengths for chunk in self._chunks)])

    @property
    def sentence_starts(self) -> Ints:
        """Position of each sentence's first token, and at the end the number of tokens, int64 (sentences + 1,)."""
        return _starts(self.sentence_lengths)

    @property
    def document_offsets(self) -> Ints:
        """Number of each document's first sentence, and at the end of all sentences, int64 (documents + 1,)."""
        return _starts(self.sentence_counts)

    @property
    def document_starts(self) -> Ints:
        """Position of each document's first token, and at the end the number of tokens, int64 (documents + 1,)."""
        starts = [chunk.token_offsets[:-1] + self._first_token[i] for i, chunk in enumerate(self._read())]
        return np.concatenate([*starts, self._first_token[-1:]])

    @property
    def document_sources(self) -> npt.NDArray[np.uint16]:
        """The source of each document as an index into `source_names`, uint16 (documents,)."""
        return self._sources[1]

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources, in the order in which they first appear."""
        return self._sources[0]

    def is_from(self, sources: tuple[str, ...] | None) -> npt.NDArray[np.bool_]:
        """Which documents come from these sources, bool (documents,); None stands for all sources."""
        if sources is None:
            return np.ones(self.num_documents, np.bool_)
        return np.array([name in sources for name in self.source_names], np.bool_)[self.document_sources]

    @cached_property
    def _sources(self) -> tuple[tuple[str, ...], npt.NDArray[np.uint16]]:
        numbers: dict[str, int] = {}
        codes = [np.zeros(0, np.uint16)]
        for chunk in self._read():
            encoded = chunk.sources.dictionary_encode()
            code = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
            codes.append(np.array(code, np.uint16)[encoded.indices.to_numpy()])
        return tuple(numbers), np.concatenate(codes)


def ranges(starts: Ints, counts: Ints) -> Ints:
    """The numbers start, start + 1, ..., start + count - 1 of each pair, end to end, int64 (sum of counts,)."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def _starts(counts: Iterable[int] | npt.NDArray[np.int32]) -> Ints:
    """Where each part begins if parts of these sizes stand end to end, and at the end their total."""
    sizes = counts if isinstance(counts, np.ndarray) else np.fromiter(counts, np.int64)
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts
