"""The optimiser, its rate, and how long a gradient may be."""

from __future__ import annotations

import torch
from torch import nn

from anyregion.errors import InputError
from anyregion.training.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over everything in `module` that asks for a gradient.

    Raises:
        InputError: nothing does.
    """
    learned = [p for p in module.parameters() if p.requires_grad]
    if not learned:
        raise InputError("nothing to train: no parameter of the module asks for a gradient")
    if config.decay_all:
        groups = [{"params": learned, "weight_decay": config.weight_decay}]
    else:
        groups = [
            {"params": [p for p in learned if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def count_learned(module: nn.Module) -> int:
    """Number of parameters that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
