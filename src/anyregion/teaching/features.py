"""Rows of features: what a classifier learns from the regions of any method, a vector a region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Boxes

Floats = NDArray[np.float32]
Layout = tuple[tuple[str, int], ...]
"""The blocks of a row: the name and width of each, in order."""

# Weights of the blocks in the product of two rows, where not 1: pooled maps know most. The place
# has a ninth of it all: it helps where things have their places (a street), and apples, which may
# lie anywhere, lose eight points of right names if it counts twice as much
BLOCK_WEIGHTS = {"pooled": 2.0}
PLACE_SHARE = 1 / 9
PLACE, INTERCEPT = "place", "intercept"
# of x, y, log width, log height, log aspect, log area as fractions of the image: what is taken off,
# and divided by. About their means and deviations over COCO's boxes
_CENTRE = np.array([0.5, 0.5, -1.5, -1.5, 0.0, -3.0])
_DEVIATION = np.array([0.25, 0.25, 1.0, 1.0, 0.6, 1.8])


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """The rows of one image's regions.

    The product of two rows is a weighted mean of the cosines of their blocks, of how alike their
    places are, and the intercept's constant.

    Attributes:
        rows: `(M, F)` float32.
        layout: what they are made of; the place and the intercept come last.
    """

    rows: Floats
    layout: Layout


def feature_rows(embedded: RegionEmbeddings, size: tuple[int, int]) -> FeatureRows:
    """One row a region: each block brought to length 1, and where the region is and how large.

    Args:
        embedded: as `RegionEncoder.embed_regions` gave it; without `features`, its embeddings.
        size: `(height, width)` of the image.
    """
    blocks: Mapping[str, Floats] = embedded.features or {"embedding": embedded.embeddings}
    weights = {name: BLOCK_WEIGHTS.get(name, 1.0) for name in blocks}
    total = sum(weights.values()) / (1 - PLACE_SHARE)
    parts: list[Floats] = []
    for name, values in blocks.items():
        lengths = np.linalg.norm(values, axis=1, keepdims=True)  # (M, 1)
        share = np.float32(np.sqrt(weights[name] / total))
        parts.append(values / np.maximum(lengths, 1e-9).astype(np.float32) * share)
    place = _place(embedded.boxes, size) * np.sqrt(PLACE_SHARE / len(_CENTRE))
    parts += [place.astype(np.float32), np.ones((len(place), 1), dtype=np.float32)]
    widths = [part.shape[1] for part in parts]
    layout = tuple(zip([*blocks, PLACE, INTERCEPT], widths, strict=True))
    return FeatureRows(np.concatenate(parts, axis=1), layout)


def without_place(rows: Floats, layout: Layout) -> Floats:
    """Rows `(M, F)` that say nothing of where their regions lie."""
    widths = dict(layout)
    changed = rows.copy()
    changed[:, -(widths[PLACE] + widths[INTERCEPT]) : -widths[INTERCEPT]] = 0
    return changed


def likeness(kernel: Floats, rows: Floats, landmarks: Floats, layout: Layout) -> Floats:
    """How alike regions look, wherever they lie, `(M, m)` from -1 to 1.

    Args:
        kernel: `(M, m)`, products of the rows with those of the landmarks.
        rows, landmarks: `(M, F)` and `(m, F)`.
        layout: of the rows.
    """
    widths = dict(layout)
    elsewhere = -(widths[PLACE] + widths[INTERCEPT])
    # 512 products of 4,000 numbers are there already: the place's part is taken off again
    others = rows[:, elsewhere:] @ landmarks[:, elsewhere:].T
    return np.asarray((kernel - others) / np.float32(1 - PLACE_SHARE))


def _place(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.float64]:
    """Where boxes `(M, 4)` lie and how large they are: `(M, 6)`, each about 0 and of size 1."""
    height, width = size
    # the thing at a point may have no box, and a box no area
    filled = np.nan_to_num(boxes, nan=0.0) / [width, height, width, height]
    sides = np.maximum(filled[:, 2:] - filled[:, :2], 1e-4)  # (M, 2)
    centres = (filled[:, :2] + filled[:, 2:]) / 2
    aspect = np.log(sides[:, :1] * width / (sides[:, 1:] * height))
    area = np.log(sides.prod(axis=1, keepdims=True))
    place = np.concatenate([centres, np.log(sides), aspect, area], axis=1)
    # a line as long as the image is no outlier that decides everything
    return np.asarray(np.clip((place - _CENTRE) / _DEVIATION, -4, 4))
