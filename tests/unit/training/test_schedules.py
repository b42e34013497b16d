"""Rates against their closed forms, and the optimiser against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from anyregion.errors import InputError
from anyregion.training.config import LoopConfig, OptimizerConfig, ScheduleConfig
from anyregion.training.optimizers import build_optimizer, rate_factor


def test_published_schedule() -> None:
    schedule = ScheduleConfig(
        kind="step", warmup_steps=1000, warmup_from=0.01, milestones=(350_000, 420_000), gamma=0.1
    )
    expected = {
        0: 0.01,
        500: 0.505,
        1000: 1.0,
        349_999: 1.0,
        350_000: 0.1,
        419_999: 0.1,
        420_000: 0.01,
        449_999: 0.01,
    }
    for step, factor in expected.items():
        assert rate_factor(schedule, step, 450_000) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.2])
def test_cosine_equals_torch(final: float) -> None:
    steps, warm = 50, 10
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warm, eta_min=final)
    schedule = ScheduleConfig(kind="cosine", warmup_steps=warm, warmup_from=0.1, final=final)
    for step in range(steps):
        factor = rate_factor(schedule, step, steps)
        if step < warm:
            assert factor == pytest.approx(0.1 + 0.9 * step / warm)
        else:
            assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            cosine.step()
    half = ScheduleConfig(kind="cosine", final=final)
    assert rate_factor(half, 25, 50) == pytest.approx((1 + final) / 2)
    assert math.isclose(rate_factor(ScheduleConfig(kind="constant"), 49, 50), 1.0)


def test_decay_may_spare_norms_and_biases() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    module[0].bias.requires_grad_(False)
    all_alike = build_optimizer(module, OptimizerConfig(weight_decay=0.3))
    assert [g["weight_decay"] for g in all_alike.param_groups] == [0.3]
    assert len(all_alike.param_groups[0]["params"]) == 3
    apart = build_optimizer(module, OptimizerConfig(weight_decay=0.3, decay_all=False))
    kinds = {g["weight_decay"]: [p.ndim for p in g["params"]] for g in apart.param_groups}
    assert kinds == {0.3: [2], 0.0: [1, 1]}
    with pytest.raises(InputError, match="nothing to train"):
        build_optimizer(module.requires_grad_(False), OptimizerConfig())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(lr=0), "lr must be above 0"),
        (lambda: OptimizerConfig(weight_decay=math.nan), "weight_decay"),
        (lambda: OptimizerConfig(betas=(0.9, 1.0)), "betas must lie in 0 to 1"),
        (lambda: OptimizerConfig(eps=0), "eps must be above 0"),
        (lambda: LoopConfig(best_is="more"), "not highest or lowest"),  # type: ignore[arg-type]
        (lambda: ScheduleConfig(kind="linear"), "not constant, step or cosine"),  # type: ignore[arg-type]
        (lambda: ScheduleConfig(kind="step", milestones=(5, 2)), "must rise"),
        (lambda: ScheduleConfig(kind="cosine", milestones=(5,)), "belong to kind step"),
        (lambda: LoopConfig(steps=0), "steps must be at least 1"),
        (lambda: LoopConfig(ema_decay=1.0), "between 0 and 1"),
        (lambda: LoopConfig(grad_norm=0), "grad_norm must be above 0"),
        (lambda: LoopConfig(micro_batch=0), "micro_batch"),
    ],
)
def test_settings_that_cannot_be(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
