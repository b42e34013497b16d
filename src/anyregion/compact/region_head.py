"""The region head of `compact` on ONNX Runtime: its features, its graph, its calibration.

The frozen features of regions are computed here for training and inference alike.

Training pulls regions towards the names it was shown, so that a name it never saw would drown under
them. As in calibrated stacking (Chao et al., ECCV 2016), names that were not trained therefore get
a handicap of up to `gamma`: the more, the less a region is like anything that was trained. What a
name gains and how doubtful a region is are two more numbers at the end of their embeddings, so that
scoring stays a plain product.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import pool
from anyregion.compact.assets import CALIBRATION, REGION_HEAD, runtime_errors
from anyregion.compact.conse import WIDTH, Conse
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid, MapName
from anyregion.errors import CheckpointError
from anyregion.region_encoder import REGIONS_AT_ONCE
from anyregion.regions import Boxes

Floats = NDArray[np.float32]
Masks = Sequence[NDArray[np.bool_] | None]
"""Per region its mask `(height, width)` at the image's size, or None for its box."""

QUARTERED: tuple[MapName, ...] = ("stride8", "stride16", "stride32")
POOLED = 4 * sum(CHANNELS[name] for name in QUARTERED) + CHANNELS["last"]
MEMORY = CHANNELS["stride32"] + CHANNELS["last"]
# what training writes beside the graph and the calibration, to go on from
CONFIG, WEIGHTS = "namer.json", "namer_weights.safetensors"
README = """# A trained region head of compact

Names regions with anyregion's built-in model, whose frozen parts come with the package:

`anyregion recognize PHOTO --model FOLDER --vocabulary "cat, dog" --regions regions.json`
"""
INPUTS = ("pooled", "conse", "boxes", "memory", "cells", "shape")
# cosine to the nearest trained name: below, a name is new; above, it is a trained one in other
# words. Of COCO's 80 names the nearest other one is at 0.35 in the median, 0.51 at most of 19 in
# 20; "sofa" is at 0.78 of "couch", "television" at 0.97 of "tv".
NEW, SYNONYM = 0.5, 0.8

# cosine of a region to the nearest trained name: above, it is one of those; below, it may be
# anything. Half of COCO's held-out regions of trained classes are above 0.5, a tenth of the others.
DOUBTFUL, SURE = 0.45, 0.65

# length of what is added to a region. Small, so that it does not make all regions alike where they
# are compared with each other (exemplars); large enough for its product with what names gain.
ANCHOR = 0.5
# of a region with that: cosines with names are those of the first 384 numbers, over this
STACKED_LENGTH = float(np.hypot(1, ANCHOR))


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
class Calibration:
    """What the region head needs beside its graph.

    Attributes:
        trained: `(K, 384)` text embeddings of the names it was trained on, of length 1.
        names: those names.
        gamma: what a name unlike all of them gains, in cosine, with a region of no trained class.
        scale, bias: from a cosine to a logit whose sigmoid is the probability that the best name
            is right, fitted on photographs not trained on.
    """

    trained: Floats
    names: tuple[str, ...]
    gamma: float
    scale: float
    bias: float

    def stack_names(self, embeddings: Floats) -> Floats:
        """Names `(n, 384)` of length 1 to `(n, 386)` of length 1: with what new ones gain."""
        # (n,) cosines; without any trained name all are new
        nearest = (embeddings @ self.trained.T).max(axis=1, initial=-1.0)
        new = 1 - np.clip((nearest - NEW) / (SYNONYM - NEW), 0, 1).astype(np.float32)
        gain = (self.gamma / ANCHOR * new)[:, None]  # (n, 1)
        # shortened, so that the length stays 1: scoring does not divide names by theirs
        stacked: Floats = np.concatenate(
            [embeddings * np.sqrt(1 - gain**2), gain, np.zeros_like(gain)], axis=1
        )
        return stacked

    def stack_regions(self, embeddings: Floats) -> Floats:
        """Regions `(n, 384)` of length 1 to `(n, 386)` of length `STACKED_LENGTH`, with doubt."""
        nearest = (embeddings @ self.trained.T).max(axis=1, initial=-1.0)  # (n,) cosines
        sure = np.clip((nearest - DOUBTFUL) / (SURE - DOUBTFUL), 0, 1).astype(np.float32)
        doubt = 1 - sure[:, None]  # (n, 1)
        # the second number is for the length alone: that of names is 0
        ends = ANCHOR * np.concatenate([doubt, np.sqrt(1 - doubt**2)], axis=1)
        stacked: Floats = np.concatenate([embeddings, ends], axis=1)
        return stacked

    def to_bytes(self) -> bytes:
        """As the content of a safetensors file."""
        metadata = {
            "names": self.names,
            "novelty": self.gamma,  # the file format's name of it
            "scale": self.scale,
            "bias": self.bias,
        }
        return save({"trained": self.trained.astype(np.float16)}, {"about": json.dumps(metadata)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Calibration:
        """Read what `to_bytes` wrote.

        Raises:
            CheckpointError: damaged, or another kind of file.
        """
        try:
            trained = load(content)["trained"].astype(np.float32)
            # the numpy reader of safetensors does not return the metadata
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            metadata = json.loads(header["__metadata__"]["about"])
            names = tuple(str(name) for name in metadata["names"])
            numbers = [float(metadata[key]) for key in ("novelty", "scale", "bias")]
            if trained.shape != (len(names), WIDTH) or not np.isfinite(trained).all():
                raise ValueError(f"trained {trained.shape} for {len(names)} names")
            # of a gain above its anchor a name's length would be no number
            if not np.isfinite(numbers).all() or not 0 <= numbers[0] <= ANCHOR:
                raise ValueError(f"novelty, scale and bias {numbers}")
            gamma, scale, bias = numbers
            return cls(trained, names, gamma, scale, bias)
        except (SafetensorError, LookupError, ValueError, TypeError, OverflowError,
                AttributeError, RecursionError) as error:  # fmt: skip
            raise CheckpointError(f"{CALIBRATION}: damaged ({error})") from None


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
