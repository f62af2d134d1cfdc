"""A pre-trained encoder that answers: tokens for masks, next sentences, features, attention (paper, 3.1 and 5.3)."""

from __future__ import annotations

import threading
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertwright.arrays import Ids
from bertwright.errors import UserError
from bertwright.inputs.pretraining import IS_NEXT
from bertwright.inputs.sequences import Sequence
from bertwright.models.checkpoints import load_pretraining_model, load_tokenizer
from bertwright.models.encoder import Encoder
from bertwright.models.heads import PretrainingModel
from bertwright.text.wordpiece import Tokenizer

T = TypeVar("T")

_TOGETHER = 16_384
"""Tokens that are computed together."""


class LoadedOnce(cached_property[T]):
    """A property that is computed once, also where several threads ask for it first; its owner has a `lock`.

    Weights are loaded as ordinary tensors, even in a block of `torch.inference_mode`: explanations need gradients.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Self | T:
        """The value; later calls find it in the instance itself."""
        if instance is None:
            return self
        with instance.lock, torch.inference_mode(False):
            value: T = super().__get__(instance, owner)
            return value


@dataclass(frozen=True)
class TokenPrediction:
    """A token for a mask.

    Args:
        token: as the vocabulary writes it; ## continues a word.
        score: its probability.
    """

    token: str
    score: float


@dataclass(frozen=True)
class Features:
    """A text as vectors.

    Args:
        pooled: the pooler's output, float32 (hidden,); None where the model has no trained pooler.
        mean: the average of the tokens' vectors in the last layer, float32 (hidden,).
        tokens: the text's tokens, [CLS] and [SEP] included.
        vectors: one per token, float32 (tokens, layers * hidden): the last layers side by side, the very last first.
        left_out: how many tokens at the text's end were cut off, since the model reads no more.
    """

    pooled: npt.NDArray[np.float32] | None
    mean: npt.NDArray[np.float32]
    tokens: list[str]
    vectors: npt.NDArray[np.float32]
    left_out: int = 0


class PretrainedEncoder:
    """An encoder with its pre-training heads: masked tokens, next sentences, features, attention.

    Args:
        folder: of the model.
        device: computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        self.lock = threading.RLock()

    @LoadedOnce
    def model(self) -> PretrainingModel:
        """The encoder with both heads, in evaluation mode."""
        return load_pretraining_model(self.folder).to(self.device).eval()

    def loaded_encoder(self, folder: Path) -> Encoder | None:
        """The encoder of a folder, if it is this one and `model` has been asked for; else None."""
        model: PretrainingModel | None = vars(self).get("model")
        return model.encoder if model is not None and folder == self.folder else None

    @LoadedOnce
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer."""
        return load_tokenizer(self.folder)

    def require(self, heads: set[str], called: str) -> None:
        """Refuse to answer with a head of random weights, which a classifier's folder would get.

        Args:
            heads: those of `PretrainingModel.absent` that the answer needs.
            called: the head, in words.

        Raises:
            UserError: if the folder holds no weights of the head, or a causal model, which was not trained to fill
                masks or to tell next sentences.
        """
        if self.model.encoder.causal:
            raise UserError(
                f"{self.folder} is a causal model: it was trained to predict next tokens, and its {called} answers "
                "nothing; give a model that was pre-trained with masked tokens"
            )
        if heads & self.model.absent:
            raise UserError(f"{self.folder} has no {called}; give a model that was pre-trained with one")

    @torch.inference_mode()
    def fill_mask(self, input_ids: Ids, top_k: int) -> list[list[TokenPrediction]]:
        """The most probable tokens at each [MASK] of a framed text, each with the others still masked.

        Args:
            input_ids: `[CLS] text [SEP]`, int32 (tokens,).
            top_k: how many tokens to give for each.
        """
        row = self.tensor(input_ids)[None]
        places = self.tensor(np.flatnonzero(input_ids == self.tokenizer.mask_id))
        logits, _ = self.model(row, torch.zeros_like(row), None, places)
        # A table of embeddings may have more rows than the vocabulary has entries.
        probabilities = logits.float().softmax(-1)[:, : self.tokenizer.vocab_size]
        best = probabilities.topk(min(top_k, probabilities.shape[-1]))
        return [
            [TokenPrediction(self.tokenizer.spellings[i], p) for i, p in zip(*pair, strict=True)]
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def pseudo_log_likelihood(self, rows: Many[Ids]) -> npt.NDArray[np.float64]:
        """The sum over a text's tokens of the log-probability, in nats, of each where it alone is masked, (texts,).

        Salazar et al. 2020, "Masked Language Model Scoring", equation 1. [CLS] and [SEP] are given. Texts of one length
        are computed together, and those that are equal get the same number.

        Args:
            rows: `[CLS] text [SEP]` each, int32 (tokens,).
        """
        found = np.zeros(len(rows))
        for length in sorted({len(ids) for ids in rows}):
            alike = [number for number, ids in enumerate(rows) if len(ids) == length]
            at_once = max(1, _TOGETHER // (length * max(1, length - 2)))
            for start in range(0, len(alike), at_once):
                chosen = alike[start : start + at_once]
                found[chosen] = self._masked_one_by_one(np.stack([rows[number] for number in chosen]))
        return found

    def _masked_one_by_one(self, ids: Ids) -> npt.NDArray[np.float64]:
        """`pseudo_log_likelihood` of texts of one length, (texts, tokens)."""
        texts, length = ids.shape
        inner = length - 2
        copies = self.tensor(ids).repeat_interleave(inner, 0)  # (texts * inner, tokens): a copy for each token
        places = torch.arange(1, inner + 1, device=self.device).repeat(texts)  # the masked one of each copy
        flat = torch.arange(len(copies), device=self.device) * length + places
        true = copies.flatten()[flat].clone()
        copies.view(-1)[flat] = self.tokenizer.mask_id
        logits, _ = self.model(copies, torch.zeros_like(copies), None, flat)
        chosen = logits.float().log_softmax(-1).gather(1, true[:, None]).double()
        total: npt.NDArray[np.float64] = chosen.view(texts, inner).sum(1).cpu().numpy()
        return total

    @torch.inference_mode()
    def next_sentence(self, pair: Sequence) -> float:
        """The probability that the second text of a framed pair follows the first."""
        none = torch.zeros(1, dtype=torch.long, device=self.device)
        _, logits = self.model(self.tensor(pair.input_ids)[None], self.tensor(pair.token_type_ids)[None], None, none)
        assert logits is not None, "`require` has seen to it"
        return float(logits.float().softmax(-1)[0, IS_NEXT])

    @torch.inference_mode()
    def features(self, sequence: Sequence, layers: int, left_out: int = 0) -> Features:
        """A framed text as vectors, with the last `layers` layers side by side for each token (paper, section 5.3).

        Args:
            sequence: the text, or its beginning.
            layers: how many.
            left_out: tokens that were cut off.
        """
        hidden = self.model.encoder.hidden_states(self.tensor(sequence.input_ids)[None])
        last, pooler = hidden[-1][0], self.model.pooler  # (S, H)
        return Features(
            None if pooler is None or "pooler" in self.model.absent else pooler(hidden[-1])[0].cpu().numpy(),
            last[1:-1].mean(0).cpu().numpy(),
            self.tokens(sequence),
            torch.cat([state[0] for state in hidden[: -layers - 1 : -1]], dim=-1).cpu().numpy(),
            left_out,
        )

    @torch.inference_mode()
    def attention(self, sequence: Sequence) -> npt.NDArray[np.float32]:
        """The attention weights on a framed text, float32 (layers, heads, tokens, tokens)."""
        maps: npt.NDArray[np.float32] = (
            self.model.encoder.attention_maps(self.tensor(sequence.input_ids)[None])[0].cpu().numpy()
        )
        return maps

    def tokens(self, sequence: Sequence) -> list[str]:
        """The tokens of a framed text, as the vocabulary writes them."""
        return [self.tokenizer.spellings[i] for i in sequence.input_ids]

    def tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        """Numbers as int64 on the device."""
        return torch.from_numpy(values.astype(np.int64)).to(self.device)
