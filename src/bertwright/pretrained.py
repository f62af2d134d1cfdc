"""A pre-trained encoder that answers: tokens for masks, next sentences, features, attention (paper, 3.1 and 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertwright.errors import UserError
from bertwright.inputs.pretraining import IS_NEXT
from bertwright.inputs.sequences import Ids, Sequence
from bertwright.models.checkpoints import FORMATS, load_pretraining_model, load_tokenizer, read_weights, to_hugging_face
from bertwright.models.heads import PretrainingModel
from bertwright.text.wordpiece import Tokenizer


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
        pooled: the pooler's output, float32 (hidden,).
        mean: the average of the tokens' vectors in the last layer, float32 (hidden,).
        tokens: the text's tokens, [CLS] and [SEP] included.
        vectors: one per token, float32 (tokens, layers * hidden): the last layers side by side, the very last first.
        left_out: how many tokens at the text's end were cut off, since the model reads no more.
    """

    pooled: npt.NDArray[np.float32]
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

    @cached_property
    def model(self) -> PretrainingModel:
        """The encoder with both heads, in evaluation mode."""
        return load_pretraining_model(self.folder).to(self.device).eval()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer."""
        return load_tokenizer(self.folder)

    @cached_property
    def _stored(self) -> set[str]:
        return set(read_weights(self.folder))

    def require(self, parameter: str, called: str) -> None:
        """Refuse to answer with a head of random weights, which a classifier's folder would get.

        Args:
            parameter: one of the head's, by our name.
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
        names = FORMATS[self.model.encoder.config.model_type].names
        if to_hugging_face(parameter, names) not in self._stored:
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
        best = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
        return [
            [TokenPrediction(self.tokenizer.tokens[i], p) for i, p in zip(*pair, strict=True)]
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def next_sentence(self, pair: Sequence) -> float:
        """The probability that the second text of a framed pair follows the first."""
        none = torch.zeros(1, dtype=torch.long, device=self.device)
        _, logits = self.model(self.tensor(pair.input_ids)[None], self.tensor(pair.token_type_ids)[None], None, none)
        return float(logits.float().softmax(-1)[0, IS_NEXT])

    @torch.inference_mode()
    def features(self, sequence: Sequence, layers: int, left_out: int = 0) -> Features:
        """A framed text as vectors, with the last `layers` layers side by side for each token (paper, section 5.3)."""
        hidden = self.model.encoder.hidden_states(self.tensor(sequence.input_ids)[None])
        last = hidden[-1][0]  # (S, H)
        return Features(
            self.model.pooler(hidden[-1])[0].cpu().numpy(),
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
        return [self.tokenizer.tokens[i] for i in sequence.input_ids]

    def tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        """Numbers as int64 on the device."""
        return torch.from_numpy(values.astype(np.int64)).to(self.device)
