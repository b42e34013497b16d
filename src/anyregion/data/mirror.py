"""Mirror images and their regions, for frozen models: image and regions are flipped together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.masks import encode_mask
from anyregion.regions import Boxes, Regions


def mirror_pixels(pixels: Pixels) -> Pixels:
    """The image with left and right exchanged."""
    return np.ascontiguousarray(pixels[:, ::-1])


def mirror_boxes(boxes: Boxes, width: int) -> Boxes:
    """Boxes `(N, 4)` xyxy in pixels, of an image `width` pixels wide, in its mirror image."""
    mirrored: Boxes = boxes.copy()
    # coordinates of borders, not of pixels: `width` becomes 0
    mirrored[:, 0], mirrored[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return mirrored


def mirror_regions(regions: Regions, width: int) -> Regions:
    """The same regions in the mirror image, in the same order.

    Points are taken as positions of pixels, as SAM reads them: column 0 becomes `width - 1`.

    Raises:
        InputError: a region with mask logits, which lie in a localizer's square, not in the image.
    """
    for i, logits in enumerate(regions.mask_logits):
        if logits is not None:
            raise InputError(f"region {regions.ids[i]}: mask logits cannot be mirrored")
    return Regions(
        boxes=mirror_boxes(regions.boxes, width),
        points=tuple(_mirror_points(points, width) for points in regions.points),
        point_labels=regions.point_labels,
        masks=tuple(
            None if mask is None else encode_mask(mask[:, ::-1])
            for mask in map(regions.mask, range(len(regions)))
        ),
        mask_logits=regions.mask_logits,
        ids=regions.ids,
        scores=regions.scores,
        categories=regions.categories,
        tracker_ids=regions.tracker_ids,
        data=regions.data,
    )


def _mirror_points(points: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    # pixels, not borders: the last column, `width - 1`, becomes 0
    mirrored: NDArray[np.float64] = points.copy()
    mirrored[:, 0] = np.maximum(width - 1 - points[:, 0], 0)
    return mirrored
