"""`bert.attend` as the compiler sees it in training on a CPU: the same values, with a gradient that is written by hand.

Let the compiler find the gradient, and it hashes dropout's choices twice more and passes over the weights three times.
Two equations save that. Letters are those of `bert.py`. Of a row, s are the scores, w their softmax, y is w after
dropout, and c = y V the context; d before a letter is the loss's gradient with respect to it:

- dropout only scales, so that the softmax's own gradient, w (dw - sum(dw w)), is dy y - w sum(dy y): which weights were
  dropped need not be known again;
- sum(dy y) over the S positions is sum(dc c) over the D columns (Dao et al. 2022, "FlashAttention", appendix B.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bertwright.models.dropout import dropout


class CompiledAttention(torch.autograd.Function):
    """Softmax, dropout and both products of attention, for all sequences and heads side by side (B A)."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, probability: float) -> Tensor:
        """Contexts (B A, P, D).

        Args:
            context: PyTorch's.
            query: (B A, P, D).
            key: (B A, S, D).
            value: (B A, S, D).
            bias: added to the scores, (B A or 1, 1 or P, 1 or S).
            probability: of dropout on the weights; 0 is none.
        """
        factor = query.shape[-1] ** -0.5
        scores = torch.bmm(query, key.transpose(1, 2))  # (B A, P, S)
        exact = scores.float() * factor + bias  # in the kernel that reads the scores anyway
        greatest = exact.amax(-1, keepdim=True)
        powers = (exact - greatest).exp()
        total = powers.sum(-1, keepdim=True)
        weights = dropout(powers / total, probability, training=True).to(value.dtype)
        result = torch.bmm(weights, value)
        context.save_for_backward(query, key, value, bias, scores, greatest + total.log(), weights, result)
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients with respect to queries, keys and values."""
        query, key, value, bias, scores, log_total, weights, result = context.saved_tensors
        factor = query.shape[-1] ** -0.5
        to_weights = torch.bmm(gradient, value.transpose(1, 2))  # (B A, P, S)
        mean = (gradient.float() * result.float()).sum(-1, keepdim=True)  # (B A, P, 1)
        softmax = (scores.float() * factor + bias - log_total).exp()
        to_scores = (to_weights.float() * weights.float() - softmax * mean) * factor
        to_scores = to_scores.to(query.dtype)
        to_query, to_key = torch.bmm(to_scores, key), torch.bmm(to_scores.transpose(1, 2), query)
        return to_query, to_key, torch.bmm(weights.transpose(1, 2), gradient), None, None
