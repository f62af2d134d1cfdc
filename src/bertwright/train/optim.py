"""Optimizers and the learning rate over time (paper, appendix A.2 and A.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bertwright.settings import OptimizerConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's polynomial a x + b x^3 + c x^5: five times over it takes nearly all of (0, 1] to between 0.7 and 1.2."""

MOMENTUM = 0.95
"""The fraction of the running mean of gradients that a step of Muon keeps."""


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made orthogonal, so that it moves all directions alike (Jordan et al. 2024).

    Steps have the size of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2), so that one
    weight decay serves both. Unlike `torch.optim.Muon` it multiplies in the precision of the autocast around the call,
    where that one always takes bfloat16, which is thirty times slower than float32 on a CPU that has to emulate it;
    and it multiplies matrices of one shape together.

    Args:
        matrices: parameters of two dimensions.
        lr: the learning rate, in units of AdamW's update size.
        weight_decay: the part of a weight that a step takes away, times the rate.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: the loop has the gradients
        """Move each matrix that has a gradient."""
        for group in self.param_groups:
            updates: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    state = self.state[matrix]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(matrix)
                    mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
                    ahead = matrix.grad.lerp(mean, MOMENTUM)  # Nesterov's: the mean as it will be
                    updates.setdefault(matrix.shape, []).append((matrix, ahead))
            for shape, pairs in updates.items():
                size = 0.2 * math.sqrt(max(shape))  # AdamW's updates have a root mean square of 0.2 to 0.4
                moves = orthogonal(torch.stack([update for _, update in pairs]))
                for (matrix, _), move in zip(pairs, moves, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors, and singular values near 1, by Newton and Schulz's iteration.

    Args:
        matrices: float32 (n, rows, columns).

    Returns:
        (n, rows, columns), in the precision of the autocast around the call.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    model: nn.Module, matrices: list[nn.Parameter], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: AdamW alone, or Muon for the layers' matrices and AdamW for all else.

    Weight decay holds for matrices and embeddings, and not for biases and layer normalisation, as in
    google-research/bert (`exclude_from_weight_decay`). AdamW's bias correction is kept: leaving it out, as that code
    does, made fine-tuning on few labels unstable (Mosbach et al. 2021).

    Args:
        model: to train; parameters that need no gradient are left out.
        matrices: those that Muon takes, if the recipe asks for it (`Encoder.matrices`).
        config: rates and weight decay.
    """
    assert config.learning_rate is not None, "a recipe chooses it"
    matrices = [matrix for matrix in matrices if config.name == "muon" and matrix.requires_grad]
    taken = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(Muon(matrices, config.muon_learning_rate, config.weight_decay))
    return optimizers


def learning_rate_factor(
    progress: float, step_fraction: float, warmup_ratio: float, begun: float = 0.0, begun_factor: float = 0.0
) -> float:
    """The fraction of the peak rate to use: a climb from zero, then a straight line to zero at the budget's end.

    A run that continues under another budget climbs in a straight line from the rate at which it stood to this
    schedule, over `warmup_ratio` of what was left of the budget then.

    Args:
        progress: fraction of the budget spent before this step, in [0, 1].
        step_fraction: fraction of the budget that one step takes, so that the first step has a rate above zero.
        warmup_ratio: fraction of the budget in which the rate climbs.
        begun: fraction of the budget that was spent when it replaced another; 0 for a run with one budget.
        begun_factor: the factor at that time.

    Returns:
        A factor in [0, 1].
    """
    if progress + step_fraction < warmup_ratio:
        line = (progress + step_fraction) / warmup_ratio
    else:
        line = min(1.0, max(0.0, 1 - progress) / (1 - warmup_ratio))
    done, climb = progress + step_fraction - begun, warmup_ratio * (1 - begun)
    if begun == 0 or done >= climb:
        return line
    return begun_factor + (line - begun_factor) * done / climb


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> float:
    """Set every group to `factor` times its peak rate; returns AdamW's rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * factor
    rate: float = optimizers[0].param_groups[0]["lr"]
    return rate
