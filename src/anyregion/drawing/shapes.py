"""The shapes of regions on a picture: boxes, masks and points, on solid lines or dashed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from anyregion.drawing.layout import Anchor
from anyregion.drawing.palette import Colour, ink_on
from anyregion.masks import RLE, decode_mask

_SHADOW = 120  # of 255
# of a small mask, and of one that covers the picture, which is to show through
_FILL, _LEAST_FILL = 0.38, 0.14
# pixels around the box of a mask in which its shadow and soft edge have room
_RIM = 3


def draw_box(
    picture: Image.Image,
    box: NDArray[np.float64],
    colour: Colour,
    line: int,
    *,
    dashed: bool = False,
) -> None:
    """An outline within the box, between shadows, or lights, that set it off from any ground."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
    # a small region is not to vanish under its own outline
    thin = max(1, min(line, min(x1 - x0, y1 - y0) // 8))
    pen = ImageDraw.Draw(picture, "RGBA")
    shadow = (*ink_on(colour), _SHADOW)
    if dashed:
        dashes = _dashes(x0, y0, x1, y1, thin)
        for a, b, c, d in dashes:
            pen.rectangle((a - 1, b - 1, c + 1, d + 1), fill=shadow)
        for dash in dashes:
            pen.rectangle(dash, fill=colour)
        return
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=shadow, width=1)
    if x1 - x0 > 2 * thin + 4 and y1 - y0 > 2 * thin + 4:
        inner = (x0 + thin, y0 + thin, x1 - thin, y1 - thin)
        pen.rectangle(inner, outline=shadow, width=1)
    pen.rectangle((x0, y0, x1, y1), outline=colour, width=thin)


def _dashes(x0: int, y0: int, x1: int, y1: int, thin: int) -> list[tuple[int, int, int, int]]:
    """Rectangles along the outline, one at each corner of a side."""
    dashes = []
    length = 3 * thin + 4
    for low, high, horizontal in ((x0, x1, True), (y0, y1, False)):
        # as many whole dashes and gaps as fit, so that corners are always drawn
        count = max(1, round((high - low) / (1.8 * length)))
        for middle in np.linspace(low, high, count + 1).round().astype(int).tolist():
            start, end = max(low, middle - length // 2), min(high, middle + length // 2)
            if horizontal:
                dashes += [(start, y, end, y + thin - 1) for y in (y0, y1 - thin + 1)]
            else:
                dashes += [(x, start, x + thin - 1, end) for x in (x0, x1 - thin + 1)]
    return dashes


def draw_mask(
    picture: Image.Image,
    rle: RLE,
    colour: Colour,
    line: int,
    *,
    dashed: bool = False,
    filled: bool = True,
) -> Anchor | None:
    """Fill and contour with soft edges; None for a mask with nothing inside."""
    mask = decode_mask(rle)  # (H, W) of the image
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    scale = picture.width / mask.shape[1], picture.height / mask.shape[0]
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    left, top = round(x0 * scale[0]), round(y0 * scale[1])
    size = (max(1, round(x1 * scale[0]) - left), max(1, round(y1 * scale[1]) - top))
    crop = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    share = _soft(crop.resize(size, Image.Resampling.BILINEAR), max(scale))  # (h, w), 0 to 1
    core = share.copy()
    for shifted in _shifts(share, line):
        core = np.minimum(core, shifted)
    contour = share * (1 - core)
    if dashed:
        contour = contour * _dash_pattern(share, 3 * line + 2)
    halo = share
    for shifted in _shifts(share, 1):
        halo = np.maximum(halo, shifted)
    shadow = (halo - share) * (_dash_pattern(share, 3 * line + 2) if dashed else 1.0)
    at = (left - _RIM, top - _RIM)
    picture.paste(ink_on(colour), at, _alpha(shadow * (_SHADOW / 255)))
    # from a fortieth of the picture on the paler the larger
    part = float(share.sum()) / (picture.width * picture.height)
    fill = share * np.clip(_FILL - 0.3 * (part - 0.025), _LEAST_FILL, _FILL) * filled
    picture.paste(colour, at, _alpha(np.maximum(contour, fill)))
    inside = share[_RIM:-_RIM, _RIM:-_RIM] > 0.5
    x, y = _thickest(crop)
    tops = np.flatnonzero(inside[np.flatnonzero(inside.any(axis=1))[:1]])
    top_x = float(tops.mean()) if len(tops) else size[0] / 2
    return Anchor(
        left + x * size[0], top + y * size[1], top_x=left + top_x, area=float(inside.sum())
    )


def _soft(mask: Image.Image, scale: float) -> NDArray[np.float32]:
    """The share of each pixel that a mask covers, with a rim, `(h + 2 RIM, w + 2 RIM)`.

    The steps of a mask that was enlarged are rounded off.
    """
    rim = Image.new("L", (mask.width + 2 * _RIM, mask.height + 2 * _RIM))
    rim.paste(mask, (_RIM, _RIM))
    radius = float(np.clip(0.6 * scale, 0.6, 4.0))
    blurred = np.asarray(rim.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    # a blurred edge rises over some 2.5 radii: steepened, it is one pixel wide again
    share = np.clip((blurred - 0.5) * np.float32(2.5 * radius) + np.float32(0.5), 0, 1)
    # what is thinner than the blur is still to be seen
    share = share if share.max() > 0.5 else np.asarray(rim) / 255
    return share.astype(np.float32)


def _shifts(values: NDArray[np.float32], by: int) -> list[NDArray[np.float32]]:
    """The array moved up, down, left and right; nothing comes in from outside."""
    height, width = values.shape
    padded = np.pad(values, by)
    return [
        padded[dy : dy + height, dx : dx + width]
        for dy, dx in ((0, by), (2 * by, by), (by, 0), (by, 2 * by))
    ]


def _dash_pattern(share: NDArray[np.float32], length: int) -> NDArray[np.bool_]:
    """True on the dashes: along x where the edge runs across, along y where it runs down."""
    smooth = Image.fromarray((share * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(length / 2)
    )
    dy, dx = np.gradient(np.asarray(smooth, dtype=np.float32))
    height, width = share.shape
    across = (np.arange(width) // length % 2 == 0)[None]
    down = (np.arange(height) // length % 2 == 0)[:, None]
    pattern: NDArray[np.bool_] = np.where(np.abs(dy) > np.abs(dx), across, down)
    return pattern


def _alpha(values: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray((values * 255).round().astype(np.uint8))


def _thickest(crop: Image.Image) -> tuple[float, float]:
    """The place, from 0 to 1 of width and height, that is farthest from the edge of a mask."""
    # 32 cells a side place a label well enough, and take 2 ms however large the mask is
    side = 32
    eroded = np.pad(np.asarray(crop.resize((side, side), Image.Resampling.BOX)) > 127, 1)
    core = eroded
    while core.any():
        eroded, core = core, core.copy()
        for shifted in (eroded[:-2, 1:-1], eroded[2:, 1:-1], eroded[1:-1, :-2], eroded[1:-1, 2:]):
            core[1:-1, 1:-1] &= shifted
    cells = np.argwhere(eroded)
    if not len(cells):  # too thin to show at this size
        return 0.5, 0.5
    y, x = cells[np.abs(cells - cells.mean(axis=0)).sum(axis=1).argmin()]
    return (float(x) - 0.5) / side, (float(y) - 0.5) / side


def draw_points(
    picture: Image.Image, record: Mapping[str, Any], colour: Colour, line: int, scale: float
) -> None:
    """Foreground points as discs, background points as crosses, both ringed in white."""
    pen = ImageDraw.Draw(picture)
    r = 2 * line
    points = record["points"]
    for (x, y), label in zip(points, record.get("point_labels", [1] * len(points)), strict=True):
        x, y = x * scale, y * scale
        if label:
            pen.ellipse((x - r - 1, y - r - 1, x + r + 1, y + r + 1), fill=(0, 0, 0))
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))
            pen.ellipse((x - r + 2, y - r + 2, x + r - 2, y + r - 2), fill=colour)
        else:
            for ink, width in (((0, 0, 0), line + 4), ((255, 255, 255), line + 2), (colour, line)):
                pen.line((x - r, y - r, x + r, y + r), fill=ink, width=width)
                pen.line((x - r, y + r, x + r, y - r), fill=ink, width=width)
