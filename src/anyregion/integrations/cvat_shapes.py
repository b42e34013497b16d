"""Shapes of CVAT's API as boxes and masks, and masks as its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyregion.data.annotations.cvat import mask_of_runs
from anyregion.data.annotations.shape_rows import ellipse, number, polygon_box, rectangle, turned
from anyregion.errors import InputError
from anyregion.io.writers.cvat import row_runs
from anyregion.io.writers.writing import crop_of
from anyregion.masks import RLE, decode_mask, mask_box, segmentation_to_rle

REGION_TYPES = ("rectangle", "polygon", "mask", "ellipse")
"""Types of shapes that are regions; the others are lines, points, cuboids and skeletons."""


def shape_box(shape: Mapping[str, Any]) -> tuple[float, ...]:
    """The upright box around a shape, xyxy in pixels.

    Args:
        shape: one of `REGION_TYPES`, with `type`, `points` and perhaps `rotation` (degrees,
            clockwise), as CVAT states it.

    Raises:
        InputError: points that make no such shape.
    """
    points = _points(shape)
    if shape["type"] == "mask":
        left, top, right, bottom = _mask_place(points)[1]
        return float(left), float(top), float(right + 1), float(bottom + 1)
    polygon = _outline(shape, points)
    return tuple(points) if polygon is None else polygon_box([polygon])


def shape_mask(shape: Mapping[str, Any], size: tuple[int, int]) -> RLE | None:
    """The mask of a shape; None for an upright rectangle, whose box says it all.

    Args:
        shape: as for `shape_box`.
        size: `(height, width)` of its image.

    Raises:
        InputError: as `shape_box`, and a mask that does not lie in the image.
    """
    points = _points(shape)
    if shape["type"] == "mask":
        runs, (left, top, right, bottom) = _mask_place(points)
        return mask_of_runs(runs, (left, top, right - left + 1, bottom - top + 1), size)
    polygon = _outline(shape, points)
    return None if polygon is None else segmentation_to_rle([polygon], *size)


def mask_points(mask: RLE) -> list[int]:
    """A mask as CVAT's API has it: runs row by row within its box, then the box, ends included.

    Raises:
        InputError: the mask is empty, which CVAT cannot hold.
    """
    x0, y0, x1, y1 = (int(v) for v in mask_box(mask))
    if x1 <= x0 or y1 <= y0:
        raise InputError("the mask is empty")
    crop = crop_of(decode_mask(mask), (x0, y0, x1, y1))
    return [*row_runs(crop), x0, y0, x1 - 1, y1 - 1]


def _points(shape: Mapping[str, Any]) -> list[float]:
    points = shape.get("points")
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise InputError(f"its points are {points!r:.40}")
    return [number(value, "a coordinate") for value in points]


def _mask_place(points: list[float]) -> tuple[list[int], tuple[int, int, int, int]]:
    if len(points) < 5 or any(v != int(v) for v in points):
        raise InputError("a mask whose runs and box are not whole numbers")
    left, top, right, bottom = (int(v) for v in points[-4:])
    return [int(v) for v in points[:-4]], (left, top, right, bottom)


def _outline(shape: Mapping[str, Any], points: list[float]) -> list[float] | None:
    """A polygon, flat; None for an upright rectangle."""
    kind = shape["type"]
    if kind == "polygon":
        polygon_box([points])  # raises for what is none
        return points
    if len(points) != 4:
        raise InputError(f"a {kind} of {len(points)} numbers; 4 are needed")
    rotation = number(shape.get("rotation") or 0.0, "rotation")
    if kind == "ellipse":
        # the centre, then the rightmost x and the topmost y
        cx, cy, right, top = points
        return ellipse(cx, cy, right - cx, cy - top, rotation)
    if not rotation:
        return None
    x0, y0, x1, y1 = points
    return turned(rectangle(points), rotation, ((x0 + x1) / 2, (y0 + y1) / 2))
