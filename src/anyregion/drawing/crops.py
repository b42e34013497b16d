"""Sheets of crops: regions cut out of their images, side by side, each with lines under it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anyregion.drawing.palette import Colour, Colours
from anyregion.drawing.shapes import draw_box
from anyregion.drawing.text import NO_FONT, draw_label, measure_label, shorten, written
from anyregion.images import Pixels

TILE = 200
"""Pixels of a crop's longer side."""
# of the box's longer side, and in pixels of the image: what is shown around a region
_MARGIN, _LEAST_MARGIN = 0.25, 12.0
_LETTERS, _GAP, _COLUMNS = 13, 8, 6


def crop_region(
    pixels: Pixels, box: NDArray[np.float64], colour: Colour, *, dashed: bool = False
) -> Image.Image:
    """A region with some of what is around it, its box outlined.

    Args:
        pixels: the image, `(height, width, 3)` RGB uint8.
        box: `(4,)` xyxy in pixels; NaN shows the whole image.
        colour, dashed: of the outline.
    """
    height, width = pixels.shape[:2]
    outlined = bool(np.isfinite(box).all())
    if not outlined:
        box = np.array([0.0, 0.0, width, height])
    margin = max(_LEAST_MARGIN, _MARGIN * float((box[2:] - box[:2]).max())) if outlined else 0.0
    low = np.floor(np.clip(box[:2] - margin, 0, [width - 1, height - 1])).astype(int)
    high = np.ceil(np.clip(box[2:] + margin, low + 1, [width, height])).astype(int)
    part = Image.fromarray(pixels[low[1] : high[1], low[0] : high[0]])
    scale = TILE / max(part.size)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    crop = part.resize(size, Image.Resampling.LANCZOS)
    if outlined:
        draw_box(crop, (box - np.tile(low, 2)) * scale, colour, 2, dashed=dashed)
    return crop


def crop_sheet(
    crops: Sequence[Image.Image],
    lines: Sequence[Sequence[tuple[str, str]]],
    *,
    colours: Colours | None = None,
    font: str | None = None,
) -> Image.Image:
    """Crops in rows, each over its lines.

    Args:
        crops: as `crop_region` cut them.
        lines: of each crop as many as of any other: a name, on its colour, and what follows it; or
            no name, and text on white.
        colours: of the names.
        font: a file with a font for names; see `PictureOptions`.
    """
    colours = colours or Colours()
    count = len(lines[0]) if lines else 0
    row = round(1.7 * _LETTERS)
    tile = (TILE + _GAP, TILE + count * row + _GAP)
    columns = min(_COLUMNS, max(1, len(crops)))
    rows = max(1, -(-len(crops) // columns))
    sheet = Image.new("RGB", (columns * tile[0] + _GAP, rows * tile[1] + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (crop, of_crop) in enumerate(zip(crops, lines, strict=True)):
        x, y = _GAP + i % columns * tile[0], _GAP + i // columns * tile[1]
        sheet.paste(crop, (x + (TILE - crop.width) // 2, y + (TILE - crop.height) // 2))
        for j, (name, further) in enumerate(of_crop):
            # names of files may hold line breaks, and bytes that are no letters
            after = "".join(c if c.isprintable() else " " for c in further) if name else ""
            text = written(name or further, font) or NO_FONT
            label = measure_label(shorten(text, after, _LETTERS, TILE - 8, font), _LETTERS, font)
            ground = colours[name] if name else None
            draw_label(pen, label, x, y + TILE + 2 + j * row, ground)
    return sheet
