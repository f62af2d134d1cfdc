"""What every encoder offers: heads, training and inference know an encoder by these methods alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from bertwright.models.dropout import Dropout
from bertwright.settings import ModelConfig


class Encoder(nn.Module, ABC):
    """Tokens in, one vector per token out.

    Letters in the shapes: B sequences in the batch, S positions in a sequence, P of them wanted, H hidden size.

    Args:
        config: the shape of the network.
        vocab_size: number of entries V of the vocabulary.
        pad_token_id: id of [PAD].

    Attributes:
        has_segments: whether it reads `token_type_ids`. Without them there is no next-sentence prediction, and no model
            of it is given any.
        has_biases: whether the layers of its pre-training head have biases, as all layers of BERT.
    """

    has_segments: ClassVar[bool] = True
    has_biases: ClassVar[bool] = True

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.pad_token_id = pad_token_id

    @property
    def max_length(self) -> int:
        """The most tokens of a sequence, special ones included."""
        return self.config.max_position_embeddings

    @property
    def causal(self) -> bool:
        """Whether each position attends only to itself and to those before it."""
        return self.config.is_decoder

    def pooler(self) -> nn.Module | None:
        """Fresh layers that make one vector (B, H) of a sequence (B, S, H) and its mask, for heads; None: BERT's."""
        return None

    def transform(self) -> nn.Module:
        """Fresh layers between each token's vector and a head's last layer, (..., H) to (..., H); none in BERT."""
        return nn.Identity()

    @property
    @abstractmethod
    def token_embeddings(self) -> nn.Embedding:
        """The table of token embeddings, (V, H); the masked-language head multiplies by it."""

    @abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: int | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode a batch.

        Args:
            input_ids: token ids, int64 (B, S).
            token_type_ids: segment of each token, int64 (B, S): 0 up to the first [SEP], 1 after it.
            attention_mask: (B, S), 1 or True at real tokens, 0 at padding, which stands on the right; None says that
                there is none.
            positions: P, how many positions, from the first, are wanted; None for all.
            inputs_embeds: vectors in place of the token embeddings of `input_ids`, float (B, S, H).

        Returns:
            One vector per position, (B, P, H). Those at padding mean nothing.
        """

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        """The output of the embeddings and of each layer, for texts without padding.

        Args:
            input_ids: int64 (B, S).
            token_type_ids: int64 (B, S); None is one segment.

        Returns:
            L + 1 tensors (B, S, H).
        """

    @abstractmethod
    def attention_maps(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """The attention weights of every head, for texts without padding.

        Args:
            input_ids: int64 (B, S).
            token_type_ids: int64 (B, S); None is one segment.

        Returns:
            (B, L, A, S, S) with A heads; each row, the weights of one query position, sums to 1.
        """

    def parts(self, positions: int | None = None) -> list[nn.Module]:
        """The modules that the compiler compiles each by itself: here, the whole network.

        Args:
            positions: how many a head reads, as in `forward`.
        """
        return [self]

    @abstractmethod
    def lowest(self, layers: int) -> list[nn.Module]:
        """The embeddings and so many layers, from the first: what stays as it is with `pretrain.frozen_layers`."""

    def set_dropout(self, probability: float) -> None:
        """Train with this dropout everywhere; the configuration, which is saved, keeps its own."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.p = probability

    @abstractmethod
    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices of the layers, which Muon trains where a recipe asks for it."""
