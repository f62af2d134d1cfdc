"""Initialization: all weights random as in the paper, or what a recipe asks for in place of them.

Each changes initial weights alone: the network and everything that is trained afterwards are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bertwright.errors import UserError
from bertwright.models.bert import Bert, Block
from bertwright.models.encoder import Encoder

if TYPE_CHECKING:
    from bertwright.models.heads import PretrainingModel


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
            if part.bias is not None:
                nn.init.zeros_(part.bias)


LOCAL_LAYERS = 2
"""How many blocks, from the first, `initialize_local_attention` gives heads that attend to a neighbour."""

LOCAL_SCORE = 6.0
"""Attention score of a head's neighbour in `initialize_local_attention`, before the softmax; others stay near zero."""


def initialize_local_attention(encoder: Bert) -> None:
    """Initial weights with which each head of the first blocks attends to a neighbour.

    From small random weights attention is even at first, and a masked language model predicts from token frequencies
    alone until it has found that the neighbours of a masked token matter. Starting from structure shortens that
    (Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers").

    Positions start as sines and cosines (Vaswani et al. 2017, section 3.5), as large as the token embeddings. The heads
    of a block attend to the positions at distance -1, 1, -2, 2 and so on.

    Args:
        encoder: freshly initialised; hidden size and head width must be even. Changed in place.
    """
    config = encoder.config
    width, heads = config.hidden_size, config.num_attention_heads
    pairs = torch.arange(width // 2)
    # Frequencies from pi down to almost nothing: the fast ones tell neighbours apart, the slow ones make places near
    # each other alike.
    frequency = math.pi * ((pairs + 0.5) / len(pairs)) ** 2  # (H / 2,)
    angle = torch.arange(config.max_position_embeddings)[:, None] * frequency  # (positions, H / 2)
    sines = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (positions, H): sin, cos, sin, cos, ...
    query, key = _neighbour_maps(frequency, heads)
    with torch.no_grad():
        encoder.embeddings.position.weight.copy_(config.initializer_range * math.sqrt(2) * sines)
        for block in list(encoder.blocks)[:LOCAL_LAYERS]:
            assert isinstance(block, Block)
            block.attention.query.weight += query
            block.attention.key.weight += key


def _neighbour_maps(frequency: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Query and key matrices, (H, H) each, with which each head attends to one distance.

    A shift by d positions is a rotation of each pair (sin wp, cos wp), so that a query made of rotated pairs and a key
    of plain ones meet at distance d.

    Args:
        frequency: w of each pair, (H / 2,).
        heads: number of heads.
    """
    width = 2 * len(frequency)
    pairs = torch.arange(len(frequency))
    gain = math.sqrt(2 * LOCAL_SCORE / math.sqrt(width // heads))
    query, key = torch.zeros(2, width, width)
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
    return query, key


AVERAGE_GAIN = 4.0
"""How much larger the average that `initialize_averaging` adds is than the vector that a position held before."""


def initialize_averaging(encoder: Bert) -> None:
    """Initial weights with which the last block adds the average of all positions to each: queries of zero.

    Put on a pre-trained encoder before fine-tuning, such a block gives [CLS] the average of all tokens from the first
    step on. After a short pre-training the vector at [CLS] says little of the text, and a classifier then overfits to
    single texts before its attention is of use. It is mean pooling, written in the weights of a plain BERT block, so
    that every tool that reads BERT can use the model, and training can still learn to weigh some tokens more.

    Args:
        encoder: whose last block is freshly initialised. Changed in place.
    """
    block = encoder.blocks[-1]
    assert isinstance(block, Block)
    identity = torch.eye(encoder.config.hidden_size)  # (H, H)
    with torch.no_grad():
        block.attention.query.weight.zero_()
        block.attention.value.weight.copy_(identity)
        block.attention.output.weight.copy_(AVERAGE_GAIN * identity)


def initialize_embeddings(
    model: PretrainingModel, vectors: npt.NDArray[np.float32], frequencies: npt.NDArray[np.float32]
) -> None:
    """First token embeddings from co-occurrence counts, in place of random ones.

    A token that never stands near another keeps its random embedding. The output bias gives each token's frequency,
    so that embeddings need not: a bias that starts at zero moves by no more than the learning rate in a step.

    Args:
        model: freshly initialised. Changed in place.
        vectors: a unit vector per token, float32 (V, H).
        frequencies: each token's fraction of the text, float32 (V,).
    """
    width = vectors.shape[1]
    embedding = model.encoder.token_embeddings.weight
    with torch.no_grad():
        counted = torch.from_numpy(vectors.any(1))
        scale = model.encoder.config.initializer_range * width**0.5  # the length of a random one
        embedding[counted] = scale * torch.from_numpy(vectors)[counted]
        logs = torch.from_numpy(frequencies).log()
        model.masked_language_model.bias.copy_(logs - logs.mean())


def initialize_new_words(
    model: PretrainingModel, first: int, pieces: Sequence[Sequence[int]], counts: npt.NDArray[np.int64]
) -> None:
    """Give an encoder rows for new entries of its vocabulary, at the end.

    An entry's vector is the mean of its pieces', as the encoder met the word before. Its output bias is what the old
    biases say of an entry of its frequency: a line through bias and log frequency of the old entries in the text.

    Args:
        model: an encoder's. Changed in place: table, output bias and output matrix grow. Rows beyond its vocabulary,
            which fill up many a table, are used first.
        first: the id of the first new entry, the number of old ones.
        pieces: of each new entry, the ids that the old vocabulary cuts it into, one or more.
        counts: how often each entry stands in the text, int64 (old and new entries,).
    """
    head, embedding, size = model.masked_language_model, model.encoder.token_embeddings, first + len(pieces)
    tables: list[nn.Embedding | nn.Linear] = [embedding] if head.decoder is None else [embedding, head.decoder]
    with torch.no_grad():
        for table in tables:
            table.weight = nn.Parameter(_longer(table.weight, size))
            for row, parts in enumerate(pieces, first):
                table.weight[row] = table.weight[list(parts)].mean(0)
        head.bias = nn.Parameter(_longer(head.bias, size))
        bias, logs = head.bias[:size].double().numpy(), np.log(np.maximum(counts, 1))
        known = np.flatnonzero(counts[:first])
        slope, level = np.polyfit(logs[known], bias[known], 1) if len(known) > 1 else (0.0, 0.0)
        head.bias[first:size] = torch.from_numpy(slope * logs[first:] + level)
    model.encoder.vocab_size = embedding.num_embeddings = len(embedding.weight)
    if head.decoder is not None:
        head.decoder.out_features = len(embedding.weight)


def _longer(values: Tensor, size: int) -> Tensor:
    """The same rows, (rows, ...), with zeros after them up to a number of rows."""
    return torch.cat([values, values.new_zeros(max(0, size - len(values)), *values.shape[1:])])


def as_bert(encoder: Encoder, setting: str) -> Bert:
    """The encoder, if it is a BERT, whose layers some initializations are made for.

    Args:
        encoder: any.
        setting: the recipe's, for the message.

    Raises:
        UserError: if it is of another architecture.
    """
    if not isinstance(encoder, Bert):
        raise UserError(
            f"{setting} is made for model.architecture bert, and this encoder is a {encoder.config.architecture}"
        )
    return encoder
