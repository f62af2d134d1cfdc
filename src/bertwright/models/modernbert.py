"""ModernBERT, the encoder, top to bottom: embeddings, rotary positions, attention, gated units, block, encoder, heads.

Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and
Long Context Finetuning and Inference", section 2.1. It differs from `bert.py` in five ways: normalisation stands before
attention and feed-forward instead of after the sum; positions are rotations of queries and keys instead of vectors that
are added; the feed-forward layer has a gate; no layer has a bias; and two of three layers attend to neighbours only.
There are no segments.

Letters in the shape comments are those of `bert.py`: B sequences, S positions, P of them wanted, H hidden size, A
attention heads, D = H / A the width of a head, F feed-forward width, V vocabulary size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.models.bert import attend, heads_of
from bertwright.models.dropout import Dropout
from bertwright.models.encoder import Encoder
from bertwright.models.local_attention import attend_nearby, neighbours
from bertwright.settings import ModelConfig


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """Layer normalisation (..., H) with a scale and no bias."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=False)


class Embeddings(nn.Module):
    """Token embeddings, normalised. Neither positions nor segments are added: attention knows positions."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.hidden_size, padding_idx=pad_token_id)
        self.norm = layer_norm(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """Embed `input_ids` (B, S), or `inputs_embeds` (B, S, H); returns (B, S, H)."""
        tokens = self.token(input_ids) if inputs_embeds is None else inputs_embeds
        embedded: Tensor = self.dropout(self.norm(tokens))
        return embedded  # (B, S, H)


def rotation(seq: int, width: int, theta: float, device: torch.device) -> Tensor:
    """Cosines and sines of each position's angles (Su et al. 2021, "RoFormer", section 3.2.2).

    Pair i of a head's numbers turns by theta^(-2i / D) at each position: the first pairs tell neighbours apart, the
    last ones places that are far from each other.

    Args:
        seq: S.
        width: D.
        theta: the larger, the longer the slowest pair takes for a turn.
        device: of the result.

    Returns:
        float32 (2, S, D / 2), whatever the precision of the network: angles grow up to S.
    """
    frequency = 1 / theta ** (torch.arange(0, width, 2, device=device).float() / width)  # (D / 2,)
    angle = torch.arange(seq, device=device)[:, None] * frequency  # (S, D / 2)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(vectors: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of numbers by the angle of its position.

    A product of a rotated query and a rotated key depends on the distance of their positions alone.

    Args:
        vectors: queries or keys, (B, A, S, D). A pair is number i of the first half and number i of the second.
        turns: from `rotation`, (2, S, D / 2).

    Returns:
        (B, A, S, D).
    """
    cosine, sine = turns
    first, second = vectors.float().chunk(2, dim=-1)  # (B, A, S, D / 2) each
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(vectors.dtype)


