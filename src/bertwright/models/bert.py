"""BERT, the encoder, in the order of the paper: embeddings, attention, feed-forward, block, encoder, pooler.

Devlin et al. 2019, section 3 ("BERT's model architecture is a multi-layer bidirectional Transformer encoder"), after
Vaswani et al. 2017. Tokens come in, one vector per token goes out; `heads.py` turns those vectors into losses.

Letters in the shape comments: B sequences in the batch, S positions in a sequence, H hidden size, A attention heads,
D = H / A the width of a head, F feed-forward width, V vocabulary size.

Parameter names follow our own reading order; `checkpoints.py` maps them to Hugging Face's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.models.compiled_attention import CompiledAttention
from bertwright.models.dropout import Dropout, dropout
from bertwright.models.encoder import Encoder
from bertwright.settings import ModelConfig

HAS_AMX = torch.cpu._is_amx_tile_supported()
"""Whether the CPU multiplies tiles of matrices, and the system lets it."""

HAS_FLASH = torch.cuda.is_available() and torch.backends.cuda.is_flash_attention_available()
"""Whether PyTorch was built with flash attention, which on Windows it is not."""

if HAS_FLASH:  # takes seconds to load
    from torch.nn.attention.varlen import varlen_attn


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised (paper, section 3 and figure 2)."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.hidden_size, padding_idx=pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """Embed `input_ids` (B, S), or `inputs_embeds` (B, S, H), with segments (B, S); returns (B, S, H)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (S,)
        tokens = self.token(input_ids) if inputs_embeds is None else inputs_embeds
        summed = tokens + self.segment(token_type_ids) + self.position(positions)  # (B, S, H)
        embedded: Tensor = self.dropout(self.norm(summed))
        return embedded  # (B, S, H)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """The positions that a causal model attends to: bool (queries, keys), True at a query's own and those before."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()


MASKED_SCORE = -1e9
"""Added to the score of a masked position: after the softmax nothing is left of it."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_prob: float, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention: softmax(Q K^T / sqrt(D)) V (Vaswani et al., equation 1).

    Written out on a CPU, where PyTorch's fused kernels take up to three times as long (docs/decisions.md), and fused on
    a GPU, as well as for predictions on a CPU with AMX.

    Args:
        query: (B, A, P, D), of the first P positions.
        key: compared with the queries, (B, A, S, D).
        value: averaged by the attention weights, (B, A, S, D).
        mask: bool (B, 1, 1, S), True at the positions to attend to; (B or 1, 1, P, S) where queries differ in them;
            None for all.
        dropout_prob: dropout on the attention weights.
        causal: whether a position attends to itself and those before it only. Padding stands on the right, where then
            no real position attends to: `mask` is not needed, and not read.

    Returns:
        (B, A, P, D).
    """
    batch, heads, queries, width = query.shape
    if query.is_cuda:
        # What PyTorch's variable-length kernel takes.
        flash = HAS_FLASH and query.dtype == torch.bfloat16 and dropout_prob == 0 and width % 8 == 0 and width <= 256
        if flash and query.shape == key.shape and mask is not None and mask.shape[2] == 1 and not causal:
            return attend_within(query, key, value, mask)
    if query.is_cuda or (query.dtype == torch.bfloat16 and predicts_with_amx() and dropout_prob == 0):
        mask = None if causal else mask
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_prob, is_causal=causal)
    if causal:
        mask = causal_mask(queries, key.shape[-2], query.device)[None, None]  # (1, 1, P, S)
    bias = query.new_zeros(1, 1, 1)
    if mask is not None:
        bias = query.new_zeros(mask.shape).masked_fill(~mask, MASKED_SCORE)
        bias = bias.expand(batch, heads, -1, -1).flatten(0, 1)  # (B A, 1 or P, S)
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # (B A, P or S, D)
    if torch.compiler.is_compiling() and torch.is_grad_enabled():
        context: Tensor = CompiledAttention.apply(query, key, value, bias, dropout_prob)  # type: ignore[no-untyped-call]
        return context.view(batch, heads, queries, width)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=width**-0.5)  # (B A, P, S)
    weights = dropout(scores.softmax(-1), dropout_prob, training=dropout_prob > 0)
    return torch.bmm(weights, value).view(batch, heads, queries, width)


