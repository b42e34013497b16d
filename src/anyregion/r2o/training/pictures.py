"""A picture of images, their superpixels, and the regions that these were joined into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.segmentation import mark_boundaries

from anyregion.images import Pixels

_GAP, _TITLE, _SIDE = 6, 18, 160
# told apart by people who see few colours: Okabe and Ito (2008), and tints of them
_COLOURS = np.array(
    [
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
        (213, 94, 0), (204, 121, 167), (120, 120, 120), (245, 207, 128), (170, 217, 244),
        (128, 206, 185), (247, 241, 160), (128, 184, 216), (234, 174, 128), (229, 188, 211),
    ]
) / 255  # fmt: skip


def region_picture(
    rows: Sequence[tuple[Pixels, NDArray[np.integer], NDArray[np.integer]]], title: str
) -> Pixels:
    """One row an image: the image, the outlines of its superpixels, its regions in colour.

    Args:
        rows: image `(S, S, 3)`, superpixels `(S, S)`, regions `(S, S)`; a region has the same
            colour in all rows, -1 none.
        title: of the third column.
    """
    width = 3 * _SIDE + 4 * _GAP
    height = _TITLE + len(rows) * (_SIDE + _GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, text in enumerate(("image", "superpixels", title)):
        draw.text((_GAP + column * (_SIDE + _GAP), 3), text, fill="black")
    for number, (pixels, superpixels, regions) in enumerate(rows):
        image = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE))) / 255
        outlines = _outlined(image, _enlarged(superpixels))
        joined = _enlarged(regions)
        for column, panel in enumerate(
            (image, outlines, _outlined(_coloured(image, joined), joined))
        ):
            place = (_GAP + column * (_SIDE + _GAP), _TITLE + number * (_SIDE + _GAP))
            canvas.paste(Image.fromarray((panel * 255).round().astype(np.uint8)), place)
    return np.asarray(canvas)


def _outlined(image: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = mark_boundaries(image, labels, color=(1, 1, 0))  # type: ignore[no-untyped-call]
    return found


def _coloured(image: NDArray[np.float64], regions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each region in its colour, the image shining through in grey."""
    grey = image.mean(axis=2, keepdims=True)
    colours = _COLOURS[regions % len(_COLOURS)]
    return np.where(regions[..., None] >= 0, 0.55 * colours + 0.45 * grey, image)


def _enlarged(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Nearest neighbours: ids are not mixed."""
    rows = np.arange(_SIDE) * labels.shape[0] // _SIDE
    columns = np.arange(_SIDE) * labels.shape[1] // _SIDE
    enlarged: NDArray[np.int64] = labels[rows][:, columns].astype(np.int64)
    return enlarged
