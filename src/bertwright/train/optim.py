"""Optimizers and the learning rate over time (paper, appendix A.2 and A.3)."""

from __future__ import annotations

import torch
from torch import nn

from bertwright.config import OptimizerConfig


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: AdamW alone, or Muon for the blocks' matrices and AdamW for all else.

    Weight decay holds for matrices and embeddings, and not for biases and layer normalisation, as in
    google-research/bert (`exclude_from_weight_decay`). AdamW's bias correction is kept: leaving it out, as that code
    does, is what made fine-tuning on few labels unstable (Mosbach et al. 2021).

    Muon (Jordan et al. 2024) makes each update of a matrix orthogonal; with `match_rms_adamw` (Liu et al. 2025) its
    steps have the size of AdamW's, and one weight decay serves both.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [p for name, p in named if config.name == "muon" and ".blocks." in f".{name}" and p.ndim == 2]
    taken = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in named if id(parameter) not in taken]
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
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices,
        lr=config.muon_learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


def learning_rate_factor(progress: float, tick: float, warmup_share: float) -> float:
    """The part of the peak rate to use: a climb from zero, then a straight line down to zero at the budget's end.

    Args:
        progress: part of the budget spent before this step, in [0, 1].
        tick: part of the budget that one step takes, so that the first step is not wasted on a rate of zero.
        warmup_share: part of the budget in which the rate climbs.

    Returns:
        A factor in [0, 1].
    """
    if progress + tick < warmup_share:
        return (progress + tick) / warmup_share
    return min(1.0, max(0.0, 1 - progress) / (1 - warmup_share))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> float:
    """Set every group to `factor` times its peak rate; returns AdamW's rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * factor
    rate: float = optimizers[0].param_groups[0]["lr"]
    return rate
