"""Boxes that look as if they were written by another convention than their file's layout has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.builder import OTHER_CONVENTION, ImageRecord, RegionColumns
from anyregion.data.annotations.report import Findings
from anyregion.errors import InputError


def refuse_fractions(path: Path, stated: NDArray[np.float64], *, corners: bool) -> None:
    """`InputError` where all boxes `(N, 4)`, as they are stated, lie within 0 to 1."""
    # a row without area says nothing, and is reported by itself
    boxes = stated[(stated[:, 2:] > 0).all(axis=1)]
    if len(boxes) and boxes.min() >= 0 and boxes.max() <= 1 + 1e-6:
        names = "x0, y0, x1, y1" if corners else "x, y, width, height"
        raise InputError(
            f"{path}: its boxes ({len(boxes)}) all lie within 0 to 1: these look like fractions of "
            f"the image. Boxes are {names} in pixels: multiply them by the image's width and height"
        )


def check_boxes(
    path: Path, regions: RegionColumns, images: Sequence[ImageRecord], *, findings: Findings
) -> None:
    """Report boxes that look as if they were of another convention than the file's layout has.

    Raises:
        InputError: all of them lie within 0 to 1.
    """
    finite = np.isfinite(regions.boxes).all(axis=1)
    boxes = regions.boxes[finite]  # (N, 4) xyxy
    stated = boxes.copy()
    if not regions.corners:
        stated[:, 2:] -= boxes[:, :2]
    refuse_fractions(path, stated, corners=regions.corners)
    low, high = stated[:, :2], stated[:, 2:]
    # 0, 0, 1, 1 may be a pixel
    small = (stated >= 0).all(axis=1) & (stated <= 1).all(axis=1) & (stated % 1 > 0).any(axis=1)
    if count := int(small.sum()):
        reason = f"{count} of {len(boxes)} lie within 0 to 1: are they fractions of the image?"
        findings.add(OTHER_CONVENTION, f"the boxes of {path}", reason)
    if regions.corners:
        # what is inverted, and could well be a place and a size
        inverted = (high <= low).any(axis=1) & (low >= 0).all(axis=1) & (high > 0).all(axis=1)
        count = int(inverted.sum())
        if count > 1 and 3 * count >= len(boxes):
            reason = f"{count} of {len(boxes)} are inverted as x0, y0, x1, y1"
            reason += ": are they x, y, width, height?"
            findings.add(OTHER_CONVENTION, f"the boxes of {path}", reason)
    # (K, 2) width and height of each listed image
    size_of = {image.key: image.size[::-1] for image in reversed(images)}
    sizes = np.array([size_of.get(key, (-1, -1)) for key in regions.image_keys]).reshape(-1, 2)
    limits = sizes[regions.images[finite]].astype(np.float64)
    if said := describe_beyond(boxes, limits, corners=regions.corners):
        findings.add(OTHER_CONVENTION, f"the boxes of {path}", said)


def describe_beyond(
    boxes: NDArray[np.float64], limits: NDArray[np.float64], *, corners: bool = False
) -> str | None:
    """What to say where most boxes reach beyond their images; else None.

    Args:
        boxes: `(N, 4)` xyxy, finite, as they were before they were clipped.
        limits: `(N, 2)` width and height of each one's image; not positive where not known.
        corners: they were stated so, as x0, y0, x1, y1.
    """
    low, high = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]  # as x, y, width, height
    known = (limits > 0).all(axis=1) & (high > 0).all(axis=1)
    beyond = known & (boxes[:, 2:] > limits + 1).any(axis=1)
    as_corners = beyond & (high > low).all(axis=1) & (high <= limits + 1).all(axis=1)
    # without a better reading only what is no slip at the border counts
    much = known & (boxes[:, 2:] > 1.1 * limits + 1).any(axis=1)
    total, count, much_count = int(known.sum()), int(beyond.sum()), int(much.sum())
    if not corners and count > 1 and 2 * count > total and 10 * as_corners.sum() >= 9 * count:
        return (
            f"{count} of {total} reach beyond their images as x, y, width, height, and lie within "
            "them as corners x0, y0, x1, y1: are they corners?"
        )
    if much_count > 2 and 2 * much_count > total:
        return (
            f"{much_count} of {total} reach beyond their images by more than a tenth: were they "
            "drawn on another size of the images?"
        )
    return None