def predicts_with_amx() -> bool:
    """Whether no gradient is asked for, and the CPU has AMX, on which PyTorch's fused forward pass is twice as fast."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling() and HAS_AMX


def attend_within(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """`attend` on a GPU by flash attention, which knows no mask, but stretches of different lengths end to end.

    Each row is two stretches: its real tokens, and the padding on their right, which attends to itself and is never
    read. With all positions in place nothing is copied, and no shape depends on the lengths of the rows.

    Args:
        query: bfloat16 (B, A, S, D).
        key: (B, A, S, D).
        value: (B, A, S, D).
        mask: bool (B, 1, 1, S), True at real tokens, which stand on the left.

    Returns:
        (B, A, S, D).
    """
    batch, heads, seq, width = query.shape
    starts = torch.arange(batch, device=query.device) * seq  # (B,)
    ends = starts + mask.sum(-1).flatten()  # (B,) of the real tokens
    edges = torch.cat([torch.stack([starts, ends], dim=1).flatten(), starts[-1:] + seq]).int()  # (2 B + 1,)
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))  # (B S, A, D) each
    context = varlen_attn(query, key, value, edges, edges, seq, seq)
    assert isinstance(context, Tensor)  # no log-sum-exp was asked for
    return context.view(batch, seq, heads, width).transpose(1, 2)


def heads_of(projected: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of each head, (B, A, S, D) each, from all side by side, (B, S, 3 H)."""
    batch, seq, _ = projected.shape
    query, key, value = projected.view(batch, seq, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def attend_in_heads(
    projected: Tensor, num_heads: int, mask: Tensor | None, positions: int | None, dropout_prob: float, causal: bool
) -> Tensor:
    """`attend` in all heads at once.

    Args:
        projected: queries, keys and values side by side, (B, S, 3 H).
        num_heads: A.
        mask: as in `attend`.
        positions: P, how many positions, from the first, are wanted; None for all.
        dropout_prob: as in `attend`.
        causal: as in `attend`.

    Returns:
        The heads' results side by side, (B, P, H).
    """
    query, key, value = heads_of(projected, num_heads)
    query = query[:, :, :positions]  # (B, A, P, D)
    context = attend(query, key, value, mask, dropout_prob, causal)  # (B, A, P, D)
    return context.transpose(1, 2).flatten(2)  # (B, P, H)


class SelfAttention(nn.Module):
    """Every position attends to every position, left and right, in A subspaces at once (Vaswani et al., section 3.2).

    In a causal model (section 5.1) it attends to itself and to the left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = Dropout(config.attention_probs_dropout_prob)
        self.causal = config.is_decoder
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """Attend in all heads at once, and join them by one more matrix.

        Args:
            hidden: (B, S, H).
            mask: as in `attend`.
            positions: P, how many positions, from the first, are wanted; None for all.

        Returns:
            (B, P, H).
        """
        projected = F.linear(hidden, *self.projection())  # (B, S, 3 H)
        dropout_prob = self.dropout.p if self.training else 0.0
        joined: Tensor = self.output(
            attend_in_heads(projected, self.num_heads, mask, positions, dropout_prob, self.causal)
        )
        return joined  # (B, P, H)

    def projection(self) -> tuple[Tensor, Tensor]:
        """The maps to queries, keys and values as one, weight (3 H, H) and bias (3 H,).

        One matrix product for all three: three small ones would read the hidden states three times.
        """
        maps = (self.query, self.key, self.value)
        return torch.cat([part.weight for part in maps]), torch.cat([part.bias for part in maps])

    def weights(self, hidden: Tensor) -> Tensor:
        """The attention weights on hidden states (B, S, H) without padding, as `attend` has them: (B, A, S, S)."""
        query, key = (
            part(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, A, S, D)
            for part in (self.query, self.key)
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, A, S, S)
        if self.causal:
            scores = scores.masked_fill(~causal_mask(scores.shape[-2], scores.shape[-1], scores.device), -torch.inf)
        weights: Tensor = scores.softmax(-1)
        return weights


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, the same at each position (paper, section 3 and appendix A.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, S, H) through (B, S, F) back to (B, S, H)."""
        contracted: Tensor = self.contract(F.gelu(self.expand(hidden)))
        return contracted


class Block(nn.Module):
    """One Transformer layer: attention, then feed-forward.

    Each has dropout on its output, a residual sum, and layer normalisation after the sum ("post-norm", as in the
    original; Vaswani et al., section 3.1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """Map (B, S, H) to (B, P, H), where P `positions`, from the first, are wanted; None for all."""
        attended = self.attention(hidden, mask, positions)
        hidden = self.attention_norm(hidden[:, :positions] + self.dropout(attended))
        hidden = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return hidden


class Bert(Encoder):
    """The encoder: embeddings and L blocks.

    Args:
        config: the shape of the network.
        vocab_size: number of entries V of the vocabulary.
        pad_token_id: id of [PAD], whose embedding stays zero.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        self.embeddings = Embeddings(config, vocab_size, pad_token_id)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    @property
    def token_embeddings(self) -> nn.Embedding:
        """The table of token embeddings, (V, H)."""
        return self.embeddings.token

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: int | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode a batch, as `Encoder.forward` says.

        With `positions` the last block computes no others: a classifier reads [CLS] alone, and saves nearly a block.
        """
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # (B, 1, 1, S)
        hidden = self.embeddings(input_ids, token_type_ids, inputs_embeds)
        for block in self.blocks[:-1]:
            hidden = block(hidden, mask)
        encoded: Tensor = self.blocks[-1](hidden, mask, positions)
        return encoded

    def hidden_states(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        """The output of the embeddings and of each block: L + 1 tensors (B, S, H)."""
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        states = [self.embeddings(input_ids, segments)]
        for block in self.blocks:
            states.append(block(states[-1], None))
        return states

    def attention_maps(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """The attention weights of every head, (B, L, A, S, S)."""
        states = self.hidden_states(input_ids, token_type_ids)
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        return torch.stack(
            [block.attention.weights(state) for block, state in zip(blocks, states[:-1], strict=True)], dim=1
        )

    def parts(self, positions: int | None = None) -> list[nn.Module]:
        """The embeddings, and blocks, which are alike: what is compiled for one serves all.

        A last block that computes a few positions only would be compiled once more. That takes as long as all else,
        and saves nothing: it stays uncompiled.
        """
        return [self.embeddings, *(self.blocks if positions is None else self.blocks[:-1])]

    def lowest(self, layers: int) -> list[nn.Module]:
        """The embeddings and the first blocks."""
        return [self.embeddings, *self.blocks[:layers]]

    def matrices(self) -> list[nn.Parameter]:
        """The blocks' weight matrices."""
        return [parameter for parameter in self.blocks.parameters() if parameter.ndim == 2]
