"""A picture of a run's course: losses, learning rate and validation metrics over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anyregion.files import atomic_path, writing
from anyregion.training.config import Direction
from anyregion.training.logs import read_log

Colour: TypeAlias = tuple[int, int, int]

CURVES = "curves.png"
NOT_DRAWN = ("step", "grad_norm", "images_per_second", "seconds")
# told apart by people who see few colours: Okabe and Ito (2008)
LOSS_COLOUR, RATE_COLOUR, METRIC_COLOUR = (0, 114, 178), (0, 158, 115), (213, 94, 0)
INK, GREY, PALE = (40, 40, 40), (120, 120, 120), (228, 228, 228)
COLUMNS, WIDTH, HEIGHT = 3, 360, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 30
# drawn twice as large and made smaller: Pillow's lines have no soft edges
SCALE = 2
# points from which on losses are drawn pale, below their running mean over a thirtieth of them
SMOOTHED_FROM = 60


@dataclass(frozen=True, eq=False)
class Panel:
    """One curve in a frame of its own.

    Attributes:
        title: the name of what is drawn.
        steps, values: `(n,)`; values that are not finite leave a gap.
        last: the step at the right end.
        colour: of the curve.
        markers: whether each point is marked: validations are few.
        best: position of the point to ring, or None.
    """

    title: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    last: int
    colour: Colour
    markers: bool = False
    best: int | None = None

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The ends of the values' axis."""
        finite = self.values[np.isfinite(self.values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        # a curve that is level lies in the middle of an axis that is not empty
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - margin, high + margin

    def position(self, step: float, value: float) -> tuple[float, float]:
        """Where a point lies in the panel: x to the right, y downwards, in pixels."""
        low, high = self.limits
        x = LEFT + step / self.last * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def smooth(self) -> NDArray[np.float64]:
        """The running mean about each point, `(n,)`; gaps count for nothing."""
        finite = np.isfinite(self.values)
        kernel = np.ones(2 * max(1, len(self.values) // 60) + 1)
        totals = np.convolve(np.where(finite, self.values, 0.0), kernel, mode="same")
        counts = np.convolve(finite.astype(float), kernel, mode="same")
        means: NDArray[np.float64] = np.where(finite, totals / np.maximum(counts, 1.0), np.nan)
        return means


def write_curves(
    folder: Path, *, best: str | None = None, best_is: Direction | None = None
) -> None:
    """Draw `log.jsonl` of a run into its `curves.png`; nothing where nothing was logged.

    Args:
        best, best_is: the metric whose best validation is ringed.

    Raises:
        AnyRegionError: it cannot be written.
    """
    if panels := read_panels(read_log(folder), best=best, best_is=best_is):
        path = folder / CURVES
        with writing(path), atomic_path(path) as temporary:
            draw_panels(panels).save(temporary, format="PNG")


def read_panels(
    lines: Sequence[Mapping[str, Any]], *, best: str | None = None, best_is: Direction | None = None
) -> list[Panel]:
    """Losses first, then the learning rate, then the metrics, from the lines of a log."""
    train = [line for line in lines if "loss" in line]
    validation = [{"step": x["step"], **x["validation"]} for x in lines if "validation" in x]
    last = max([line["step"] for line in [*train, *validation]], default=1)
    panels = []
    for group in (train, validation):
        names = dict.fromkeys(name for line in group for name in line if name not in NOT_DRAWN)
        for name in sorted(names, key=lambda name: (name == "lr", name != "loss")):
            rows = [line for line in group if name in line]
            steps = np.array([line["step"] for line in rows], dtype=np.int64)
            # JSON has no NaN: the log writes null
            values = np.array([math.nan if line[name] is None else line[name] for line in rows])
            if group is train:
                rate = ("learning rate", RATE_COLOUR)
                title, colour = rate if name == "lr" else (name, LOSS_COLOUR)
                panels.append(Panel(title, steps, values, last, colour))
                continue
            ringed = None
            if name == best and np.isfinite(values).any():
                ringed = int(np.nanargmin(values) if best_is == "lowest" else np.nanargmax(values))
            title = f"{name} (validation)"
            panels.append(Panel(title, steps, values, last, METRIC_COLOUR, True, ringed))
    return panels


def draw_panels(panels: Sequence[Panel]) -> Image.Image:
    """The panels side by side, three in a row."""
    columns = min(COLUMNS, len(panels))
    width, height = columns * WIDTH, math.ceil(len(panels) / columns) * HEIGHT
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        canvas.paste(_draw(panel), (column * WIDTH * SCALE, row * HEIGHT * SCALE))
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def round_values(low: float, high: float, count: int) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`."""
    least = (high - low) / count
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _draw(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    pen = ImageDraw.Draw(image)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def write(x: float, y: float, text: str, colour: Colour, size: int, anchor: str) -> None:
        font = ImageFont.load_default(size=size * SCALE)
        pen.text((x * SCALE, y * SCALE), text, fill=colour, font=font, anchor=anchor)

    for value in round_values(*panel.limits, 5):
        _, y = panel.position(0, value)
        pen.line([LEFT * SCALE, y * SCALE, right * SCALE, y * SCALE], PALE, SCALE)
        write(LEFT - 6, y, f"{value:.3g}", GREY, 11, "rm")
    for step in round_values(0, panel.last, 4):
        x = LEFT + step / panel.last * (right - LEFT)
        pen.line([x * SCALE, bottom * SCALE, x * SCALE, (bottom + 4) * SCALE], GREY, SCALE)
        text = f"{step / 1e6:.4g}M" if step >= 1e6 else f"{step / 1e3:.4g}k" if step >= 1e4 else ""
        # the number at the right end stays in the panel
        write(min(x, WIDTH - 18), bottom + 7, text or f"{step:.4g}", GREY, 11, "mt")
    pen.line([LEFT * SCALE, bottom * SCALE, right * SCALE, bottom * SCALE], GREY, SCALE)
    values = panel.values
    if panel.colour == LOSS_COLOUR and len(values) >= SMOOTHED_FROM:
        red, green, blue = (255 - round(0.35 * (255 - part)) for part in panel.colour)
        _line(pen, panel, values, (red, green, blue), 1)
        values = panel.smooth()
    _line(pen, panel, values, panel.colour, 2)
    write(LEFT, 9, panel.title, INK, 14, "lt")
    finite = panel.values[np.isfinite(panel.values)]
    if len(finite):
        write(right, 10, f"{finite[-1]:.4g}", panel.colour, 13, "rt")
    return image


def _line(
    pen: ImageDraw.ImageDraw, panel: Panel, values: NDArray[np.float64], colour: Colour, width: int
) -> None:
    points: list[tuple[float, float]] = []
    for number, (step, value) in enumerate(zip(panel.steps.tolist(), values.tolist(), strict=True)):
        if not math.isfinite(value):
            points = []
            continue
        x, y = (part * SCALE for part in panel.position(step, value))
        points = [*points[-1:], (x, y)]
        if len(points) == 2:
            pen.line(points, fill=colour, width=width * SCALE)
        if panel.markers or len(values) == 1:
            pen.circle((x, y), 2.5 * SCALE, fill=colour)
        if number == panel.best:
            pen.circle((x, y), 6 * SCALE, outline=INK, width=SCALE)
