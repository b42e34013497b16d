"""The optimiser with its groups of parameters, its learning rate, and the mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anyregion.errors import InputError
from anyregion.training.config import OptimizerConfig, ScheduleConfig
from anyregion.training.lars import Lars


def build_optimizer(
    module: nn.Module, config: OptimizerConfig, rate_scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW, LARS or SGD over every parameter of `module` that needs a gradient.

    Args:
        rate_scales: by parameter, see `Task.rate_scales`; each group has its own as `lr_scale`,
            which the step multiplies the rate by.

    Raises:
        InputError: none does; or `config.decay_also` names no such parameter.
    """
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise InputError("nothing to train: no parameter of the module asks for a gradient")
    exempt = _exempt_from_decay(trainable, config)
    scales = {name: (rate_scales or {}).get(name, 1.0) for name in trainable}
    groups: list[dict[str, Any]] = [
        {
            "params": [
                p
                for name, p in trainable.items()
                if (name in exempt) == is_exempt and scales[name] == scale
            ],
            "weight_decay": 0.0 if is_exempt else config.weight_decay,
            "adapted": not is_exempt,
            "lr_scale": scale,
        }
        for is_exempt in (False, True)
        for scale in sorted(set(scales.values()))
    ]
    groups = [group for group in groups if group["params"]]
    if config.kind == "lars":
        return Lars(groups, lr=config.lr, momentum=config.momentum, eta=config.eta)
    for group in groups:
        del group["adapted"]  # of LARS: whether its trust ratio applies
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def _exempt_from_decay(trainable: Mapping[str, nn.Parameter], config: OptimizerConfig) -> set[str]:
    """Names of the parameters that are not decayed, nor adapted by LARS."""
    if config.decay_all:
        return set()
    # biases and the scales of norms: pulling them to 0 is no regularisation
    exempt = {name for name, p in trainable.items() if p.ndim < 2}
    for end in config.decay_also:
        decayed = {name for name in trainable if name == end or name.endswith(f".{end}")}
        if not decayed:
            raise InputError(f"optimizer.decay_also: no parameter that learns ends in {end!r}")
        exempt -= decayed
    return exempt


def rate_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `steps`: warm-up times curve.

    A function of the step alone, so that there is nothing to save.
    """
    warmup = 1.0
    if step < schedule.warmup_steps:
        start = schedule.warmup_from
        warmup = start + (1 - start) * step / schedule.warmup_steps
    if schedule.kind == "step":
        passed = sum(step >= milestone for milestone in schedule.milestones)
        return warmup * float(schedule.gamma**passed)
    # from the end of the warm-up to the step behind the last one
    if schedule.kind == "cosine" and step >= schedule.warmup_steps:
        part = (step - schedule.warmup_steps) / max(steps - schedule.warmup_steps, 1)
        curve = (1 + math.cos(math.pi * min(part, 1.0))) / 2
        return warmup * (schedule.final + (1 - schedule.final) * curve)
    return warmup


def weight_average(module: nn.Module, decay: float) -> AveragedModel:
    """A running mean of the weights (EMA), which often does better than the last of them.

    It starts at the first update's weights; buffers (a BatchNorm's) are copied, not averaged.
    """
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(module, multi_avg_fn=update)


def count_trainable(module: nn.Module) -> int:
    """Number of parameters that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
