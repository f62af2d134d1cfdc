"""Integrated gradients: how much each token's embedding raises a quantity that a model computes.

The input goes in small steps from a baseline, in which every token is [MASK], to the tokens' own embeddings
(Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertwright.inputs.sequences import Sequence
from bertwright.models.heads import TaskModel

Score = Callable[[Tensor], Tensor]
"""The quantity that is explained, (B,), from logits (B, K)."""

PASSES = 24
"""Points at which the gradient is taken: those of Gauss-Legendre quadrature."""

_TOKENS_AT_ONCE = 1_024
"""Tokens that are computed together, of one window at some points: memory stays small, and the pieces short."""


@dataclass(frozen=True)
class _Window:
    """A part of the text that the model reads at once, S tokens.

    Args:
        input_ids: `[CLS] text [SEP]` or a pair, int64 (S,).
        token_type_ids: int64 (S,).
        special: True at the tokens of the frame, bool (S,).
    """

    input_ids: Tensor
    token_type_ids: Tensor
    special: Tensor


def integrated_gradients(
    classifier: TaskModel, parts: Many[Sequence], score: Score, mask_id: int
) -> Generator[None, None, tuple[Tensor, float]]:
    """Attributions of all tokens but those of the frame, float32 (tokens,), and the score of the baseline.

    A window is computed at a time, forward and back, so that memory does not grow with the text.

    Args:
        classifier: in evaluation mode. Its weights are only read, so that other threads can predict meanwhile.
        parts: the text's windows.
        score: the quantity that is explained.
        mask_id: id of [MASK].
    """
    table = classifier.encoder.token_embeddings
    inputs = [_window(part, table.weight.device) for part in parts]
    with torch.no_grad():
        end = [table(window.input_ids) for window in inputs]  # of each window (S, H)
        start = [table(torch.where(window.special, window.input_ids, mask_id)) for window in inputs]
    masked = yield from _mean_logits(classifier, inputs, [vectors[None] for vectors in start])
    points, weights = np.polynomial.legendre.leggauss(PASSES)
    gradients = [torch.zeros_like(vectors) for vectors in end]
    at_once = max(1, _TOKENS_AT_ONCE // max(map(len, parts)))
    for begin in range(0, PASSES, at_once):
        along, weight = (
            torch.tensor(values[begin : begin + at_once] / 2, dtype=end[0].dtype, device=end[0].device)
            for values in (points + 1, weights)
        )
        vectors = [a + along[:, None, None] * (b - a) for a, b in zip(start, end, strict=True)]  # (points, S, H)
        # The mean over windows is needed before the first of them can be differentiated.
        mean = (yield from _mean_logits(classifier, inputs, vectors)) if len(inputs) > 1 else None
        for window, own, gradient in zip(inputs, vectors, gradients, strict=True):
            logits = _logits(classifier, window, own.requires_grad_())
            slope = _slope(logits.detach() if mean is None else mean, score) * weight[:, None] / len(inputs)
            gradient += torch.autograd.grad(logits, own, slope)[0].sum(0)
            yield
    attributions = [
        ((b - a) * gradient).sum(-1)[~window.special]
        for window, a, b, gradient in zip(inputs, start, end, gradients, strict=True)
    ]
    return torch.cat(attributions).detach(), float(score(masked)[0])


def _mean_logits(classifier: TaskModel, inputs: Many[_Window], vectors: Many[Tensor]) -> Generator[None, None, Tensor]:
    """The mean over windows of the logits (B, K), with `vectors`, for each window (B, S, H), as its embeddings."""
    total = torch.zeros(())
    for window, own in zip(inputs, vectors, strict=True):
        with torch.no_grad():  # of this thread; it must not last over a yield
            total = total.to(own.device) + _logits(classifier, window, own)
        yield
    return total / len(inputs)


def _window(part: Sequence, device: torch.device) -> _Window:
    ids, segments = (torch.from_numpy(values.astype(np.int64)) for values in (part.input_ids, part.token_type_ids))
    return _Window(ids.to(device), segments.to(device), torch.from_numpy(part.special_tokens_mask).to(device))


def log_odds(logits: Tensor, target: int) -> Tensor:
    """Log-odds of a class, (B,), from logits (B, K)."""
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=-1)
    odds: Tensor = logits[:, target] - others.logsumexp(-1)
    return odds


def output(logits: Tensor, target: int) -> Tensor:
    """One of the outputs, (B,), from logits (B, K): a label's log-odds, or a number."""
    return logits[:, target]


def _slope(logits: Tensor, score: Score) -> Tensor:
    """The derivative of the score by the logits, (B, K)."""
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def _logits(classifier: TaskModel, window: _Window, vectors: Tensor) -> Tensor:
    """Logits (B, K) of a window with `vectors` (B, S, H) in place of its token embeddings."""
    ids, segments = (values.expand(len(vectors), -1) for values in (window.input_ids, window.token_type_ids))
    logits: Tensor = classifier(ids, segments, inputs_embeds=vectors)
    return logits
