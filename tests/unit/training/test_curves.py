"""The picture of a run's course, by what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.drawing.curves import HEIGHT, INK, WIDTH, Panel, draw_panels, round_values
from anyregion.training.curves import LOSS_COLOUR, METRIC_COLOUR, RATE_COLOUR, read_panels
from anyregion.training.loop import fit
from tests.helpers.toy_task import ToyTask
from tests.helpers.training_worker import config


def log(count: int = 5) -> list[dict[str, Any]]:
    """Losses that fall, a rate that stays, a metric that rises and falls again."""
    lines: list[dict[str, Any]] = [
        {"step": 10 * i, "loss": 3.0 - 2 * i / count, "lr": 1e-3, "grad_norm": 1.0, "seconds": 1.0}
        for i in range(1, count + 1)
    ]
    for i, value in ((1, 0.2), (3, 0.8), (5, 0.6)):
        lines.append({"step": 10 * i, "validation": {"top1": value}})
    return lines


def panel_of(image: Image.Image, number: int) -> np.ndarray:
    row, column = divmod(number, 3)
    pixels = np.asarray(image).astype(int)
    return pixels[row * HEIGHT : (row + 1) * HEIGHT, column * WIDTH : (column + 1) * WIDTH]


def where(pixels: np.ndarray, colour: tuple[int, int, int], *, below: int = 34) -> np.ndarray:
    """Places `(n, 2)`, x and y, of a colour below the title, from left to right."""
    y, x = np.nonzero(np.abs(pixels - np.array(colour)).sum(axis=2) < 40)
    places = np.stack([x, y], axis=1)[y >= below]
    return places[np.argsort(places[:, 0], kind="stable")]


def test_each_curve_is_drawn_where_its_values_are() -> None:
    panels = read_panels(log(), best="top1")
    assert [p.title for p in panels] == ["loss", "learning rate", "top1 (validation)"]
    image = draw_panels(panels)
    assert image.size == (3 * WIDTH, HEIGHT)
    falling = where(panel_of(image, 0), LOSS_COLOUR)
    assert falling[0, 1] < 60, "the first loss is the highest"
    assert falling[-1, 1] > HEIGHT - 60
    heights = [falling[falling[:, 0] == x, 1].mean() for x in np.unique(falling[:, 0])]
    assert np.all(np.diff(heights) >= -1), "it falls all the way"
    slope = np.polyfit(falling[:, 0], falling[:, 1], 1)
    assert np.abs(np.polyval(slope, falling[:, 0]) - falling[:, 1]).max() < 3, "on a line"
    level = where(panel_of(image, 1), RATE_COLOUR)
    assert np.ptp(level[:, 1]) <= 3
    rising = where(panel_of(image, 2), METRIC_COLOUR)
    top = rising[rising[:, 1].argmin()]
    middle = (rising[0, 0] + rising[-1, 0]) / 2
    assert abs(top[0] - middle) <= 6, "the best of three validations is the second"
    ring = where(panel_of(image, 2), INK)
    assert np.abs(ring.mean(axis=0) - panels[2].position(30, 0.8)).max() < 2, "and it is ringed"


def test_points_lie_between_their_neighbours_ticks() -> None:
    panel = Panel("loss", np.array([0, 50, 100]), np.array([1.0, 3.0, 2.0]), 100, LOSS_COLOUR)
    assert round_values(*panel.limits, 5) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
    (left, low), (centre, high), (right, mid) = (
        panel.position(s, v) for s, v in zip(panel.steps, panel.values, strict=True)
    )
    assert left < centre < right <= WIDTH
    assert high < mid < low < HEIGHT
    assert mid == pytest.approx((low + high) / 2)


def test_gaps_and_many_values() -> None:
    noisy: list[dict[str, Any]] = [
        {"step": i, "loss": 1.0 + 0.5 * (-1) ** i, "lr": 1e-3} for i in range(1, 201)
    ]
    noisy[100]["loss"] = None
    loss, rate = read_panels(noisy)
    assert np.isnan(loss.values[100])
    assert np.nanmax(np.abs(loss.smooth()[5:-5] - 1.0)) < 0.2
    image = draw_panels([loss, rate])
    dark = where(panel_of(image, 0), LOSS_COLOUR)
    assert np.ptp(dark[:, 1]) < 40, "the running mean is dark, the values pale"
    pale = where(panel_of(image, 0), (255 - 89, 255 - 49, 255 - 27))
    assert np.ptp(pale[:, 1]) > 120
    assert len(where(panel_of(image, 1), RATE_COLOUR)) > 200


def test_a_run_of_one_line_and_one_of_nothing() -> None:
    ((single),) = read_panels([{"step": 1, "loss": 0.5}])
    assert len(where(panel_of(draw_panels([single]), 0), LOSS_COLOUR)) > 4, "a dot"
    assert read_panels([{"step": 1, "warning": "text"}]) == []
    assert round_values(0, 45_000, 4) == [0, 20_000, 40_000]


def test_a_training_leaves_its_curves(tmp_path: Path) -> None:
    fit(ToyTask(), config(validate_every=6, best="error"), tmp_path / "run")
    with Image.open(tmp_path / "run/curves.png") as image:
        assert image.size == (3 * WIDTH, 2 * HEIGHT)
        error = panel_of(image.convert("RGB"), 4)
    assert len(where(error, METRIC_COLOUR)) > 50
    assert [p.name for p in (tmp_path / "run").glob("*curves*")] == ["curves.png"]
