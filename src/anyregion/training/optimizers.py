"""The optimiser, its rate, and how long a gradient may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from anyregion.errors import InputError
from anyregion.training.config import OptimizerConfig
from anyregion.training.lars import Lars


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or LARS over everything in `module` that asks for a gradient.

    Raises:
        InputError: nothing does; or `config.decay_also` names no such parameter.
    """
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not learned:
        raise InputError("nothing to train: no parameter of the module asks for a gradient")
    spared = _spared(learned, config)
    decayed = [p for name, p in learned.items() if name not in spared]
    others = [p for name, p in learned.items() if name in spared]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.kind == "lars":
        for group, adapted in zip(groups, (True, False), strict=True):
            group["adapted"] = adapted
        return Lars(
            [group for group in groups if group["params"]],
            lr=config.lr,
            momentum=config.momentum,
            eta=config.eta,
        )
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
    )


def _spared(learned: Mapping[str, nn.Parameter], config: OptimizerConfig) -> set[str]:
    """Names of the parameters that are not decayed, nor adapted by LARS."""
    if config.decay_all:
        return set()
    spared = {name for name, p in learned.items() if p.ndim < 2}
    for end in config.decay_also:
        named = {name for name in learned if name == end or name.endswith(f".{end}")}
        if not named:
            raise InputError(f"optimizer.decay_also: no parameter that learns ends in {end!r}")
        spared -= named
    return spared


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def count_learned(module: nn.Module) -> int:
    """Number of parameters that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
