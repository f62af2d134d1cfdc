"""BERT's self-attention with two places at which variants of modern_shape.py and lever_variants.py differ from it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bertwright.models.bert import SelfAttention, attend, heads_of


class VariedSelfAttention(SelfAttention):
    """As BERT's; a variant replaces `changed` or `attended`."""

    def forward(self, hidden: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """As BERT's."""
        query, key, value = heads_of(F.linear(hidden, *self.projection()), self.num_heads)
        query, key = self.changed(query, key)
        context = self.attended(query[:, :, :positions], key, value, mask, self.dropout.p if self.training else 0.0)
        joined: Tensor = self.output(context.transpose(1, 2).flatten(2))
        return joined

    def changed(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, (B, A, S, D) each, before they are compared."""
        return query, key

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_prob: float) -> Tensor:
        """As `attend`."""
        return attend(query, key, value, mask, dropout_prob)
