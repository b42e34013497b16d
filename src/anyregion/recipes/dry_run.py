"""A training rehearsed: data and weights in place, one batch through the module, and the plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from anyregion.errors import AnyRegionError
from anyregion.recipes.loading import Training
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import own_device
from anyregion.training.optimizers import count_trainable
from anyregion.training.seeds import seed_torch
from anyregion.training.task import resolve_best


def dry_run(training: Training) -> dict[str, str]:
    """Build the task, read one step's images, run them forward and backward; write nothing.

    Returns:
        The plan in lines, by their names.

    Raises:
        AnyRegionError: whatever the training itself would end with: data or weights that are
            missing, shapes that do not fit, a loss that is not finite.
    """
    task = training.build()
    loop = resolve_best(task.on_fit_start(training.loop), task.metrics)
    module = task.module.to(own_device(loop.device)).train()
    items = task.plan(0)
    started = time.perf_counter()
    # as many as go through at once; the step is so many times as long
    size = min(loop.micro_batch or len(items), len(items))
    examples = [task.load(item) for item in items[:size]]
    reading = time.perf_counter() - started
    seed_torch(loop.seed, "step", 0, 0)
    started = time.perf_counter()
    device = torch.device(own_device(loop.device)).type
    dtype = torch.float16 if loop.precision == "fp16" else torch.bfloat16
    with torch.autocast(device, dtype, enabled=loop.precision != "fp32"):
        losses = task.losses(module, examples)
    losses["loss"].mean().backward()  # type: ignore[no-untyped-call]
    step = (time.perf_counter() - started) * len(items) / size
    means = {name: float(values.detach().mean()) for name, values in losses.items()}
    if not all(torch.isfinite(values).all() for values in losses.values()):
        raise AnyRegionError(f"the loss of the first step is not finite: {means}")
    module.zero_grad()
    return {
        **task.card(),
        "parameters learned": f"{count_trainable(module):,}",
        "an example": ", ".join(_shapes(examples[0])),
        "first losses": ", ".join(f"{name} {value:.4g}" for name, value in means.items()),
        **task.rehearse(module.eval()),
        **_plan(loop, len(items)),
        "a step here": f"{step:.2f} s, and {reading * len(items) / size:.2f} s of reading",
        "all steps here": f"{step * loop.steps / 3600:.2f} hours, without validations",
    }


def _plan(loop: LoopConfig, batch: int) -> Mapping[str, str]:
    optimizer, schedule = loop.optimizer, loop.schedule
    rate = f"{optimizer.kind}, {optimizer.lr:g}, {schedule.kind}"
    if schedule.milestones:
        rate += f" (times {schedule.gamma:g} at {', '.join(map(str, schedule.milestones))})"
    if schedule.warmup_steps:
        rate += f", {schedule.warmup_steps} steps of warm-up"
    return {
        "steps": f"{loop.steps:,} of {batch} images, seed {loop.seed}",
        "optimiser, rate": rate,
        "device, precision": f"{loop.device}, {loop.precision}",
    }


def _shapes(example: Any) -> list[str]:
    """What arrays an example of a dataclass holds, as `pixels (513, 513, 3)`."""
    if not is_dataclass(example):
        return []
    values = {field.name: getattr(example, field.name) for field in fields(example)}
    return [f"{name} {tuple(v.shape)}" for name, v in values.items() if hasattr(v, "shape")]
