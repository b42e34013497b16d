"""Curves in frames side by side: values over steps, a log's or those of a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour: TypeAlias = tuple[int, int, int]

# told apart by people who see few colours: Okabe and Ito (2008)
BLUE, GREEN, RED = (0, 114, 178), (0, 158, 115), (213, 94, 0)
INK, GREY, PALE = (40, 40, 40), (120, 120, 120), (228, 228, 228)
COLUMNS, WIDTH, HEIGHT = 3, 360, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 30
# drawn twice as large and made smaller: Pillow's lines have no soft edges
SCALE = 2
# points from which on losses are drawn pale, below their running mean over a thirtieth of them
SMOOTHED_FROM = 60


@dataclass(frozen=True, eq=False)
class Line:
    """A further curve of a panel, over the same steps.

    Attributes:
        label: what it is of.
        values: `(n,)`; values that are not finite leave a gap.
        colour: of the curve.
    """

    label: str
    values: NDArray[np.float64]
    colour: Colour


@dataclass(frozen=True, eq=False)
class Panel:
    """One curve in a frame of its own, or several that are compared.

    Attributes:
        title: the name of what is drawn.
        steps, values: `(n,)`; values that are not finite leave a gap.
        last: the step at the right end.
        colour: of the curve.
        markers: whether each point is marked: validations are few.
        best: position of the point to ring, or None.
        label: what the curve is of, where there are others.
        others: further curves.
        logarithmic: steps grow by factors, from the first one; else from 0.
    """

    title: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    last: int
    colour: Colour
    markers: bool = False
    best: int | None = None
    label: str = ""
    others: tuple[Line, ...] = ()
    logarithmic: bool = False

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The ends of the values' axis."""
        values = np.concatenate([self.values, *(line.values for line in self.others)])
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        # a curve that is level lies in the middle of an axis that is not empty
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - margin, high + margin

    def position(self, step: float, value: float) -> tuple[float, float]:
        """Where a point lies in the panel: x to the right, y downwards, in pixels."""
        low, high = self.limits
        share = step / self.last
        if self.logarithmic:
            first = max(float(self.steps.min(initial=self.last)), 1.0)
            share = math.log(max(step, first) / first) / max(math.log(self.last / first), 1e-9)
        x = LEFT + share * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def smooth(self) -> NDArray[np.float64]:
        """The running mean about each point, `(n,)`; gaps count for nothing."""
        finite = np.isfinite(self.values)
        kernel = np.ones(2 * max(1, len(self.values) // 60) + 1)
        totals = np.convolve(np.where(finite, self.values, 0.0), kernel, mode="same")
        counts = np.convolve(finite.astype(float), kernel, mode="same")
        means: NDArray[np.float64] = np.where(finite, totals / np.maximum(counts, 1.0), np.nan)
        return means


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


def _ticks(panel: Panel) -> list[float]:
    """The steps that are written below a panel."""
    if not panel.logarithmic:
        return round_values(0, panel.last, 4)
    first = max(float(panel.steps.min(initial=panel.last)), 1.0)
    powers = range(math.floor(math.log10(first)), math.floor(math.log10(panel.last)) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 3)]
    return [mark for mark in marks if first <= mark <= panel.last]


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
    for step in _ticks(panel):
        x, _ = panel.position(step, 0.0)
        pen.line([x * SCALE, bottom * SCALE, x * SCALE, (bottom + 4) * SCALE], GREY, SCALE)
        text = f"{step / 1e6:.4g}M" if step >= 1e6 else f"{step / 1e3:.4g}k" if step >= 1e4 else ""
        # the number at the right end stays in the panel
        write(min(x, WIDTH - 18), bottom + 7, text or f"{step:.4g}", GREY, 11, "mt")
    pen.line([LEFT * SCALE, bottom * SCALE, right * SCALE, bottom * SCALE], GREY, SCALE)
    values = panel.values
    if panel.colour == BLUE and len(values) >= SMOOTHED_FROM:
        red, green, blue = (255 - round(0.35 * (255 - part)) for part in panel.colour)
        _line(pen, panel, values, (red, green, blue), 1)
        values = panel.smooth()
    _line(pen, panel, values, panel.colour, 2)
    write(LEFT, 9, panel.title, INK, 14, "lt")
    for line in panel.others:
        _line(pen, panel, line.values, line.colour, 2)
    if panel.others:
        names = [(panel.label, panel.colour), *((o.label, o.colour) for o in panel.others)]
        for number, (label, colour) in enumerate(reversed(names)):
            write(right - 4, bottom - 6 - 14 * number, label, colour, 11, "rb")
        return image
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
