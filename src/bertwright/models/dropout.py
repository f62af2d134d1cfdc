"""Dropout (Srivastava et al. 2014; paper, appendix A.2) whose choices are a hash of each element's index.

On a CPU PyTorch draws random numbers one after the other, which would take half of a small BERT's step; on a GPU it
reads and writes all values once more. Here each element's number is a hash of its index and one drawn seed: it
vectorises, and the compiler fuses it into its neighbours. The hash is the finalizer of MurmurHash3 without its last
line, which improves the lower bits: a choice rests on the upper ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Set a random part of `values` to zero and scale up the rest, as `torch.nn.functional.dropout` does.

    Args:
        values: any shape.
        probability: of being set to zero, in [0, 1).
        training: outside of training nothing is dropped.

    Returns:
        A tensor like `values`.
    """
    if not training or probability == 0:
        return values
    if values.numel() > _INDICES:  # as parts, each with a seed of its own
        parts = [dropout(part, probability, training) for part in torch.split(values.flatten(), _INDICES)]
        return torch.cat(parts).view(values.shape)
    seed, threshold, scale = draw_seed(values.device), threshold_of(probability), 1 / (1 - probability)
    if torch.compiler.is_compiling():
        dropped: Tensor = _Compiled.apply(values, seed, threshold, scale)  # type: ignore[no-untyped-call]
        return dropped
    keep = kept(values.numel(), seed, threshold).view(values.shape)
    return torch.where(keep, values * scale, 0)


def draw_seed(device: torch.device) -> Tensor:
    """A number that decides on all elements of a tensor, int32 (1,), from PyTorch's own generator."""
    return torch.randint(-(2**31), 2**31 - 1, (1,), dtype=torch.int32, device=device)


def threshold_of(probability: float) -> int:
    """The number, of those with 32 bits and a sign, below which so large a part of them lies."""
    return min(round(probability * 2**32), 2**32 - 1) - 2**31


_INDICES = 2**31
"""As many elements have an index of 32 bits with a sign."""

_IN_CACHE = 2**18
"""Indices that are hashed together where nothing fuses the hash's steps: all of them then find theirs in the cache."""


class _Compiled(torch.autograd.Function):
    """`dropout` as the compiler sees it: the backward pass hashes once more, and is given the seed alone.

    Left to itself the compiler keeps the choices of the forward pass, and writing them costs ten times what hashing
    does. The operands of the two hashes are swapped, so that it does not find the same expression twice.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, seed: Tensor, threshold: int, scale: float) -> Tensor:
        """`values`, of any shape, scaled where the hash is at least the threshold, and zero elsewhere."""
        context.save_for_backward(seed)
        context.threshold, context.scale = threshold, scale
        keep = kept(values.numel(), seed, threshold).view(values.shape)
        return torch.where(keep, values * scale, 0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient with respect to `values`."""
        (seed,) = context.saved_tensors
        indices = torch.arange(gradient.numel(), dtype=torch.int32, device=gradient.device)
        keep = (hashed(seed ^ indices) >= context.threshold).view(gradient.shape)
        return torch.where(keep, gradient * context.scale, 0), None, None, None


def kept(count: int, seed: Tensor, threshold: int) -> Tensor:
    """Which of `count` elements dropout keeps, bool (count,): those whose hash is at least the threshold.

    Args:
        count: of elements.
        seed: int32 (1,).
        threshold: a number of 32 bits with a sign.
    """
    if seed.device.type != "cpu" or torch.compiler.is_compiling():
        return hashed(torch.arange(count, dtype=torch.int32, device=seed.device) ^ seed) >= threshold
    keep = torch.empty(count, dtype=torch.bool)
    for start in range(0, count, _IN_CACHE):
        part = keep[start : start + _IN_CACHE]
        indices = torch.arange(start, start + len(part), dtype=torch.int32)
        torch.ge(hashed(indices ^ seed), threshold, out=part)
    return keep


def hashed(bits: Tensor) -> Tensor:
    """MurmurHash3's finalizer of 32 bits without its last line; both are int32, which PyTorch multiplies modulo 2^32.

    The algorithm shifts zeros in from the left. A shift of a negative number brings ones, which are masked away: with
    them a number and its complement would have one hash.
    """
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * -2048144789
    return (bits ^ ((bits >> 13) & 0x7FFFF)) * -1028477387


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
