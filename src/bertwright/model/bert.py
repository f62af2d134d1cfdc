"""BERT, the encoder, in the order of the paper: embeddings, attention, feed-forward, block, encoder, pooler.

Devlin et al. 2019, section 3 ("BERT's model architecture is a multi-layer bidirectional Transformer encoder"), after
Vaswani et al. 2017. Tokens come in, one vector per token goes out; `heads.py` turns those vectors into losses.

Letters in the shape comments: B sequences in the batch, S positions in a sequence, H hidden size, A attention heads,
D = H / A the width of a head, F feed-forward width, V vocabulary size.

Parameter names follow our own reading order; `interop.py` holds the one table that maps them to Hugging Face's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.config import ModelConfig

if torch.cuda.is_available():  # takes seconds to load, and is of use on a GPU alone
    from torch.nn.attention.varlen import varlen_attn


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Set a random part of `values` to zero and scale up the rest, as `torch.nn.functional.dropout` does.

    On a CPU PyTorch draws random numbers one after the other, which would take half of a small BERT's step; on a GPU it
    reads and writes all values once more. Here each element's number is a hash of its index and one drawn seed (the
    finalizer of MurmurHash3, on the lower 16 bits of which the choice rests): it vectorises, and the compiler fuses it
    into its neighbours.

    Args:
        values: any shape.
        probability: of being set to zero, in [0, 1), rounded to 1 / 65,536.
        training: outside of training nothing is dropped.

    Returns:
        A tensor like `values`.
    """
    if not training or probability == 0:
        return values
    device = values.device
    seed = torch.randint(-(2**31), 2**31 - 1, (1,), dtype=torch.int32, device=device)
    bits = torch.arange(values.numel(), dtype=torch.int32, device=device).view(values.shape) ^ seed
    bits = (bits ^ (bits >> 16)) * -2048144789
    bits = (bits ^ (bits >> 13)) * -1028477387
    keep = ((bits ^ (bits >> 16)) & 0xFFFF) >= round(probability * 65_536)
    return torch.where(keep, values * (1 / (1 - probability)), 0)


