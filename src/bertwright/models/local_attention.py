"""Attention to neighbours alone, within a window around each position (Beltagy et al. 2020, "Longformer", section 3.1).

Its cost grows with the length of a text, not with the square: a long text is cut into parts of half a window, and each
part attends to itself and to the parts on both sides.

Letters in the shapes are those of `bert.py`; W half of the window, N parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bertwright.models.bert import attend

_SHORT = 2
"""Windows in a text up to which one masked product of all positions is faster than parts."""


def neighbours(queries: int, seq: int, window: int, mask: Tensor | None, device: torch.device) -> Tensor:
    """The positions that each query attends to: those at most half a window away, on either side.

    Args:
        queries: P, the first so many positions are queries.
        seq: S.
        window: the width of the window.
        mask: bool (B, 1, 1, S), True at real tokens; None where all are.
        device: of the result.

    Returns:
        bool (B or 1, 1, P, S). A position of padding attends to itself at least, since attention to nothing is not a
        number.
    """
    place = torch.arange(seq, device=device)
    distance = (place[:queries, None] - place).abs()  # (P, S)
    near = (distance <= window // 2)[None, None]
    return near if mask is None else near & mask | (distance == 0)


def attend_nearby(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, window: int, dropout_prob: float
) -> Tensor:
    """`attend` within a window.

    Args:
        query: (B, A, P, D), of the first P positions.
        key: (B, A, S, D).
        value: (B, A, S, D).
        mask: bool (B, 1, 1, S), True at real tokens; None where all are.
        window: the width of the window.
        dropout_prob: dropout on the attention weights.

    Returns:
        (B, A, P, D).
    """
    batch, heads, queries, width = query.shape
    seq, half = key.shape[2], window // 2
    # An exported graph holds one way for all lengths.
    if torch.compiler.is_exporting() or queries < seq or seq <= _SHORT * window:
        near = neighbours(queries, seq, window, mask, query.device)
        return attend(query, key, value, near, dropout_prob)
    parts = seq // half + 1  # N
    more = parts * half - seq  # padding to whole parts; never none, which the compiler would take for another case
    query = F.pad(query, (0, 0, 0, more)).view(batch, heads, parts, half, width).transpose(1, 2).flatten(0, 1)
    key, value = (
        F.pad(each, (0, 0, half, half + more)).unfold(2, 3 * half, half).permute(0, 2, 1, 4, 3).flatten(0, 1)
        for each in (key, value)
    )  # (B N, A, 3 W, D) each: a part and both neighbours
    real = query.new_ones(batch, seq, dtype=torch.bool) if mask is None else mask[:, 0, 0]
    real = F.pad(real, (half, half + more)).unfold(1, 3 * half, half).flatten(0, 1)[:, None, None]  # (B N, 1, 1, 3 W)
    place = torch.arange(3 * half, device=query.device)
    distance = (place[:half, None] + half - place).abs()  # (W, 3 W)
    context = attend(query, key, value, (distance <= half) & real | (distance == 0), dropout_prob)  # (B N, A, W, D)
    return context.view(batch, parts, heads, half, width).transpose(1, 2).flatten(2, 3)[:, :, :seq]
