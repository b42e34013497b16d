"""A picture of a run's course: losses, learning rate and validation metrics over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anyregion.files import atomic_path, writing
from anyregion.training.logs import read_log

Colour: TypeAlias = tuple[int, int, int]

CURVES = "curves.png"
NOT_DRAWN = ("step", "grad_norm", "images_per_second", "seconds")
# told apart by people who see few colours: Okabe and Ito (2008)
LOSS_COLOUR, RATE_COLOUR, METRIC_COLOUR = (0, 114, 178), (0, 158, 115), (213, 94, 0)
INK, GREY, PALE = (40, 40, 40), (120, 120, 120), (228, 228, 228)

COLUMNS, WIDTH, HEIGHT = 3, 360, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 30
SCALE = 2
"""Everything is drawn twice as large and made smaller: Pillow's lines have no soft edges."""
SMOOTHED_FROM = 60
"""Points from which on a loss is drawn pale, with its running mean over a thirtieth of the run."""
LOG_FROM = 50.0
"""A loss whose largest value is so many times its smallest is drawn on a logarithmic axis."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One curve in a frame of its own.

    Attributes:
        title: the name of what is drawn.
        steps, values: `(n,)`; values that are not finite leave a gap.
        last: the step at the right end.
        colour: of the curve.
        markers: whether each point is marked: validations are few.
        noisy: whether many values are drawn pale, below their running mean.
        logarithmic: the scale of the values' axis.
        best: position of the point to ring, or None.
    """

    title: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    last: int
    colour: Colour
    markers: bool = False
    noisy: bool = False
    logarithmic: bool = False
    best: int | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The ends of the values' axis, as logarithms where it is logarithmic."""
        finite = self._axis(self.values[np.isfinite(self.values)])
        if not len(finite):
            return 0.0, 1.0
        low, high = float(finite.min()), float(finite.max())
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - margin, high + margin

    def position(self, step: float, value: float) -> tuple[float, float]:
        """Where a point lies in the panel: x to the right, y downwards, in pixels."""
        low, high = self.limits
        across = step / self.last
        up = (float(self._axis(np.array(value))) - low) / (high - low)
        x = LEFT + across * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> Iterator[float]:
        """Round values along the values' axis."""
        low, high = self.limits
        if not self.logarithmic:
            yield from round_values(low, high, 5)
            return
        decades = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
        yield from decades[:: max(1, math.ceil(len(decades) / 5))]

    def smooth(self) -> NDArray[np.float64]:
        """The running mean of the values, about each point; gaps count for nothing."""
        half = max(1, len(self.values) // 60)
        kernel, finite = np.ones(2 * half + 1), np.isfinite(self.values)
        total = np.convolve(np.where(finite, self.values, 0.0), kernel, mode="same")
        count = np.convolve(finite.astype(float), kernel, mode="same")
        mean: NDArray[np.float64] = np.where(finite, total / np.maximum(count, 1.0), np.nan)
        return mean

    def _axis(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log10(values) if self.logarithmic else values


def write_curves(folder: Path, *, best: str | None = None, higher_is_better: bool = True) -> None:
    """Draw `log.jsonl` of a run into its `curves.png`; nothing where nothing was logged.

    Args:
        best: the metric whose best validation is ringed.

    Raises:
        AnyRegionError: it cannot be written.
    """
    panels = read_panels(read_log(folder), best=best, higher_is_better=higher_is_better)
    if panels:
        path = folder / CURVES
        with writing(path), atomic_path(path) as temporary:
            draw_panels(panels).save(temporary, format="PNG")


def read_panels(
    lines: Sequence[Mapping[str, Any]], *, best: str | None = None, higher_is_better: bool = True
) -> list[Panel]:
    """Losses first, then the learning rate, then the metrics, from the lines of a log."""
    train = [line for line in lines if "loss" in line]
    validation = [{"step": x["step"], **x["validation"]} for x in lines if "validation" in x]
    names = dict.fromkeys(name for line in train for name in line if name not in NOT_DRAWN)
    last = max([line["step"] for line in [*train, *validation]], default=1)
    panels = []
    for name in sorted(names, key=lambda name: (name == "lr", name != "loss")):
        steps, values = _columns(train, name)
        positive = values[np.isfinite(values)]
        wide = len(positive) and 0 < positive.min() * LOG_FROM < positive.max()
        if name == "lr":
            panels.append(Panel("learning rate", steps, values, last, RATE_COLOUR))
        else:
            noisy, wide = len(values) >= SMOOTHED_FROM, bool(wide)
            panels.append(
                Panel(name, steps, values, last, LOSS_COLOUR, noisy=noisy, logarithmic=wide)
            )
    for name in dict.fromkeys(n for line in validation for n in line if n != "step"):
        steps, values = _columns(validation, name)
        ringed = None
        if name == best and np.isfinite(values).any():
            ringed = int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))
        title = f"{name} (validation)"
        panels.append(Panel(title, steps, values, last, METRIC_COLOUR, markers=True, best=ringed))
    return panels