class Dropout(nn.Module):
    """`dropout` as a module.

    Args:
        probability: of an element being set to zero.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.p = probability

    def forward(self, values: Tensor) -> Tensor:
        """Drop out of `values`, of any shape, in training."""
        return dropout(values, self.p, self.training)


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised (paper, section 3 and figure 2)."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.hidden_size, padding_idx=pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Embed `input_ids` (B, S) with segments `token_type_ids` (B, S); returns (B, S, H)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (S,)
        summed = self.token(input_ids) + self.segment(token_type_ids) + self.position(positions)  # (B, S, H)
        embedded: Tensor = self.dropout(self.norm(summed))
        return embedded  # (B, S, H)


def seen_from_left(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which positions a left-to-right model looks at: bool (queries, keys), True at a query's own and those before."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()


FORBIDDEN = -1e9
"""What is added to the score of a position that may not be looked at: after the softmax nothing is left of it."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, dropout_prob: float, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention: softmax(Q K^T / sqrt(D)) V (Vaswani et al., equation 1).

    Written out on a CPU, where PyTorch's fused kernels take up to three times as long (docs/decisions.md), and fused on
    a GPU.

    Args:
        query: (B, A, P, D), of the first P positions.
        key: what queries are compared with, (B, A, S, D).
        value: what is averaged, (B, A, S, D).
        allowed: boolean (B, 1, 1, S), True where a position may be looked at; None where all may.
        dropout_prob: dropout on the attention weights.
        causal: whether a position sees itself and those before it only. Padding stands on the right, where no real
            position then looks: `allowed` is not needed, and not read.

    Returns:
        (B, A, P, D).
    """
    batch, heads, queries, width = query.shape
    if query.is_cuda:
        # What PyTorch's variable-length kernel takes.
        flash = query.dtype == torch.bfloat16 and dropout_prob == 0 and width % 8 == 0 and width <= 256
        if flash and query.shape == key.shape and allowed is not None and not causal:
            return attend_within(query, key, value, allowed)
        mask = None if causal else allowed
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_prob, is_causal=causal)
    if causal:
        allowed = seen_from_left(queries, key.shape[-2], query.device)[None, None]  # (1, 1, P, S)
    bias = query.new_zeros(1, 1, 1)
    if allowed is not None:
        bias = query.new_zeros(allowed.shape).masked_fill(~allowed, FORBIDDEN)
        bias = bias.expand(batch, heads, -1, -1).flatten(0, 1)  # (B A, 1 or P, S)
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # (B A, P or S, D)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=width**-0.5)  # (B A, P, S)
    weights = dropout(scores.softmax(-1), dropout_prob, training=dropout_prob > 0)
    return torch.bmm(weights, value).view(batch, heads, queries, width)


def attend_within(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """`attend` on a GPU by flash attention, which knows no mask, but stretches of different lengths end to end.

    Each row is two stretches: its real tokens, and the padding on their right, which looks at itself and is never read.
    With all positions in place nothing is copied, and no shape hangs on how long the rows are.

    Args:
        query: bfloat16 (B, A, S, D).
        key: (B, A, S, D).
        value: (B, A, S, D).
        allowed: bool (B, 1, 1, S), True at real tokens, which stand on the left.

    Returns:
        (B, A, S, D).
    """
    batch, heads, seq, width = query.shape
    starts = torch.arange(batch, device=query.device) * seq  # (B,)
    ends = starts + allowed.sum(-1).flatten()  # (B,) of the real tokens
    edges = torch.cat([torch.stack([starts, ends], dim=1).flatten(), starts[-1:] + seq]).int()  # (2 B + 1,)
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))  # (B S, A, D) each
    context = varlen_attn(query, key, value, edges, edges, seq, seq)
    assert isinstance(context, Tensor)  # no log-sum-exp was asked for
    return context.view(batch, seq, heads, width).transpose(1, 2)


class SelfAttention(nn.Module):
    """Every position looks at every position, left and right, in A subspaces at once (Vaswani et al., section 3.2).

    In a left-to-right model (section 5.1) it looks at itself and to the left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.causal = config.is_decoder
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, allowed: Tensor | None, positions: int | None = None) -> Tensor:
        """Attend in all heads at once, and join them by one more matrix.

        Args:
            hidden: (B, S, H).
            allowed: as in `attend`.
            positions: P, how many positions, from the first, are wanted; None for all.

        Returns:
            (B, P, H).
        """
        batch, seq, width = hidden.shape
        maps = (self.query, self.key, self.value)
        # One matrix product for all three: three small ones would read the hidden states three times.
        projected = F.linear(
            hidden, torch.cat([part.weight for part in maps]), torch.cat([part.bias for part in maps])
        )  # (B, S, 3 H)
        query, key, value = (
            projected.view(batch, seq, 3, self.num_heads, width // self.num_heads)
            .permute(2, 0, 3, 1, 4)  # (3, B, A, S, D)
            .unbind(0)
        )
        query = query[:, :, :positions]  # (B, A, P, D)
        dropout_prob = self.dropout_prob if self.training else 0.0
        context = attend(query, key, value, allowed, dropout_prob, self.causal)  # (B, A, P, D)
        joined: Tensor = self.output(context.transpose(1, 2).flatten(2))
        return joined  # (B, P, H)


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

    def forward(self, hidden: Tensor, allowed: Tensor | None, positions: int | None = None) -> Tensor:
        """Map (B, S, H) to (B, P, H), where P `positions`, from the first, are wanted; None for all."""
        attended = self.attention(hidden, allowed, positions)
        hidden = self.attention_norm(hidden[:, :positions] + self.dropout(attended))
        hidden = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return hidden


class Pooler(nn.Module):
    """A summary of the sequence: the vector at [CLS] through a linear map and tanh (paper, section 3, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, S, H) to (B, H)."""
        return torch.tanh(self.dense(hidden[:, 0]))


class Bert(nn.Module):
    """The encoder: embeddings, L blocks and the pooler.

    Args:
        config: the shape of the network.
        vocab_size: number of entries V of the vocabulary.
        pad_token_id: id of [PAD], whose embedding stays zero.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.pad_token_id = pad_token_id
        self.embeddings = Embeddings(config, vocab_size, pad_token_id)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None,
        positions: int | None = None,
    ) -> Tensor:
        """Encode a batch.

        Args:
            input_ids: token ids, int64 (B, S).
            token_type_ids: segment of each token, int64 (B, S): 0 up to the first [SEP], 1 after it.
            attention_mask: (B, S), 1 or True at real tokens, 0 at padding, which stands on the right; None says that
                there is none.
            positions: P, how many positions, from the first, are wanted; None for all. The last block then computes no
                others: a classifier reads [CLS] alone, and saves nearly a block.

        Returns:
            One vector per position, (B, P, H). Those at padding mean nothing.
        """
        allowed = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # (B, 1, 1, S)
        hidden = self.embeddings(input_ids, token_type_ids)
        for block in self.blocks[:-1]:
            hidden = block(hidden, allowed)
        encoded: Tensor = self.blocks[-1](hidden, allowed, positions)
        return encoded


def initialize(module: nn.Module, initializer_range: float) -> None:
    """Draw the weights as the paper's code does: truncated normal for matrices, zero biases, unit normalisation.

    The truncation is at two standard deviations, as in google-research/bert (`create_initializer`); Hugging Face draws
    from the untruncated normal.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=initializer_range, a=-2 * initializer_range, b=2 * initializer_range)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


