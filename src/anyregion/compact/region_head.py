"""The region head of `compact` on ONNX Runtime: its features, its graph, its calibration.

The frozen features of regions are computed here for training and inference alike.

Training pulls regions towards the names it was shown, so that a name it never saw would drown under
them. As in calibrated stacking (Chao et al., ECCV 2016), names that were not trained therefore gain
something in cosine: the more, the less a region is like anything that was trained. How much follows
from the vocabulary: as much as a stated share of held-out regions of trained classes can stand
without being called by a new name. A few new names gain much, hundreds of them nothing.

What a name gains and how doubtful a region is are further numbers at the end of their embeddings,
so that scoring stays a plain product.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import pool
from anyregion.compact.assets import CALIBRATION, REGION_HEAD, runtime_errors
from anyregion.compact.confidence import Confidence
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

`anyregion recognize PHOTO --model FOLDER --regions regions.json` gives the names of
`vocabulary.json`, with `--vocabulary "cat, dog"` any others.
"""
INPUTS = ("pooled", "conse", "boxes", "memory", "cells", "shape")
# cosine to the nearest trained name: below, a name is new; above, it is a trained one in other
# words. Of COCO's 80 names the nearest other one is at 0.35 in the median, 0.51 at most of 19 in
# 20; "sofa" is at 0.78 of "couch", "television" at 0.97 of "tv".
NEW, SYNONYM = 0.5, 0.8

# cosine of a region to the nearest trained name: above, it is one of those; below, it may be
# anything. Half of COCO's held-out regions of trained classes are above 0.5, a tenth of the others.
DOUBTFUL, SURE = 0.45, 0.65

