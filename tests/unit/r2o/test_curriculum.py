"""Clusters, rate and momentum: the published rows, and rules of our own."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

pytest.importorskip("torch")

from anyregion.errors import InputError
from anyregion.r2o.curriculum import (
    CurriculumConfig,
    clusters_at,
    clusters_float,
    rate_scale,
    target_momentum,
)
from anyregion.training.config import ScheduleConfig
from anyregion.training.optimizers import rate_factor
from tests.helpers.shared import SHARED, needs_shared

ROWS = SHARED / "fixtures" / "r2o" / "schedules.json"


def published() -> Any:
    return json.loads(ROWS.read_text())


@needs_shared
@pytest.mark.parametrize("number", range(9))
def test_published_clusters(number: int) -> None:
    case = published()["cluster_schedules"][number]
    settings = case["config"]
    config = CurriculumConfig(
        settings["type"], tuple(settings["epochs"]), tuple(settings["values"])
    )
    for epoch, expected, count in zip(
        case["epochs"], case["k_float"], case["num_segments"], strict=True
    ):
        assert clusters_float(config, epoch) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert clusters_at(config, epoch) == (None if count == 9999 else count)


@needs_shared
@pytest.mark.parametrize("number", range(4))
def test_published_rate_and_momentum(number: int) -> None:
    case = published()["lr_and_momentum"][number]
    steps = case["total_steps"]
    lr = case["base_lr"] * case["global_batch"] / 256
    warm = case["warmup_steps"]
    if case["lr_type"] == "cosine":
        schedule = ScheduleConfig("cosine", warmup_steps=warm, warmup_from=0.0)
    else:
        fallen = (math.ceil(0.96 * steps),)
        schedule = ScheduleConfig("step", warmup_steps=warm, warmup_from=0.0, milestones=fallen)
    assert case["rows"]
    for step, clusters, expected, momentum in case["rows"]:
        rate = lr * rate_factor(schedule, step, steps)
        rate *= rate_scale(clusters, per=case["scale_lr_by_k"], most=None)
        assert rate == pytest.approx(expected, rel=1e-9, abs=1e-9)
        result = target_momentum(step, steps, case["base_momentum"])
        assert result == pytest.approx(momentum, abs=1e-9)


def test_the_paper() -> None:
    config = CurriculumConfig()
    clusters = [clusters_at(config, epoch, epochs=300) for epoch in range(300)]
    assert (clusters[0], clusters[150], clusters[200], clusters[299]) == (128, 91, 66, 4)
    assert clusters == sorted(clusters, reverse=True)
    assert clusters == [clusters_at(CurriculumConfig(epochs=(0, 300)), e) for e in range(300)]
    assert clusters[:10] == [clusters_at(config, e / 10, epochs=30) for e in range(10)]


def test_backwards_is_the_same_in_a_mirror() -> None:
    config = CurriculumConfig(epochs=(0, 40))
    backwards = CurriculumConfig(epochs=(0, 40), values=config.values[::-1])
    for epoch in range(-3, 44):
        mirrored = clusters_float(backwards, 40 - epoch)
        assert mirrored == pytest.approx(clusters_float(config, epoch), abs=1e-12)
    assert clusters_at(backwards, 0) == 4


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CurriculumConfig("linear", values=(10, 20)), [10, 12, 15, 17, 20, 22]),
        (CurriculumConfig("linear", values=(10, 20, 0)), [10, 15, 20, 10, 1, 1]),
        (CurriculumConfig("piecewise", values=(200, 8)), [None, None, 8, 8, 8, 8]),
        (CurriculumConfig("piecewise", (1, 3), (6, 5)), [6, 6, 6, 5, 5, 5]),
        (CurriculumConfig("constant", values=(7.9,)), [7] * 6),
        (CurriculumConfig("constant", (3,), (7,)), [7] * 6),
        (CurriculumConfig("cosine", values=(5, 5)), [5] * 6),
        (CurriculumConfig("cosine", (1, 2), (129, 128.5)), [None, None, 128, 128, 128, 128]),
        (CurriculumConfig("linear", (1, 2), (2, 0)), [4, 2, 1, 1, 1, 1]),
    ],
)
def test_kinds_spread_over_a_run_of_four_epochs(
    config: CurriculumConfig, expected: list[int | None]
) -> None:
    assert [clusters_at(config, epoch, epochs=4) for epoch in range(6)] == expected


def test_rate_scale_is_capped_by_default() -> None:
    assert [rate_scale(k) for k in (4, 16, 128, None, 9999)] == [0.25, 1, 8, 8, 8]
    assert rate_scale(None, most=None) == pytest.approx(9999 / 16)
    assert rate_scale(64, most=16) == 1
    assert rate_scale(64, per=None) == rate_scale(None, per=0) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CurriculumConfig("sine"), "is not cosine, linear"),  # type: ignore[arg-type]
        (lambda: CurriculumConfig(values=(4,)), "cosine needs 2 values"),
        (lambda: CurriculumConfig("constant"), "constant needs 1 value"),
        (lambda: CurriculumConfig("linear", values=(4,)), "at least 2"),
        (lambda: CurriculumConfig(values=(math.nan, 4)), "finite"),
        (lambda: CurriculumConfig(values=()), "finite"),
        (lambda: CurriculumConfig(epochs=(0,)), "1 epochs for 2 values"),
        (lambda: CurriculumConfig(epochs=(5, 5)), "must rise"),
        (lambda: CurriculumConfig(epochs=(0, math.inf)), "finite"),
        (lambda: clusters_at(CurriculumConfig(), 3), "run's own number"),
        (lambda: clusters_at(CurriculumConfig(), 3, epochs=0), "run's own number"),
    ],
)
def test_curricula_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
