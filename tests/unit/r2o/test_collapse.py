"""Collapse watch: rows of known shape, and runs that collapse and do not."""

from __future__ import annotations

import copy
import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")
pytest.importorskip("skimage")

import torch
from torch import Tensor, nn

from anyregion.errors import InputError
from anyregion.r2o.training.monitor import (
    FEWEST_ROWS,
    advice,
    cluster_entropy,
    effective_rank,
    spread,
)


def gaussian(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def figures_of(rows: Tensor) -> dict[str, float]:
    return {"projection_spread": spread(rows), "projection_rank": effective_rank(rows)}


def kinds(texts: list[str]) -> list[str]:
    return [text.split(" is ")[0] for text in texts]


def test_healthy_rows() -> None:
    rows = gaussian(4000, 32)
    assert spread(rows) == pytest.approx(1, abs=0.01)
    assert 31.5 < effective_rank(rows) <= 32
    assert spread(rows * torch.rand(4000, 1)) == pytest.approx(1, abs=0.01)
    assert advice(figures_of(rows)) == []


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-2])
def test_rows_at_a_point(noise: float) -> None:
    rows = gaussian(1, 32) + noise * gaussian(200, 32)
    assert spread(rows) < 0.02
    assert 1 <= effective_rank(rows) < 1.6
    assert kinds(advice(figures_of(rows))) == ["projection_spread", "projection_rank"]


def test_rows_on_a_line() -> None:
    through_zero = gaussian(200, 1) * gaussian(32, 1)[:, 0]
    assert effective_rank(through_zero) == pytest.approx(1, abs=1e-4)
    beside = through_zero + torch.ones(32)
    assert 1 < effective_rank(beside) <= 2
    (warning,) = advice(figures_of(through_zero))  # the two ends lie far apart
    assert warning.startswith("projection_rank is 1, below 3: ")
    assert "Raise the batch" in warning


def test_effective_rank_by_hand() -> None:
    rows = torch.zeros(6, 4)
    rows[range(6), [0, 0, 0, 0, 1, 2]] = torch.tensor([2.0, 1.0, -5.0, 1.0, 9.0, 1e-3])
    assert effective_rank(rows) == pytest.approx(math.exp(1.5 * math.log(2)))
    assert effective_rank(7 * rows) == pytest.approx(effective_rank(rows))
    assert effective_rank(torch.zeros(3, 4)) == 0
    assert spread(torch.zeros(3, 4)) == 0
    assert math.isnan(spread(torch.ones(1, 4)))
    assert effective_rank(torch.ones(1, 4)) == pytest.approx(1)
    assert math.isnan(effective_rank(torch.ones(0, 4)))
    assert math.isnan(effective_rank(torch.full((3, 4), math.inf)))


def test_cluster_entropy() -> None:
    even = torch.arange(12) % 4
    assert cluster_entropy(even, 4) == pytest.approx(1)
    assert cluster_entropy(even, 16) == pytest.approx(0.5)
    assert cluster_entropy(torch.zeros(9, dtype=torch.int64), 4) == 0
    assert cluster_entropy(torch.tensor([[0, 0, 0, 1], [-1, 2, 5, -1]]), 2) == pytest.approx(
        0.8113, abs=1e-4
    )
    assert cluster_entropy(torch.zeros(3, dtype=torch.int64), 1) == 1
    assert cluster_entropy(torch.full((3,), -1), 4) == 1
    swallowed = cluster_entropy(torch.tensor([0] * 97 + [1, 2, 3]), 4)
    assert kinds(advice({"cluster_entropy": swallowed, "clusters": 4})) == ["cluster_entropy"]
    assert advice({"cluster_entropy": 0.6, "clusters": 4}) == []


def test_what_is_not_judged() -> None:
    collapsed = figures_of(torch.ones(FEWEST_ROWS, 8))
    assert len(advice(collapsed)) == len(advice(collapsed, rows=FEWEST_ROWS)) == 2
    assert advice(collapsed, rows=FEWEST_ROWS - 1) == []
    assert len(advice({"cluster_entropy": 0.0}, rows=1)) == 1
    assert advice({"projection_spread": math.nan, "feature_spread": 0.0, "loss": -5.0}) == []
    assert advice({}) == []


@pytest.mark.parametrize("rows", [torch.ones(4), torch.ones(2, 3, 4)])
def test_rows_that_cannot_be(rows: Tensor) -> None:
    for figure in (spread, effective_rank):
        with pytest.raises(InputError, match="is needed"):
            figure(rows)
    with pytest.raises(InputError, match="at least 1"):
        cluster_entropy(torch.zeros(3), 0)


def head(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


def two_views(draw: torch.Generator) -> Tensor:
    things = torch.randn(40, 32, generator=torch.Generator().manual_seed(9))
    drawn = things[torch.randint(40, (96,), generator=draw)]
    return torch.cat([drawn + 0.5 * torch.randn(96, 32, generator=draw) for _ in range(2)])


def run(*, broken: bool, lr: float, seed: int) -> list[dict[str, float]]:
    """BYOL on random data, looked at every ten steps; broken: no predictor, no stop-gradient."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    online = nn.Sequential(head(32, 64, 64), nn.ReLU(), head(64, 64, 32))
    predictor, target = head(32, 64, 32), copy.deepcopy(online).requires_grad_(False)
    learned = [*online.parameters(), *([] if broken else predictor.parameters())]
    optimizer = torch.optim.SGD(learned, lr=lr, momentum=0.9)
    looks = []
    for step in range(81):
        rows = two_views(draw)
        projected = online(rows)
        for kept, new in zip(target.parameters(), online.parameters(), strict=True):
            kept.lerp_(new.detach(), 0.01)
        output, goal = (projected, projected) if broken else (predictor(projected), target(rows))
        loss = 1 - nn.functional.cosine_similarity(output, goal.roll(96, dims=0)).mean()
        if not step % 10:
            looks.append({**figures_of(projected), "loss": float(loss.detach())})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return looks


@pytest.mark.parametrize("seed", [0, 1])
def test_a_collapsing_run_is_flagged_and_its_healthy_twin_is_not(seed: int) -> None:
    broken = run(broken=True, lr=0.5, seed=seed)
    warnings = [kinds(advice(figures)) for figures in broken]
    assert warnings[0] == []
    assert all("projection_spread" in texts for texts in warnings[3:])
    assert warnings[-1] == ["projection_spread", "projection_rank"]
    assert broken[-1]["loss"] < 1e-3  # by its loss, the better run
    healthy = run(broken=False, lr=0.5, seed=seed)
    assert all(advice(figures) == [] for figures in healthy)
    assert healthy[-1]["loss"] > 10 * broken[-1]["loss"]
