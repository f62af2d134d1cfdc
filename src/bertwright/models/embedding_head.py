"""One vector for a text: the pooling on the encoder, and the losses that train it.

Letters in the shapes: N examples in the global batch, C candidates, H hidden size; B and S as in `heads.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bertwright.errors import UserError
from bertwright.models.heads import Head
from bertwright.models.sentence_folder import Pooling


class EmbeddingHead(Head):
    """The vector of a text, without weights of its own.

    Args:
        pooling: how tokens' vectors become one.
        causal: whether the encoder is causal.
        temperature: of the loss; divides cosines.
        sizes: how many numbers of a vector, from the first, are trained to be one by themselves.
        scores: whether pairs have scores, in whose order their cosines are to be.

    Raises:
        UserError: if the vector of [CLS] is asked of a causal encoder.
    """

    kind = "embedding"
    in_batch = True

    def __init__(
        self,
        pooling: Pooling,
        causal: bool = False,
        temperature: float = 0.05,
        sizes: Sequence[int] = (),
        scores: bool = False,
    ) -> None:
        super().__init__()
        if causal and pooling.mode == "cls":
            raise UserError("the encoder is causal, and its [CLS] attends to no other token; choose the pooling mean")
        self.pooling = pooling
        self.temperature = temperature
        self.sizes = tuple(sizes)
        self.scores = scores
        self.positions = 1 if pooling.mode == "cls" else None

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (B, S, H) to vectors (B, H), float32; (B, dimensions) where the pooling cuts them."""
        hidden = hidden.float()
        if self.pooling.mode == "cls":
            vectors = hidden[:, 0]
        elif attention_mask is None:
            vectors = hidden.mean(1)
        else:
            real = attention_mask.to(hidden).unsqueeze(-1)  # (B, S, 1)
            vectors = (hidden * real).sum(1) / real.sum(1)
        if self.pooling.dimensions is not None:
            return cut_and_normalized(vectors, self.pooling.dimensions)
        return F.normalize(vectors, dim=-1) if self.pooling.normalize else vectors

    def scored(self, targets: Tensor) -> Tensor:
        """How many examples there are: targets (sequences, 3) are 1 at the first sequence of each."""
        return (targets[:, 0] > 0).sum()

    def batch_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example of a global batch, (N,).

        Args:
            outputs: vectors, (N * sequences of an example, H).
            targets: 1 at the first sequence of an example, the number of the text, and the score, float32 (as many, 3).
        """
        examples = int(self.scored(targets))
        vectors, texts = outputs.view(examples, -1, outputs.shape[1]), targets[:, 1].long().view(examples, -1)
        if self.scores:
            return ranking_losses(vectors, targets[:, 2].view(examples, -1)[:, 0], self.temperature, self.sizes)
        return contrastive_losses(vectors, texts, self.temperature, self.sizes)


def cut_and_normalized(vectors: Tensor, size: int) -> Tensor:
    """The first `size` numbers of vectors (..., H), divided by their length."""
    return F.normalize(vectors[..., :size], dim=-1)


def contrastive_losses(vectors: Tensor, texts: Tensor, temperature: float, sizes: Sequence[int]) -> Tensor:
    """The cross-entropy of each example's positive among all positives and hard negatives of a global batch.

    InfoNCE (van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4) on
    cosines. No negative of an example is a candidate that equals its text, or a positive of that text in any example:
    of a query with several right answers each has a row of its own.

    Args:
        vectors: of each example its text, its positive and perhaps a hard negative, (N, 2 or 3, H).
        texts: numbers of the texts, the same for equal ones, int64 (N, 2 or 3).
        temperature: divides cosines.
        sizes: how many numbers of a vector, from the first, are a vector by themselves; the loss is the mean over them
            (Kusupati et al. 2022, "Matryoshka Representation Learning").

    Returns:
        (N,), in nats.
    """
    examples = len(vectors)
    # Candidates: all positives, then all hard negatives.
    candidates, numbers = vectors[:, 1:].transpose(0, 1).flatten(0, 1), texts[:, 1:].T.flatten()  # (C, H), (C,)
    same_text = (texts[:, :1] == texts[:, 0]).float()  # (N, N)
    # How many examples of the same text have a positive that equals the candidate.
    positives = same_text @ (texts[:, 1:2] == numbers).float()  # (N, C)
    excluded = (numbers == texts[:, :1]) | (positives > 0)  # (N, C)
    excluded[torch.arange(examples), torch.arange(examples)] = False
    losses = []
    for size in sizes:
        cosines = cut_and_normalized(vectors[:, 0], size) @ cut_and_normalized(candidates, size).T  # (N, C)
        logits = (cosines / temperature).masked_fill(excluded, -torch.inf)
        losses.append(F.cross_entropy(logits, torch.arange(examples, device=logits.device), reduction="none"))
    return torch.stack(losses).mean(0)


def ranking_loss(cosines: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """How far the order of cosines differs from that of scores: log(1 + sum of exp((cos_j - cos_i) / temperature)).

    The sum is over all i and j with score i > score j (CoSENT: Huang et al. 2024, "CoSENT: Consistent Sentence
    Embedding via Similarity Ranking"). Cosines need not be on the scale of the scores.

    Args:
        cosines: (N,).
        scores: (N,).
        temperature: divides cosines.

    Returns:
        A scalar.
    """
    differences = (cosines[None, :] - cosines[:, None]) / temperature  # (i, j)
    chosen = differences[scores[:, None] > scores[None, :]]
    return torch.logsumexp(torch.cat([chosen.new_zeros(1), chosen]), 0)


def ranking_losses(vectors: Tensor, scores: Tensor, temperature: float, sizes: Sequence[int]) -> Tensor:
    """`ranking_loss` of pairs of vectors (N, 2, H), the mean over sizes; a row for each example, all equal, (N,)."""
    losses = []
    for size in sizes:
        first, second = cut_and_normalized(vectors, size).unbind(1)
        losses.append(ranking_loss((first * second).sum(-1), scores, temperature))
    return torch.stack(losses).mean().expand(len(vectors))