def draw_panels(panels: Sequence[Panel]) -> Image.Image:
    """The panels side by side, three in a row."""
    columns = min(COLUMNS, len(panels))
    size = (columns * WIDTH, math.ceil(len(panels) / columns) * HEIGHT)
    canvas = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        canvas.paste(_draw(panel), (column * WIDTH * SCALE, row * HEIGHT * SCALE))
    return canvas.resize(size, Image.Resampling.LANCZOS)


def round_values(low: float, high: float, count: int) -> list[float]:
    """About `count` values of 1, 2 or 5 times a power of ten's multiples, from `low` to `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _columns(
    lines: Sequence[Mapping[str, Any]], name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = [(line["step"], line[name]) for line in lines if name in line]
    values = [float("nan") if value is None else float(value) for _, value in rows]
    return np.array([step for step, _ in rows], dtype=np.int64), np.array(values)


def _draw(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    pen = ImageDraw.Draw(image)

    def write(x: float, y: float, text: str, colour: Colour, size: int, anchor: str) -> None:
        font = ImageFont.load_default(size=size * SCALE)
        pen.text((x * SCALE, y * SCALE), text, fill=colour, font=font, anchor=anchor)

    bottom = HEIGHT - BOTTOM
    for value in panel.ticks():
        _, y = panel.position(0, value)
        pen.line([LEFT * SCALE, y * SCALE, (WIDTH - RIGHT) * SCALE, y * SCALE], PALE, SCALE)
        write(LEFT - 6, y, f"{value:.3g}", GREY, 11, "rm")
    for step in round_values(0, panel.last, 4):
        x = LEFT + step / panel.last * (WIDTH - LEFT - RIGHT)
        pen.line([x * SCALE, bottom * SCALE, x * SCALE, (bottom + 4) * SCALE], GREY, SCALE)
        # the last number stays in the frame
        write(min(x, WIDTH - 18), bottom + 7, _short(step), GREY, 11, "mt")
    pen.line([LEFT * SCALE, bottom * SCALE, (WIDTH - RIGHT) * SCALE, bottom * SCALE], GREY, SCALE)

    if panel.noisy:
        pale = tuple(int(255 - 0.35 * (255 - part)) for part in panel.colour)
        _line(pen, panel, panel.values, pale, 1)
        _line(pen, panel, panel.smooth(), panel.colour, 2)
    else:
        _line(pen, panel, panel.values, panel.colour, 2)
    write(LEFT, 9, panel.title, INK, 14, "lt")
    finite = panel.values[np.isfinite(panel.values)]
    if len(finite):
        write(WIDTH - RIGHT, 10, f"{finite[-1]:.4g}", panel.colour, 13, "rt")
    return image


def _line(
    pen: ImageDraw.ImageDraw,
    panel: Panel,
    values: NDArray[np.float64],
    colour: tuple[int, ...],
    width: int,
) -> None:
    previous: tuple[float, float] | None = None
    for number, (step, value) in enumerate(zip(panel.steps.tolist(), values.tolist(), strict=True)):
        if not math.isfinite(value):
            previous = None
            continue
        x, y = (part * SCALE for part in panel.position(step, value))
        if previous is not None:
            pen.line([*previous, x, y], fill=colour, width=width * SCALE)
        if panel.markers or len(values) == 1:
            pen.circle((x, y), 2.5 * SCALE, fill=colour)
        if number == panel.best:
            pen.circle((x, y), 6 * SCALE, outline=INK, width=SCALE)
        previous = (x, y)


def _short(step: float) -> str:
    """A number of steps in few letters: 1500000 as 1.5M."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if step >= size:
            return f"{step / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{step:.4g}"
