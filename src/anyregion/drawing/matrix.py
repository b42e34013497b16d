"""A picture of a confusion matrix: counts in cells, shaded by their share of the row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anyregion.drawing.palette import Colour, ink_on
from anyregion.drawing.text import NO_FONT, measure_label, shorten, written

# told apart by people who see few colours: Okabe and Ito (2008)
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)
_INK, _GREY, _RULE = (30, 30, 30), (120, 120, 120), (226, 226, 226)
_LETTERS, _SMALL, _CELL, _GAP = 15, 12, 34, 8
# pixels that names may take, left of the rows and above the columns
_ROOM = 190


def draw_matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: NDArray[np.int64],
    *,
    title: str,
    right: NDArray[np.bool_],
    font: str | None = None,
) -> Image.Image:
    """Draw a matrix with its names.

    Args:
        rows, columns: names, of what is and of what was answered.
        counts: `(R, C)`.
        title: above it.
        right: `(R, C)`, the cells that are no error: blue, the others orange.
        font: a file with a font for names; see `PictureOptions`.
    """

    def name(text: str, further: str = "") -> Image.Image:
        text = shorten(written(text, font) or NO_FONT, further, _LETTERS, _ROOM, font)
        label = measure_label(text, _LETTERS, font)
        image = Image.new("RGB", (label.width, label.height), "white")
        ImageDraw.Draw(image).text(label.offset, label.text, fill=_INK, font=label.font)
        return image

    totals = counts.sum(axis=1)
    row_names = [name(text, f"  {n:,}") for text, n in zip(rows, totals.tolist(), strict=True)]
    column_names = [name(text).rotate(90, expand=True) for text in columns]
    left = max((image.width for image in row_names), default=0) + 2 * _GAP
    heading = measure_label(title, _LETTERS)
    axes = measure_label("rows: what it is, and how many;  columns: what it was called", _SMALL)
    top = heading.height + axes.height + max((i.height for i in column_names), default=0) + 3 * _GAP
    width = max(left + len(columns) * _CELL, heading.width, axes.width) + 2 * _GAP
    picture = Image.new("RGB", (width, top + len(rows) * _CELL + 2 * _GAP), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP + heading.offset[0], _GAP + heading.offset[1]), title, _INK, heading.font)
    at = (_GAP + axes.offset[0], _GAP + heading.height + axes.offset[1])
    pen.text(at, axes.text, _GREY, axes.font)
    for i, image in enumerate(row_names):
        y = top + i * _CELL + (_CELL - image.height) // 2
        picture.paste(image, (left - _GAP - image.width, y))
    for j, image in enumerate(column_names):
        x = left + j * _CELL + (_CELL - image.width) // 2
        picture.paste(image, (x, top - _GAP - image.height))
    for i, j in np.ndindex(*counts.shape):
        x, y = left + j * _CELL, top + i * _CELL
        share = counts[i, j] / max(1, totals[i])
        ground = _shade(_RIGHT if right[i, j] else _WRONG, float(share))
        pen.rectangle((x, y, x + _CELL, y + _CELL), fill=ground, outline=_RULE)
        if counts[i, j]:
            text = _short(int(counts[i, j]))
            label = measure_label(text, _SMALL)
            cell = (x + (_CELL - label.width) // 2, y + (_CELL - label.height) // 2)
            where = (cell[0] + label.offset[0], cell[1] + label.offset[1])
            pen.text(where, text, ink_on(ground), label.font)
    return picture


def _shade(colour: Colour, share: float) -> Colour:
    """From white to a colour; small shares are to be seen, so by their root."""
    part = share**0.5
    red, green, blue = (round(255 - part * (255 - c)) for c in colour)
    return red, green, blue


def _short(count: int) -> str:
    """At most four letters: 12k for 12,345."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= 10 * unit or (unit == 1_000_000 and count >= unit):
            return f"{count // unit}{name}"
    return str(count)
