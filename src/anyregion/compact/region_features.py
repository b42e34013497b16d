"""What the trained module is told of an image's regions: everything it needs, and all of it frozen.

Training and inference both come here, so they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import pool
from anyregion.compact.conse import Conse
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid, MapName
from anyregion.masks import encode_mask
from anyregion.regions import Regions

Floats = NDArray[np.float32]

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
        conse: `(N, 384)`, the training-free answer: ConSE in the words' space, length 1.
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
    maps: FeaturePyramid, size: tuple[int, int], regions: Regions, bridge: Conse
) -> RegionFeatures:
    """Collect the evidence.

    Args:
        maps: all four maps of the image (see `CHANNELS`).
        size: `(height, width)` of the image in pixels.
        regions: regions that fit the image.
        bridge: for ConSE.
    """
    height, width = size
    parts = quarters(regions)
    means = [
        _pool(maps, name, parts).reshape(len(regions), 4 * CHANNELS[name]) for name in QUARTERED
    ]
    means.append(_pool(maps, "last", regions))
    conse = bridge.project(means[-1])
    lengths = np.linalg.norm(conse, axis=1, keepdims=True) + np.float32(1e-7)
    last, wide = maps.maps["last"], maps.maps["stride32"]
    down, across = last.shape[:2]
    y = (np.arange(down) + 0.5) * maps.span[0] / down / height
    x = (np.arange(across) + 0.5) * maps.span[1] / across / width
    return RegionFeatures(
        pooled=np.concatenate(means, axis=1),
        conse=conse / lengths,
        boxes=(regions.extents(size) / [width, height, width, height]).astype(np.float32),
        memory=np.concatenate([wide, last], axis=2).reshape(down * across, MEMORY),
        cells=np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32),
        shape=(np.array(size) / max(size)).astype(np.float32),
    )


def quarters(regions: Regions) -> Regions:
    """The four quarters of each region's box, row by row: `4 N` regions.

    A mask is cut like its box; a quarter that it leaves empty has the whole mask instead.
    """
    boxes = regions.extents()
    low, high = boxes[:, :2], boxes[:, 2:]
    middle = (low + high) / 2
    cut = np.stack([low, middle, high], axis=1)
    split = np.stack(
        [
            np.concatenate(
                [cut[:, i, 0:1], cut[:, j, 1:2], cut[:, i + 1, 0:1], cut[:, j + 1, 1:2]], 1
            )
            for j in (0, 1)
            for i in (0, 1)
        ],
        axis=1,
    ).reshape(-1, 4)
    if all(rle is None for rle in regions.masks):
        return Regions.from_boxes(split)
    masks: list[NDArray[np.bool_] | None] = []
    for i in range(len(regions)):
        mask = regions.mask(i)
        masks += [None] * 4 if mask is None else [_cut(mask, b) for b in split[4 * i : 4 * i + 4]]
    return Regions.from_prompts(
        boxes=split, masks=[None if m is None else encode_mask(m) for m in masks]
    )


def _cut(mask: NDArray[np.bool_], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    part = np.zeros_like(mask)
    part[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return part if part.any() else mask


def _pool(maps: FeaturePyramid, name: MapName, regions: Regions) -> Floats:
    return pool(DenseMap(maps.maps[name], maps.span), regions)
