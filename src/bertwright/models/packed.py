"""BERT's blocks for answers on a CPU that multiplies in bfloat16: those of `bert.py`, with rearranged matrices.

oneDNN, which computes PyTorch's products in bfloat16, reads a matrix in an order of its own. `nn.Linear` rearranges its
matrix at every call, which takes longer than the product where a text is short. Here that is done once.

Letters in the shapes are those of `bert.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.models.bert import Bert, Block, attend_in_heads
from bertwright.models.encoder import Encoder

_ROWS = 64
"""The rows of a batch that oneDNN chooses its order of a matrix for. Products with any other number are right, too."""


class PackedLinear:
    """A linear map, (..., in) to (..., out), whose matrix is rearranged.

    Args:
        weight: bfloat16 (out, in).
        bias: bfloat16 (out,).
        gelu: whether a GELU follows.
    """

    def __init__(self, weight: Tensor, bias: Tensor, gelu: bool = False) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.bias = bias.detach()
        self.then: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def __call__(self, inputs: Tensor) -> Tensor:
        """The map of inputs."""
        mapped: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, *self.then)
        return mapped


class PackedBlock(nn.Module):
    """A `Block` in evaluation mode, for inference alone.

    Args:
        block: in bfloat16; its weights are copied.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        self.num_heads, self.causal = attention.num_heads, attention.causal
        self.project = PackedLinear(*attention.projection())
        self.output = PackedLinear(attention.output.weight, attention.output.bias)
        self.expand = PackedLinear(feed_forward.expand.weight, feed_forward.expand.bias, gelu=True)
        self.contract = PackedLinear(feed_forward.contract.weight, feed_forward.contract.bias)
        self.attention_norm = block.attention_norm
        self.feed_forward_norm = block.feed_forward_norm

    def forward(self, hidden: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """As `Block.forward`."""
        context = attend_in_heads(self.project(hidden), self.num_heads, mask, positions, 0.0, self.causal)  # (B, P, H)
        hidden = self.attention_norm(hidden[:, :positions] + self.output(context))
        normed: Tensor = self.feed_forward_norm(hidden + self.contract(self.expand(hidden)))
        return normed


def pack(encoder: Encoder) -> None:
    """Rearrange the matrices of an encoder's blocks in place.

    An encoder of another architecture is not changed, nor is one of a class that changes BERT's.

    Args:
        encoder: in bfloat16 and evaluation mode, on the CPU; neither trained, saved nor copied any more.
    """
    if type(encoder) is Bert and torch._C._has_mkldnn:
        encoder.blocks = nn.ModuleList(PackedBlock(block) for block in encoder.blocks if isinstance(block, Block))