# what follows the 384 numbers of a text or a region. A region has its doubt times ANCHOR, and what
# brings that to the length ANCHOR: small, so that it does not make all regions alike where they are
# compared with each other (exemplars). A name has what it gains over ANCHOR, how new it is times
# NEWNESS, and what brings all that to the length REST. The products of the others are 0.
ANCHOR, NEWNESS, REST = 0.5, 0.1, 0.65
GAIN_COLUMN, NEWNESS_COLUMN = WIDTH, WIDTH + 2
STACKED_WIDTH = WIDTH + 4
# of a region, of a name before it is brought to length 1, and of both together: what cosines of the
# longer embeddings are to be multiplied by
REGION_LENGTH, NAME_LENGTH = float(np.hypot(1, ANCHOR)), float(np.hypot(1, REST))
STACKED_LENGTH = REGION_LENGTH * NAME_LENGTH
HIGHEST_GAIN = 0.3
# a name near the mean training-free answer is near every region: it gains less by so much of that
# cosine. Of 0 to 1.2 the best on splits of COCO's classes (docs/compact.md)
HUBNESS = 1.2
_NAMES_AT_ONCE = 8192


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
        gamma: what a name unlike all of them gains at most, in cosine, with a region of no trained
            class; without `known` it gains just that.
        scale, bias: from a cosine to a logit whose sigmoid is the probability that the best of the
            trained names is right, fitted on photographs not trained on.
        known: `(B, 384)` embeddings of held-out regions of trained classes, which are named rightly
            among the trained names; `B` may be 0.
        typical: `(384,)`, the mean training-free answer to held-out regions.
        cost: share of `known` that may be called by a new name.
        confidence: from an answer to the probability that it is right; None: the sigmoid alone.
    """

    trained: Floats
    names: tuple[str, ...]
    gamma: float
    scale: float
    bias: float
    known: Floats = field(default_factory=lambda: np.zeros((0, WIDTH), dtype=np.float32))
    typical: Floats = field(default_factory=lambda: np.zeros(WIDTH, dtype=np.float32))
    cost: float = 0.0
    confidence: Confidence | None = None

    def newness(self, names: Floats) -> Floats:
        """How unlike all trained names each of `(n, 384)` is, `(n,)` from 0 to 1."""
        # without any trained name all are new
        nearest = (names @ self.trained.T).max(axis=1, initial=-1.0)
        new: Floats = 1 - np.clip((nearest - NEW) / (SYNONYM - NEW), 0, 1).astype(np.float32)
        return new

    def doubt(self, regions: Floats) -> Floats:
        """How unlike all trained names each region of `(n, 384)` is, `(n,)` from 0 to 1."""
        nearest = (regions @ self.trained.T).max(axis=1, initial=-1.0)
        sure = np.clip((nearest - DOUBTFUL) / (SURE - DOUBTFUL), 0, 1).astype(np.float32)
        doubt: Floats = np.float32(1) - sure
        return doubt

    def gains(self, names: Floats, *, newness: Floats | None = None) -> Floats:
        """What each name of a vocabulary `(C, 384)` gains in cosine, `(C,)`, from 0 to `gamma`.

        All names together: the largest gain with which no more than `cost` of the known regions
        change to a new name, less for names that are near every region.

        Args:
            names: `(C, 384)`.
            newness: `(C,)` of these, where it is known already.
        """
        new = self.newness(names) if newness is None else newness
        rows = np.flatnonzero(new > 0)
        if not len(rows) or not len(self.known):
            return new * np.float32(self.gamma)
        hubness = HUBNESS * (names @ self.typical)  # (C,)
        cosines = (self.known @ self.trained.T).max(axis=1)  # (B,)
        doubt = self.doubt(self.known)
        # (B,): a region keeps its name up to this gain; one without doubt keeps it whatever it is
        limits = np.full(len(self.known), np.inf)
        for start in range(0, len(rows), _NAMES_AT_ONCE):
            part = rows[start : start + _NAMES_AT_ONCE]
            ahead = cosines[:, None] - self.known @ names[part].T  # (B, n)
            with np.errstate(divide="ignore"):
                allowed = ahead / (new[part] * doubt[:, None]) + hubness[part]
            # of names and regions that are ahead or behind by nothing that a gain would change
            allowed[doubt == 0] = np.inf
            limits = np.minimum(limits, allowed.min(axis=1))
        gain = np.sort(limits)[int(self.cost * len(limits))]
        gains: Floats = new * np.clip(gain - hubness, 0, self.gamma).astype(np.float32)
        return gains

    def stack_names(self, names: Floats) -> Floats:
        """All names of a vocabulary `(C, 384)` of length 1, with what they gain, `(C, 388)`."""
        newness = self.newness(names)
        gain, new = self.gains(names, newness=newness) / np.float32(ANCHOR), newness * NEWNESS
        rest = np.sqrt(np.maximum(REST**2 - gain**2 - new**2, 0))
        ends = np.stack([gain, np.zeros_like(gain), new, rest], axis=1)  # (C, 4)
        stacked = np.concatenate([names, ends], axis=1) / np.float32(NAME_LENGTH)
        return stacked.astype(np.float32)

    def stack_regions(self, regions: Floats) -> Floats:
        """Regions `(n, 384)` of length 1 to `(n, 388)` of length `REGION_LENGTH`, with doubt."""
        doubt = self.doubt(regions)
        zeros = np.zeros_like(doubt)
        ends = [ANCHOR * doubt, ANCHOR * np.sqrt(1 - doubt**2), zeros, zeros]
        stacked = np.concatenate([regions, np.stack(ends, axis=1)], axis=1)
        return stacked.astype(np.float32)

    def to_bytes(self) -> bytes:
        """As the content of a safetensors file."""
        metadata = {
            "names": self.names,
            "novelty": self.gamma,  # the file format's name of it
            "scale": self.scale,
            "bias": self.bias,
            "cost": self.cost,
            "confidence": None if self.confidence is None else asdict(self.confidence),
        }
        arrays = {"trained": self.trained, "known": self.known, "typical": self.typical}
        halves = {name: values.astype(np.float16) for name, values in arrays.items()}
        return save(halves, {"about": json.dumps(metadata)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Calibration:
        """Read what `to_bytes` wrote, now or before there were `known` regions and a `confidence`.

        Raises:
            CheckpointError: damaged, or another kind of file.
        """
        try:
            arrays = {name: a.astype(np.float32) for name, a in load(content).items()}
            # the numpy reader of safetensors does not return the metadata
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            metadata = json.loads(header["__metadata__"]["about"])
            names = tuple(str(name) for name in metadata["names"])
            gamma, scale, bias = (float(metadata[key]) for key in ("novelty", "scale", "bias"))
            confidence = metadata.get("confidence")
            made = cls(
                arrays["trained"],
                names,
                gamma,
                scale,
                bias,
                known=arrays.get("known", np.zeros((0, WIDTH), dtype=np.float32)),
                typical=arrays.get("typical", np.zeros(WIDTH, dtype=np.float32)),
                cost=float(metadata.get("cost", 0.0)),
                confidence=None if confidence is None else Confidence(**confidence),
            )
            shapes = [made.trained.shape, made.known.shape[1:], made.typical.shape]
            if shapes != [(len(names), WIDTH), (WIDTH,), (WIDTH,)]:
                raise ValueError(f"{len(names)} names and arrays of {shapes}")
            if not all(np.isfinite(values).all() for values in arrays.values()):
                raise ValueError("numbers that are not finite")
            # of a gain above, a name's length would be no number
            numbers = (gamma, scale, bias, made.cost)
            if not np.isfinite(numbers).all() or not (
                0 <= gamma <= HIGHEST_GAIN and 0 <= made.cost < 1
            ):
                raise ValueError(f"novelty, scale, bias and cost {numbers}")
            return made
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
