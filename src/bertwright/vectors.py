"""One vector for each of many texts, from any encoder's folder, as sentence-transformers computes them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.given import require_words
from bertwright.inputs.sequences import Sequence, beginning, build_many, unknown_notice
from bertwright.models.checkpoints import load_into, load_tokenizer, read_config, read_weights, stored_encoder
from bertwright.models.embedding_head import EmbeddingHead, cut_and_normalized
from bertwright.models.encoder import Encoder
from bertwright.models.heads import TaskModel
from bertwright.models.sentence_folder import Pooling, as_pooling, read_pooling
from bertwright.models.stored import reading
from bertwright.pretrained import LoadedOnce
from bertwright.tasks.prediction import RoundedProducts, logits_on_all_cores
from bertwright.text.wordpiece import Tokenizer

Vectors = npt.NDArray[np.float32]

_BATCH_TOKENS = 4_096
"""Tokens that are computed together, padding included."""


def load_vector_model(
    folder: Path, pooling: Pooling, kind: type[TaskModel] = TaskModel, loaded: Encoder | None = None
) -> TaskModel:
    """The encoder of a folder with a pooling, in float32.

    Args:
        folder: of a model: its encoder is used, whatever its head is for.
        pooling: how vectors are made.
        kind: class of the model.
        loaded: the folder's encoder, if it is in memory already.

    Raises:
        UserError: if the folder cannot be read, its tensors do not fit its configuration, or vectors have fewer numbers
            than the pooling keeps.
    """
    config = read_config(folder)
    encoder = loaded or stored_encoder(config)
    _require_numbers(pooling.dimensions, encoder.config.hidden_size, f"truncate_dim of {folder}")
    model = kind(encoder, EmbeddingHead(pooling, encoder.causal), [], "embedding", draw=False)
    if loaded is None:
        load_into(model, read_weights(folder), folder, may_miss=())
    return model


def _require_numbers(kept: int | None, whole: int, what: str) -> None:
    """See that vectors have as many numbers as are kept of them; None keeps all.

    Raises:
        UserError: if they have fewer.
    """
    if kept is not None and not (isinstance(kept, int) and 1 <= kept <= whole):
        raise UserError(f"{what} is {kept}, and the model's vectors have {whole} numbers; give 1 to {whole}")


class TextEncoder:
    """Texts into vectors, with the encoder of a folder.

    Several threads can use one at the same time.

    Args:
        folder: of a model: its encoder is used, whatever its head is for.
        device: computes.
        mode: the pooling, mean or cls; None is the folder's, and the mean where it names none.
        loaded: gives the folder's encoder on that device, if it is in memory already.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        mode: str | None = None,
        loaded: Callable[[], Encoder | None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.device = device
        self.mode = None if mode is None else as_pooling(mode)
        self.loaded = loaded
        self.lock = threading.RLock()

    @LoadedOnce
    def pooling(self) -> Pooling:
        """How vectors are made.

        Raises:
            UserError: if the folder does what we do not compute.
        """
        found = read_pooling(self.folder) or Pooling()
        return found if self.mode is None else replace(found, mode=self.mode)

    @LoadedOnce
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer."""
        return load_tokenizer(self.folder)

    @LoadedOnce
    def model(self) -> TaskModel:
        """The encoder with its pooling, in evaluation mode; `compute` cuts its vectors, for a call may ask for more.

        Raises:
            UserError: if the folder cannot be read, or its tensors do not fit its configuration.
        """
        whole = replace(self.pooling, dimensions=None)
        return load_vector_model(self.folder, whole, RoundedProducts, self.loaded()).to(self.device).eval()

    @LoadedOnce
    def max_length(self) -> int:
        """The most tokens of a text that are read, [CLS] and [SEP] included."""
        longest, _ = reading(self.folder / "tokenizer_config.json", self.model.encoder.max_length)
        return min(longest, self.pooling.max_length or longest)

    def width(self, dimensions: int | None = None) -> int:
        """How many numbers a vector has.

        Args:
            dimensions: how many are asked for; the default is as many as the folder says, and all where it says
                nothing.

        Raises:
            UserError: if there are not as many.
        """
        whole = int(self.model.encoder.config.hidden_size)
        kept = self.pooling.dimensions if dimensions is None else dimensions
        _require_numbers(kept, whole, f"truncate_dim of {self.folder}" if dimensions is None else "dimensions")
        return kept or whole

    def encode(self, texts: Many[str], dimensions: int | None = None) -> tuple[Vectors, Ints]:
        """A vector for each text, and how many tokens at its end were left out because the encoder reads no more.

        A vector does not depend on the other texts, beyond rounding. Texts of like length are computed together.

        Args:
            texts: any number.
            dimensions: how many numbers of each vector are kept, from the first, and divided by their length; the
                default is as many as the folder says, and all where it says nothing.

        Returns:
            float32 (texts, hidden or dimensions) and int64 (texts,).

        Raises:
            UnreadableText: if a text has no token.
            UserError: if the model's vectors have fewer numbers.
        """
        width = self.width(dimensions)
        sequences, left_out = self.inputs(texts)
        if notice := unknown_notice(sequences, self.tokenizer, self.folder):
            warnings.warn(notice, stacklevel=3)
        rows = self.compute(sequences, dimensions)
        vectors = torch.stack(rows).numpy() if rows else np.zeros((0, width), np.float32)
        return vectors, left_out

    def inputs(self, texts: Many[str]) -> tuple[list[Sequence], Ints]:
        """Texts as the encoder reads them, and how many tokens at the end of each were left out, int64 (texts,).

        Raises:
            UnreadableText: if a text has no token.
        """
        built = build_many(self.tokenizer, texts, max_length=None)
        for number, one in enumerate(built):
            require_words(one, number, len(texts))
        left_out = np.array([max(0, len(one) - self.max_length) for one in built], np.int64)
        return [beginning(one, self.max_length) for one in built], left_out

    def compute(self, sequences: Many[Sequence], dimensions: int | None = None) -> list[Tensor]:
        """The vector of each text that `inputs` gives, float32 (hidden,); `dimensions` as for `encode`."""
        width = self.width(dimensions)
        rows = logits_on_all_cores(self.model, sequences, _BATCH_TOKENS)
        if dimensions is None and self.pooling.dimensions is None:
            return rows
        return [cut_and_normalized(row, width) for row in rows]