class SelfAttention(nn.Module):
    """Attention of A heads as in BERT, with rotated queries and keys, and without biases.

    Args:
        config: the shape of the network.
        window: in which a position attends to others, half of it on each side; None for all positions.
    """

    def __init__(self, config: ModelConfig, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.num_heads = config.num_attention_heads
        self.project = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def rotated(self, hidden: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values of hidden states (B, S, H), (B, A, S, D) each."""
        query, key, value = heads_of(self.project(hidden), self.num_heads)
        return rotate(query, turns), rotate(key, turns), value

    def forward(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """Attend in all heads at once, and join them by one more matrix.

        Args:
            hidden: (B, S, H).
            turns: from `rotation`, (2, S, D / 2).
            mask: bool (B, 1, 1, S), True at real tokens; None where all are.
            positions: P, how many positions, from the first, are wanted; None for all.

        Returns:
            (B, P, H).
        """
        query, key, value = self.rotated(hidden, turns)
        query = query[:, :, :positions]  # (B, A, P, D)
        dropout_prob = self.dropout.p if self.training else 0.0
        if self.window is None:
            context = attend(query, key, value, mask, dropout_prob)  # (B, A, P, D)
        else:
            context = attend_nearby(query, key, value, mask, self.window, dropout_prob)  # (B, A, P, D)
        joined: Tensor = self.dropout(self.output(context.transpose(1, 2).flatten(2)))
        return joined  # (B, P, H)

    def weights(self, hidden: Tensor, turns: Tensor) -> Tensor:
        """The attention weights on hidden states (B, S, H) without padding, (B, A, S, S)."""
        query, key, _ = self.rotated(hidden, turns)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, A, S, S)
        if self.window is not None:
            seq = hidden.shape[1]
            scores = scores.masked_fill(~neighbours(seq, seq, self.window, None, hidden.device), -torch.inf)
        weights: Tensor = scores.softmax(-1)
        return weights


class GatedFeedForward(nn.Module):
    """A GELU of one linear map, times another one, then a third: GeGLU.

    Shazeer 2020, "GLU Variants Improve Transformer", equation 6. The second map is the gate: it says how much of each
    number passes. Three matrices in place of two: at the same number of weights, F is two thirds of what it would be
    without.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, S, H) through (B, S, F) back to (B, S, H)."""
        values, gate = self.expand(hidden).chunk(2, dim=-1)  # (B, S, F) each
        contracted: Tensor = self.contract(self.dropout(F.gelu(values) * gate))
        return contracted


class Block(nn.Module):
    """One Transformer layer: attention, then feed-forward, each added to the hidden states that pass it by.

    Layer normalisation stands before each of the two and not after the sum ("pre-norm"; Xiong et al. 2020, "On Layer
    Normalization in the Transformer Architecture"): hidden states are summed from the first layer to the last without
    being scaled, so that gradients reach all layers alike. The first block gets normalised embeddings, and has none
    before its attention.
    """

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.is_global = number % config.global_attn_every_n_layers == 0
        window = None if self.is_global else config.local_attention
        self.attention_norm = layer_norm(config) if number > 0 else nn.Identity()
        self.attention = SelfAttention(config, window)
        self.feed_forward_norm = layer_norm(config)
        self.feed_forward = GatedFeedForward(config)

    def forward(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """Map (B, S, H) to (B, P, H); arguments as in `SelfAttention.forward`."""
        attended = self.attention(self.attention_norm(hidden), turns, mask, positions)
        hidden = hidden[:, :positions] + attended
        fed_forward: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return fed_forward


class Transform(nn.Module):
    """What ModernBERT's heads have between the encoder's vectors and their last layer: a linear map, GELU, norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = layer_norm(config)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (..., H) to (..., H)."""
        transformed: Tensor = self.norm(F.gelu(self.dense(vectors)))
        return transformed


class Pooler(Transform):
    """A summary of the sequence: the mean of its vectors or the one at [CLS], transformed.

    Attributes:
        positions: how many of the encoder's positions it reads; None for all.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.positions = 1 if config.classifier_pooling == "cls" else None

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map (B, S, H) to (B, H); `attention_mask` (B, S) as in `Encoder.forward`."""
        if self.positions == 1:
            return super().forward(hidden[:, 0])
        if attention_mask is None:
            return super().forward(hidden.mean(1))
        real = attention_mask.float()[..., None]  # (B, S, 1), in float32: bfloat16 counts no further than 256
        return super().forward(((hidden * real).sum(1) / real.sum(1)).to(hidden.dtype))


class ModernBert(Encoder):
    """The encoder: embeddings, L blocks, and a last normalisation, since no block ends with one.

    Args:
        config: the shape of the network.
        vocab_size: number of entries V of the vocabulary.
        pad_token_id: id of [PAD], whose embedding stays zero.
    """

    has_segments = False
    has_biases = False

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        self.head_width = config.hidden_size // config.num_attention_heads
        self.embeddings = Embeddings(config, vocab_size, pad_token_id)
        self.blocks = nn.ModuleList(Block(config, number) for number in range(config.num_hidden_layers))
        self.norm = layer_norm(config)

    @property
    def token_embeddings(self) -> nn.Embedding:
        """The table of token embeddings, (V, H)."""
        return self.embeddings.token

    def pooler(self) -> nn.Module:
        """Fresh layers of a head on a whole sequence."""
        return Pooler(self.config)

    def transform(self) -> nn.Module:
        """Fresh layers of a head on every token."""
        return Transform(self.config)

    @property
    def layers(self) -> list[Block]:
        """The blocks."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def rotations(self, seq: int, device: torch.device) -> dict[bool, Tensor]:
        """How positions turn in global layers (True) and in local ones (False), `rotation` for S positions each."""
        bases = {True: self.config.global_rope_theta, False: self.config.local_rope_theta}
        return {is_global: rotation(seq, self.head_width, theta, device) for is_global, theta in bases.items()}

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: int | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode a batch, as `Encoder.forward` says; `token_type_ids` are not read."""
        hidden = self.embeddings(input_ids, inputs_embeds)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # (B, 1, 1, S)
        turns = self.rotations(input_ids.shape[1], input_ids.device)
        *blocks, last = self.layers
        for block in blocks:
            hidden = block(hidden, turns[block.is_global], mask)
        encoded: Tensor = self.norm(last(hidden, turns[last.is_global], mask, positions))
        return encoded

    def hidden_states(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        """The output of the embeddings and of each block, the last one normalised: L + 1 tensors (B, S, H)."""
        states = self._sums(input_ids, self.rotations(input_ids.shape[1], input_ids.device))
        return [*states[:-1], self.norm(states[-1])]

    def _sums(self, input_ids: Tensor, turns: dict[bool, Tensor]) -> list[Tensor]:
        """What each block gets, and what the last one gives, L + 1 tensors (B, S, H)."""
        states = [self.embeddings(input_ids)]
        for block in self.layers:
            states.append(block(states[-1], turns[block.is_global], None))
        return states

    def attention_maps(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """The attention weights of every head, (B, L, A, S, S)."""
        turns = self.rotations(input_ids.shape[1], input_ids.device)
        return torch.stack(
            [
                block.attention.weights(block.attention_norm(state), turns[block.is_global])
                for block, state in zip(self.layers, self._sums(input_ids, turns)[:-1], strict=True)
            ],
            dim=1,
        )

    def parts(self, positions: int | None = None) -> list[nn.Module]:
        """The embeddings, and blocks, of which the first and the local ones are compiled each once more.

        A last block that computes a few positions only stays uncompiled, as in BERT.
        """
        return [self.embeddings, *(self.blocks if positions is None else self.blocks[:-1])]

    def lowest(self, layers: int) -> list[nn.Module]:
        """The embeddings and the first blocks."""
        return [self.embeddings, *self.blocks[:layers]]

    def matrices(self) -> list[nn.Parameter]:
        """The blocks' weight matrices."""
        return [parameter for parameter in self.blocks.parameters() if parameter.ndim == 2]
