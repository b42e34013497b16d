"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from anyregion.training.config import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `steps`."""
    return _warmup(schedule, step) * _curve(schedule, step, steps)


def _warmup(schedule: ScheduleConfig, step: int) -> float:
    if step >= schedule.warmup_steps:
        return 1.0
    start = schedule.warmup_from
    return start + (1 - start) * step / schedule.warmup_steps


def _curve(schedule: ScheduleConfig, step: int, steps: int) -> float:
    if schedule.kind == "step":
        passed = sum(step >= milestone for milestone in schedule.milestones)
        return float(schedule.gamma**passed)
    if schedule.kind == "cosine" and step >= schedule.warmup_steps:
        part = (step - schedule.warmup_steps) / max(steps - schedule.warmup_steps, 1)
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
    return 1.0