LOCAL_LAYERS = 2
"""How many blocks, from the first, `start_local` gives heads that look at a neighbour."""

LOCAL_SCORE = 6.0
"""Attention score of a head's neighbour in `start_local`, before the softmax; other positions stay near zero."""


def start_local(bert: Bert) -> None:
    """First weights with which the heads of the first blocks already look at a neighbour each.

    From small random weights attention is even at first, and a masked-language model guesses from word frequencies
    alone until it has found out that the words beside a gap matter. Starting from structure shortens that (Trockman and
    Kolter 2023, "Mimetic Initialization of Self-Attention Layers"): only first weights change, the network is the same.

    Positions start as sines and cosines (Vaswani et al. 2017, section 3.5), as large as the token embeddings. A shift
    by d positions is then a rotation of each pair (sin wp, cos wp), so that a query made of rotated pairs and a key of
    plain ones meet at distance d. The heads of a block look at d = -1, 1, -2, 2 and so on.

    Args:
        bert: freshly initialised; hidden size and head width must be even. Changed in place.
    """
    config = bert.config
    width, heads = config.hidden_size, config.num_attention_heads
    pairs = torch.arange(width // 2)
    # Frequencies from pi down to almost nothing: the fast ones tell neighbours apart, the slow ones make places near
    # each other alike.
    frequency = math.pi * ((pairs + 0.5) / len(pairs)) ** 2  # (H / 2,)
    angle = torch.arange(config.max_position_embeddings)[:, None] * frequency  # (positions, H / 2)
    sines = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (positions, H): sin, cos, sin, cos, ...
    gain = math.sqrt(2 * LOCAL_SCORE / math.sqrt(width // heads))
    query, key = torch.zeros(2, width, width)  # (H, H) each, what is added to the blocks' matrices
    for head in range(heads):
        distance = (1 + head // 2) * (1 if head % 2 else -1)
        own = pairs[head::heads]  # every head has its own pairs, from fast to slow
        row = head * (width // heads) + 2 * torch.arange(len(own))
        sin, cos = (distance * frequency[own]).sin() * gain, (distance * frequency[own]).cos() * gain
        key[row, 2 * own] = gain
        key[row + 1, 2 * own + 1] = gain
        query[row, 2 * own] = cos  # sin(a + d) = sin a cos d + cos a sin d
        query[row, 2 * own + 1] = sin
        query[row + 1, 2 * own] = -sin  # cos(a + d) = cos a cos d - sin a sin d
        query[row + 1, 2 * own + 1] = cos
    with torch.no_grad():
        bert.embeddings.position.weight.copy_(config.initializer_range * math.sqrt(2) * sines)
        for block in list(bert.blocks)[:LOCAL_LAYERS]:
            assert isinstance(block, Block)
            block.attention.query.weight += query
            block.attention.key.weight += key


AVERAGE_GAIN = 4.0
"""How much larger than what a position held before the average is that `start_averaging` adds to it."""


def start_averaging(bert: Bert) -> None:
    """First weights with which the last block adds the average of all positions to each: queries of zero look at all.

    Put on a pre-trained encoder before fine-tuning, such a block gives [CLS] the average of all tokens from the first
    step on. A short pre-training leaves [CLS] knowing little of the text, and a classifier then learns single texts by
    heart before it has found out where to look. It is mean pooling, written in the weights of a plain BERT block, so
    that every tool that knows BERT can use the model, and from where training can go on to look at some tokens more.

    Args:
        bert: whose last block is freshly initialised. Changed in place.
    """
    block = bert.blocks[-1]
    assert isinstance(block, Block)
    identity = torch.eye(bert.config.hidden_size)  # (H, H)
    with torch.no_grad():
        block.attention.query.weight.zero_()
        block.attention.value.weight.copy_(identity)
        block.attention.output.weight.copy_(AVERAGE_GAIN * identity)
