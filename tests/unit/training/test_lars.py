"""LARS: the published optimiser's numbers, the formula by hand, and a run that goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from anyregion.errors import InputError
from anyregion.training.checkpoint import restore, write_checkpoint
from anyregion.training.config import LoopConfig, OptimizerConfig
from anyregion.training.lars import Lars
from anyregion.training.loop import fit
from anyregion.training.optimizers import build_optimizer
from anyregion.training.run_folder import changed_settings
from tests.helpers.run_logs import learned
from tests.helpers.shared import SHARED, needs_shared
from tests.helpers.toy_task import ToyTask

CASES = SHARED / "fixtures" / "r2o" / "kmeans_and_lars.npz"
NAMES = ("matrix", "conv", "bias", "zero_weight", "zero_grad")


@needs_shared
def test_published_steps() -> None:
    case = np.load(CASES)
    weights = {n: nn.Parameter(torch.from_numpy(case[f"lars_{n}_start"])) for n in NAMES}
    optimizer = Lars(
        [
            {"params": [w for n, w in weights.items() if n != "bias"]},
            {"params": [weights["bias"]], "adapted": False},
        ],
        lr=1.0,
        momentum=float(case["lars_momentum"]),
        weight_decay=float(case["lars_weight_decay"]),
        eta=float(case["lars_eta"]),
    )
    for step, lr in enumerate(case["lars_lrs"]):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(case[f"lars_{name}_grad{step}"])
        optimizer.step()
        for name, weight in weights.items():
            expected = torch.from_numpy(case[f"lars_{name}_after{step}"])
            torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-6)


def by_hand(weight: Tensor, gradients: list[Tensor], lrs: list[float], *, decay: float) -> Tensor:
    buffer = torch.zeros_like(weight)
    for gradient, lr in zip(gradients, lrs, strict=True):
        size, slope = float(weight.norm()), float(gradient.norm())
        ratio = 0.02 * size / (slope + decay * size) if size and slope else 1.0
        buffer = 0.8 * buffer + lr * ratio * (gradient + decay * weight)
        weight = weight - buffer
    return weight


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("start", [0.0, 3.0])
def test_equals_the_formula(scale: float, start: float) -> None:
    """A zero gradient decays by `lr * decay`, not by `lr * eta`: 0.3 and 0.02 here."""
    draw = torch.Generator().manual_seed(0)
    first = start * torch.randn(3, 4, generator=draw, dtype=torch.float64)
    gradients = [scale * torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(3)]
    lrs = [0.5, 0.1, 0.4]
    weight = nn.Parameter(first.clone())
    unused = nn.Parameter(torch.ones(2))
    optimizer = Lars([weight, unused], lr=1.0, momentum=0.8, weight_decay=0.3, eta=0.02)
    for gradient, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = gradient.clone()
        optimizer.step()
    expected = by_hand(first, gradients, lrs, decay=0.3)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-12)
    assert bool((unused == 1).all())
    assert list(optimizer.state) == [weight]
    if start and not scale:
        once = by_hand(first, gradients[:1], lrs[:1], decay=0.3)
        torch.testing.assert_close(once, first * (1 - 0.5 * 0.3), rtol=0, atol=1e-12)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2)
    )


def descend(module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    module(images).pow(3).mean().backward()
    optimizer.step()


def test_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = OptimizerConfig(kind="lars", lr=0.5, weight_decay=1e-2, decay_all=False)
    one, two = small(), small()
    first, second = build_optimizer(one, config), build_optimizer(two, config)
    for step in range(3):
        descend(one, first, step)
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, one, first, None, {"state": 3})
    assert restore(path, two, second, None) == {"state": 3}
    for step in range(3, 6):
        descend(one, first, step)
        descend(two, second, step)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    names = {key for state in second.state_dict()["state"].values() for key in state}
    assert names == {"momentum"}


def test_a_whole_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    optimizer = OptimizerConfig(kind="lars", lr=0.5, decay_all=False)
    config = LoopConfig(
        steps=6, checkpoint_every=2, tensorboard=False, readers=0, optimizer=optimizer
    )
    fit(ToyTask(), config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="pulled the plug"):
        fit(Unplugged(), config, tmp_path / "broken")
    assert fit(ToyTask(), config, tmp_path / "broken").resumed_from == 4
    whole, broken = learned(tmp_path / "whole"), learned(tmp_path / "broken")
    assert any(name.endswith(".momentum") for name in whole)
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


class Unplugged(ToyTask):
    def plan(self, step: int) -> list[int]:
        if step == 5:
            raise RuntimeError("pulled the plug")
        return list(super().plan(step))


@pytest.mark.parametrize("kind", ["adamw", "lars"])
def test_who_is_spared(kind: str) -> None:
    module = small()
    names = {id(p): name for name, p in module.named_parameters()}

    def groups(**changes: object) -> dict[float, set[str]]:
        config = OptimizerConfig(kind=kind, weight_decay=0.5, **changes)  # type: ignore[arg-type]
        optimizer = build_optimizer(module, config)
        if kind == "lars":
            for group in optimizer.param_groups:
                assert group["adapted"] == bool(group["weight_decay"])
        return {
            g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups
        }

    matrices = {"0.weight", "3.weight"}
    rest = {"0.bias", "1.weight", "1.bias", "3.bias", "4.weight", "4.bias"}
    assert groups() == {0.5: matrices | rest}
    assert groups(decay_all=False) == {0.5: matrices, 0.0: rest}
    some = groups(decay_all=False, decay_also=("1.weight",))
    assert some == {0.5: matrices | {"1.weight"}, 0.0: rest - {"1.weight"}}
    every = groups(decay_all=False, decay_also=("weight", "bias"))
    assert every == {0.5: matrices | rest}
    with pytest.raises(InputError, match="no parameter that learns ends in 'eight'"):
        groups(decay_all=False, decay_also=("eight",))


def test_an_older_run_has_the_default_of_a_setting_that_came_later() -> None:
    now = {"images": "a", **asdict(LoopConfig())}
    old = yaml.safe_load(yaml.safe_dump({"images": "a"}))
    old["optimizer"] = {"lr": 2.5e-5, "weight_decay": 1e-4, "betas": [0.9, 0.999]}
    assert changed_settings(now, old) == []
    lars = {"images": "a", **asdict(LoopConfig(optimizer=OptimizerConfig(kind="lars")))}
    assert changed_settings(lars, old) == ["optimizer.kind: adamw -> lars"]
    assert changed_settings({**now, "views": 2}, old) == ["views: unset -> 2"]
    assert changed_settings({"images": "a"}, {"images": "a"}) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lars([torch.zeros(1)], lr=-1.0), "lr must not"),
        (lambda: Lars([torch.zeros(1)], lr=1.0, momentum=1.0), "momentum must lie"),
        (lambda: Lars([torch.zeros(1)], lr=1.0, weight_decay=-1.0), "weight_decay must not"),
        (lambda: Lars([torch.zeros(1)], lr=1.0, eta=0.0), "eta must be above"),
        (lambda: OptimizerConfig(kind="adam"), "not adamw, lars or sgd"),  # type: ignore[arg-type]
        (lambda: OptimizerConfig(momentum=1.0), "momentum must lie"),
        (lambda: OptimizerConfig(eta=0.0), "eta must be above"),
        (lambda: OptimizerConfig(decay_also=("bn1.weight",)), "says nothing"),
    ],
)
def test_settings_that_cannot_be(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
