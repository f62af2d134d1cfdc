"""The heads on two texts of which one answers the other: spans of a context, and choices.

Letters in the shapes are those of `heads.py`; C choices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.errors import UserError
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head, Loss, SequenceHead, soft_cross_entropy


class SpanHead(Head):
    """Start and end of an answer: two logits for every token (paper, section 4.2).

    Args:
        hidden_size: width H.
        transform: as in `TokenHead`.
    """

    kind = "span"
    same_outputs = True

    def __init__(self, hidden_size: int, transform: nn.Module | None = None) -> None:
        super().__init__()
        self.transform = transform or nn.Identity()
        self.span = nn.Linear(hidden_size, 2)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (B, S, H) to logits (B, S, 2); those of padding are so low that nothing starts or ends there."""
        logits: Tensor = self.span(self.transform(hidden))
        if attention_mask is None:
            return logits
        return logits.masked_fill(~attention_mask.bool()[..., None], torch.finfo(logits.dtype).min)

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """The mean of the cross-entropies of start and end, over the tokens of each sequence.

        Args:
            logits: (B, S, 2).
            targets: 1 at the first token of the answer, and in the second column at its last one, (B, S, 2).
        """
        ends = soft_cross_entropy(logits.transpose(1, 2).flatten(0, 1), targets.transpose(1, 2).flatten(0, 1))
        assert ends.correct is not None
        both = (logits.argmax(1) == targets.argmax(1)).all(-1) & (targets.sum((1, 2)) > 0)
        return Loss(ends.total / 2, self.scored(targets), both.sum())

    def scored(self, targets: Tensor) -> Tensor:
        """How many sequences have an answer to find, at [CLS] or elsewhere."""
        return (targets.sum((1, 2)) > 0).sum()


class ChoiceHead(SequenceHead):
    """One logit for each choice, from its sequence's pooled [CLS] vector (paper, section 4.4).

    Args:
        hidden_size: width H.
        dropout: on the pooled vector.
        causal: whether the encoder is causal.
        pooler: as in `SequenceHead`.
    """

    kind = "choice"
    same_outputs = True

    def __init__(self, hidden_size: int, dropout: float, causal: bool = False, pooler: nn.Module | None = None) -> None:
        super().__init__(hidden_size, 1, dropout, causal, pooler)

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """The cross-entropy over the choices of each record.

        Args:
            logits: of records with C choices each, one after the other, (B x C, 1).
            targets: for each choice the same row, with 1 at the right one, (B x C, C).
        """
        choices = targets.shape[1]
        return soft_cross_entropy(logits.view(-1, choices), targets[::choices])

    def scored(self, targets: Tensor) -> Tensor:
        """How many records."""
        return super().scored(targets[:: targets.shape[1]])


def require_segments(encoder: Encoder, what: str) -> None:
    """See that an encoder tells two texts apart: by segments, or, where an architecture has none, by [SEP].

    Args:
        encoder: any.
        what: the two texts, for a message.

    Raises:
        UserError: if it knows one segment only.
    """
    if encoder.has_segments and encoder.config.type_vocab_size < 2:
        raise UserError(f"the encoder knows one segment (type_vocab_size), and {what} are two; take another encoder")
