"""Reads labels back from a picture, by looking for their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 of a text with two pixels of its ground to each side and one above and below."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
_ANY = -1  # stands for a pixel that may have any colour


def contrast(first: Colour, second: Colour) -> float:
    """WCAG 2's ratio, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def find_text(
    picture: Image.Image | NDArray[Any], text: str, ground: Colour, *, sizes: Sequence[int]
) -> list[Box]:
    """Where a text stands whole on its ground, in Pillow's own font, uncovered by anything else.

    The ink is black or white, whichever contrasts more with the ground.
    """
    boxes = find_labels(picture, [(text, ground)], sizes=sizes)
    return [box for _, box in boxes]


def find_labels(
    picture: Image.Image | NDArray[Any],
    labels: Sequence[tuple[str, Colour]],
    *,
    sizes: Sequence[int],
) -> list[tuple[str, Box]]:
    """Where texts, each with its ground, stand whole in a picture.

    A text that is part of another, as 1 of 11, is looked for where none of the longer ones stands.
    """
    pixels = _coded(np.asarray(picture))
    by_colour = np.argsort(pixels, axis=None, kind="stable")  # positions, colour by colour
    colours = pixels.ravel()[by_colour]
    boxes = []
    for text, ground in sorted(set(labels), key=lambda label: -len(label[0])):
        for size in sizes:
            template = _template(text, size, ground)
            points = np.argwhere(template != _ANY)
            values = template[tuple(points.T)]
            first = np.searchsorted(colours, values, side="left")
            count = np.searchsorted(colours, values, side="right") - first
            rarest_first = np.argsort(count, kind="stable")
            start = rarest_first[0]
            positions = by_colour[first[start] : first[start] + count[start]]
            y, x = np.unravel_index(positions, pixels.shape)
            y, x = y - points[start, 0], x - points[start, 1]
            height, width = template.shape
            inside = (y >= 0) & (x >= 0) & (y <= len(pixels) - height)
            inside &= x <= pixels.shape[1] - width
            y, x = y[inside], x[inside]
            for point in rarest_first:
                if not len(y):
                    break
                same = pixels[y + points[point, 0], x + points[point, 1]] == values[point]
                y, x = y[same], x[same]
            for top, left in zip(y.tolist(), x.tolist(), strict=True):
                boxes.append((text, (left, top, left + width, top + height)))
                pixels[top : top + height, left : left + width] = _ANY
    return boxes


@lru_cache(maxsize=4096)
def _template(text: str, size: int, ground: Colour) -> NDArray[np.int64]:
    """The middle of a label, each pixel's colour as a number."""
    ink = max((BLACK, WHITE), key=lambda ink: contrast(ink, ground))
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = (round(v) for v in font.getbbox(text))
    image = Image.new("RGB", (right - left + 4, bottom - top + 2), ground)
    ImageDraw.Draw(image).text((2 - left, 1 - top), text, fill=ink, font=font)
    template = _coded(np.asarray(image))
    for rows in (slice(2), slice(-2, None)):  # the ground's corners are rounded
        for columns in (slice(2), slice(-2, None)):
            template[rows, columns] = _ANY
    return template


def _coded(pixels: NDArray[Any]) -> NDArray[np.int64]:
    red, green, blue = (pixels[..., i].astype(np.int64) for i in range(3))
    return red * 65536 + green * 256 + blue


def _luminance(colour: Colour) -> float:
    c = np.array(colour) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
