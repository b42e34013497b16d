"""The region head of `compact` on ONNX Runtime: its features and its graph.

The frozen features of regions are computed here for training and inference alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import pool
from anyregion.compact.assets import REGION_HEAD, runtime_errors
from anyregion.compact.calibration import Calibration
from anyregion.compact.conse import WIDTH, Conse
from anyregion.compact.image_encoder import FeaturePyramid, MapName
from anyregion.errors import CheckpointError
from anyregion.region_encoder import REGIONS_AT_ONCE
from anyregion.regions import Boxes

Floats = NDArray[np.float32]
Masks = Sequence[NDArray[np.bool_] | None]
"""Per region its mask `(height, width)` at the image's size, or None for its box."""

QUARTERED: tuple[MapName, ...] = ("stride8", "stride16", "stride32")
# what training writes beside the graph and the calibration, to go on from
CONFIG, WEIGHTS = "namer.json", "namer_weights.safetensors"
README = """# A trained region head of compact

Names regions with anyregion's built-in model, whose frozen parts come with the package:

`anyregion recognize PHOTO --model FOLDER --regions regions.json` gives the names of
`vocabulary.json`, with `--vocabulary "cat, dog"` any others.
"""
INPUTS = ("pooled", "conse", "boxes", "memory", "cells", "shape")


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """The regions of one image, and the image. Widths are those of the built-in image encoder.

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
    pyramid: FeaturePyramid, boxes: Boxes, conse: Conse | None, masks: Masks | None = None
) -> RegionFeatures:
    """Compute the features of regions of one image.

    Args:
        pyramid: all four maps of the image.
        boxes: `(N, 4)` xyxy in pixels of the image.
        conse: None for an image encoder without a classifier: there is no training-free answer,
            and zeros stand for it.
        masks: of the regions; None where none has any.
    """
    height, width = pyramid.size
    quarters, quarter_masks = quarter(boxes, masks)
    means = [
        # (4 N, channels) -> (N, 4 * channels): the quarters of a region side by side
        pool(DenseMap(pyramid.maps[name], pyramid.span), quarters, quarter_masks).reshape(
            len(boxes), 4 * pyramid.maps[name].shape[2]
        )
        for name in QUARTERED
    ]
    means.append(pool(DenseMap(pyramid.maps["last"], pyramid.span), boxes, masks))  # (N, 1280)
    if conse is None:
        projected = np.zeros((len(boxes), WIDTH), dtype=np.float32)
    else:
        projected = conse.project(means[-1])  # (N, 384)
    lengths = np.linalg.norm(projected, axis=1, keepdims=True) + np.float32(1e-7)
    last, stride32 = pyramid.maps["last"], pyramid.maps["stride32"]
    rows, columns = last.shape[:2]
    # centres of the cells; those of the padding lie beyond 1
    y = (np.arange(rows) + 0.5) * pyramid.span[0] / rows / height
    x = (np.arange(columns) + 0.5) * pyramid.span[1] / columns / width
    sides = np.array([width, height, width, height], dtype=np.float64)
    return RegionFeatures(
        pooled=np.concatenate(means, axis=1),  # (N, 3168)
        conse=projected / lengths,
        boxes=(np.clip(boxes, 0, sides) / sides).astype(np.float32),
        memory=np.concatenate([stride32, last], axis=2).reshape(rows * columns, -1),
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
    return quarters, None if masks is None else _QuarterMasks(quarters, masks)


class _QuarterMasks(Sequence[NDArray[np.bool_] | None]):
    """Masks cut to the quarters of their regions, each when it is read.

    At the image's size again, so that a quarter is pooled as any other mask.

    Args:
        quarters: `(4 N, 4)`, four of each region.
        masks: of the `N` regions.
    """

    def __init__(self, quarters: Boxes, masks: Masks) -> None:
        self.quarters, self.masks = quarters, masks
        # the mask that was cut last, and its region: the next quarter is mostly of the same one
        self._last: tuple[int, NDArray[np.bool_] | None] = (-1, None)

    def __len__(self) -> int:
        return len(self.quarters)

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(row)  # which ends an iteration
        if self._last[0] != row // 4:
            self._last = (row // 4, self.masks[row // 4])
        mask = self._last[1]
        if mask is None:
            return None
        # to the nearest pixel, so that the quarters share none
        x0, y0, x1, y1 = np.rint(self.quarters[row]).astype(int).tolist()
        inside = np.zeros_like(mask)
        inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
        return inside if inside.any() else mask


@dataclass(frozen=True, eq=False)
class RegionHead:
    """The graph from region features to embeddings.

    Attributes:
        session: an `onnxruntime.InferenceSession` of what `compact.training` exported.
        calibration: what belongs to the graph.
        digest: SHA-256 of both files.
    """

    session: Any
    calibration: Calibration
    digest: str

    def embed(self, features: RegionFeatures) -> Floats:
        """Embeddings of one image's regions, `(N, 384)`, length 1."""
        # memory, cells and shape are the image's, the same for every part
        inputs = {name: getattr(features, name) for name in INPUTS}
        parts = [np.zeros((0, features.conse.shape[1]), dtype=np.float32)]
        for start in range(0, len(features.pooled), REGIONS_AT_ONCE):
            rows = slice(start, start + REGIONS_AT_ONCE)
            by_region = {name: inputs[name][rows] for name in ("pooled", "conse", "boxes")}
            try:
                (embeddings,) = self.session.run(["embeddings"], {**inputs, **by_region})
            except runtime_errors() as error:
                raise CheckpointError(f"{REGION_HEAD}: its graph cannot be run ({error})") from None
            if embeddings.shape != (len(by_region["pooled"]), features.conse.shape[1]):
                raise CheckpointError(
                    f"{REGION_HEAD}: gives embeddings of {embeddings.shape}, not of "
                    f"{(len(by_region['pooled']), features.conse.shape[1])}"
                )
            parts.append(embeddings)
        joined = np.concatenate(parts)  # (N, 384)
        unit: Floats = joined / (np.linalg.norm(joined, axis=1, keepdims=True) + np.float32(1e-7))
        return unit
