"""The prepared corpus: token ids of all documents in two Arrow files, written once and memory-mapped ever after.

A row is a document: its source, its token ids and the lengths of its sentences. pandas and DuckDB open the files as
they are. Training cuts its batches straight from the mapped buffers, without a Python object per token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


class PreparedCorpus:
    """One memory-mapped Arrow file of documents.

    Token positions count through the whole file: document after document, sentence after sentence.

    Args:
        path: train.arrow or heldout.arrow of a prepared corpus; its manifest.json stands beside it.
        tokenizer_fingerprint: of the tokenizer that the reader is going to use.

    Raises:
        UserError: if the file is missing, broken, or was written with another tokenizer.
    """

    def __init__(self, path: Path, tokenizer_fingerprint: str) -> None:
        if not path.exists():
            raise UserError(f"there is no prepared corpus at {path}; run `bertwright prepare` first")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError) as error:
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
        self._chunks: list[Array] = []
        lengths: list[npt.NDArray[np.int32]] = []
        counts: list[npt.NDArray[np.int64]] = []
        sources: list[str] = []
        for batch in batches:
            self._chunks.append(batch.column("input_ids").values.to_numpy(zero_copy_only=True))
            lengths.append(batch.column("sentence_lengths").values.to_numpy(zero_copy_only=True))
            counts.append(np.diff(batch.column("sentence_lengths").offsets.to_numpy()))
            sources.extend(batch.column("source").to_pylist())
        self._chunk_starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])
        self.sentence_lengths: npt.NDArray[np.int32] = np.concatenate([np.zeros(0, np.int32), *lengths])
        self.document_offsets: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]))])
        self.document_offsets = self.document_offsets.astype(np.int64)
        self.document_sources = np.array(sources, dtype=np.str_)

    @property
    def sentence_starts(self) -> npt.NDArray[np.int64]:
        """Position of each sentence's first token, and at the end the number of tokens, int64 (sentences + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sentence_lengths, dtype=np.int64)])

    @property
    def num_documents(self) -> int:
        """Documents in the file."""
        return len(self.document_offsets) - 1

    def is_from(self, sources: tuple[str, ...] | None) -> npt.NDArray[np.bool_]:
        """Which documents come from these sources, bool (documents,); None stands for all sources."""
        if sources is None:
            return np.ones(self.num_documents, np.bool_)
        return np.isin(self.document_sources, sources)

    @property
    def num_tokens(self) -> int:
        """Tokens in the file, special ones not counted: these are added when sequences are built."""
        return int(self._chunk_starts[-1])

    def spans(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> list[Array]:
        """Views of the tokens [start, start + length) for each pair; a span must lie within one document."""
        chunks = np.searchsorted(self._chunk_starts, starts, side="right") - 1
        chunks = np.minimum(chunks, len(self._chunks) - 1)
        local = starts - self._chunk_starts[chunks]
        return [
            self._chunks[chunk][start : start + length]
            for chunk, start, length in zip(chunks.tolist(), local.tolist(), lengths.tolist(), strict=True)
        ]
