"""Frozen features of an image's regions: the input of the region head.

Training and inference both compute them here, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import pool
from anyregion.compact.conse import Conse
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid, MapName
from anyregion.regions import Boxes

Floats = NDArray[np.float32]
Masks = Sequence[NDArray[np.bool_] | None]
"""Per region its mask `(height, width)` at the image's size, or None for its box."""

QUARTERED: tuple[MapName, ...] = ("stride8", "stride16", "stride32")
POOLED = 4 * sum(CHANNELS[name] for name in QUARTERED) + CHANNELS["last"]
MEMORY = CHANNELS["stride32"] + CHANNELS["last"]


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """The regions of one image, and the image.

    Attributes:
        pooled: `(N, 3168)`: of each map of strides 8, 16 and 32 the means in the region's four
            quarters, so that a top differs from a bottom; then the mean of the last convolution
            in the whole region. Where a region has a mask, they are taken in it.
        conse: `(N, 384)`, the training-free answer: ConSE in the space of the texts, length 1.
        boxes: `(N, 4)` xyxy as fractions of the image's width and height.
        memory: `(T, 1600)`, every cell of the image: stride 32 and the last convolution.
        cells: `(T, 2)`, the cells' centres, x and y, as fractions of the image.
        shape: `(2,)`, height and width of the image over the longer of the two.
    """

    pooled: Floats
    conse: Floats
    boxes: Floats
    memory: Floats
    cells: Floats
    shape: Floats


def extract_region_features(
    pyramid: FeaturePyramid, boxes: Boxes, conse: Conse, masks: Masks | None = None
) -> RegionFeatures:
    """Compute the features of regions of one image.

    Args:
        pyramid: all four maps of the image (see `CHANNELS`).
        boxes: `(N, 4)` xyxy in pixels of the image.
        conse: for the training-free answer.
        masks: of the regions; None where none has any.
    """
    height, width = pyramid.size
    quarters, quarter_masks = quarter(boxes, masks)
    means = [
        # (4 N, channels) -> (N, 4 * channels): the quarters of a region side by side
        pool(DenseMap(pyramid.maps[name], pyramid.span), quarters, quarter_masks).reshape(
            len(boxes), 4 * CHANNELS[name]
        )
        for name in QUARTERED
    ]
    means.append(pool(DenseMap(pyramid.maps["last"], pyramid.span), boxes, masks))  # (N, 1280)
    answer = conse.project(means[-1])  # (N, 384)
    lengths = np.linalg.norm(answer, axis=1, keepdims=True) + np.float32(1e-7)
    last, stride32 = pyramid.maps["last"], pyramid.maps["stride32"]
    rows, columns = last.shape[:2]
    # centres of the cells; those of the padding lie beyond 1
    y = (np.arange(rows) + 0.5) * pyramid.span[0] / rows / height
    x = (np.arange(columns) + 0.5) * pyramid.span[1] / columns / width
    sides = np.array([width, height, width, height], dtype=np.float64)
    return RegionFeatures(
        pooled=np.concatenate(means, axis=1),  # (N, 3168)
        conse=answer / lengths,
        boxes=(np.clip(boxes, 0, sides) / sides).astype(np.float32),
        memory=np.concatenate([stride32, last], axis=2).reshape(rows * columns, MEMORY),
        cells=np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32),
        shape=(np.array(pyramid.size) / max(pyramid.size)).astype(np.float32),
    )


def quarter(boxes: Boxes, masks: Masks | None = None) -> tuple[Boxes, Masks | None]:
    """The four quarters of each box, row by row, `(4 N, 4)`, and the masks cut to them.

    A quarter that a mask leaves empty has all of the mask instead.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    ends = np.stack([low, (low + high) / 2, high], axis=1)  # (N, 3, 2)
    quarters = np.stack(
        [
            np.stack([ends[:, i, 0], ends[:, j, 1], ends[:, i + 1, 0], ends[:, j + 1, 1]], 1)
            for j in (0, 1)
            for i in (0, 1)
        ],
        axis=1,
    ).reshape(-1, 4)  # (4 N, 4)
    if masks is None:
        return quarters, None
    # at the image's size again, so that a quarter is pooled as any other mask
    cut: list[NDArray[np.bool_] | None] = []
    for i, box in enumerate(quarters):
        mask = masks[i // 4]
        if mask is not None:
            # to the nearest pixel, so that the quarters share none
            x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
            inside = np.zeros_like(mask)
            inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
            mask = inside if inside.any() else mask
        cut.append(mask)
    return quarters, cut
