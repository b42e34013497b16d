"""Placement of labels: near their regions, never over each other, seldom over other regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Box: TypeAlias = NDArray[np.float64]
"""`(4,)` x0, y0, x1, y1."""
Boxes: TypeAlias = NDArray[np.float64]
"""`(N, 4)` x0, y0, x1, y1."""
Spots: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"
"""`(S, 2)` upper left corners for a label, and `(S,)` the cost of each."""

_ANGLES = np.arange(16) * (2 * np.pi / 16)
# a label may hide this share of its own region for nothing: text on a car is read as the car's
_FREE_COVER = 0.2


@dataclass(frozen=True)
class Placement:
    """Where a label goes.

    Attributes:
        x, y: its upper left corner.
        leader: a line `(x0, y0, x1, y1)` from the label to its region, for one that stands apart.
    """

    x: float
    y: float
    leader: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Anchor:
    """Where a region that is no rectangle is thickest, where its top is, and how large it is."""

    x: float
    y: float
    top_x: float
    area: float


@dataclass
class LabelLayout:
    """A canvas with its regions and the labels placed so far.

    Attributes:
        regions: `(R, 4)` boxes in pixels of the canvas.
        size: width and height of the canvas.
        anchors: by row, of the regions whose shape is known to be other than their box.
        labels: `(L, 4)` boxes of the labels placed.
    """

    regions: Boxes
    size: tuple[int, int]
    anchors: Mapping[int, Anchor]
    labels: Boxes = field(default_factory=lambda: np.zeros((0, 4)))

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """`(R,)` of the regions, at least 1."""
        sides = self.regions[:, 2:] - self.regions[:, :2]
        areas: NDArray[np.float64] = np.maximum(1.0, np.prod(sides, axis=1))
        return areas

    def place(
        self, region: int, width: int, height: int, *, limit: float, reach: float = 0.0
    ) -> Placement | None:
        """Place a label of `width` x `height` beside, inside or near `region`, or give None.

        The cost of a spot is the sum, over the other regions, of the share of each that it would
        hide, the share of its own beyond a fifth, and a little for the less usual spots.

        Args:
            region: row of the regions.
            width, height: size of the label.
            limit: the highest cost to accept.
            reach: how far from the region a label with a leader line may stand; 0 for touching.
        """
        box, anchor = self.regions[region], self.anchors.get(region)
        sides = np.array([width, height], dtype=np.float64)
        if reach:
            corners, costs = _spots_around(box, width, height, reach)
        else:
            corners, costs = _spots_touching(box, width, height, anchor)
            # a label may slide along the border of the canvas, but must keep touching its region
            corners = np.clip(corners, 0, np.maximum(0, np.array(self.size) - sides))
        candidates = np.concatenate([corners, corners + sides], axis=1)  # (S, 4)
        free = (corners >= 0).all(axis=1) & (candidates[:, 2:] <= self.size).all(axis=1)
        if len(self.labels):
            free &= ~(_intersections(candidates, self.labels) > 0).any(axis=1)
        candidates, costs = candidates[free], costs[free]
        if not len(candidates):
            return None
        areas = self.areas
        hidden = _intersections(candidates, self.regions) / areas  # (S, R)
        if anchor is not None:
            hidden[:, region] *= areas[region] / max(1.0, anchor.area)
        hidden[:, region] = np.maximum(0, hidden[:, region] - _FREE_COVER)
        costs = costs + hidden.sum(axis=1)
        best = int(costs.argmin())
        if costs[best] > limit:
            return None
        label = candidates[best]
        self.labels = np.concatenate([self.labels, label[None]])
        x, y = float(label[0]), float(label[1])
        if not reach:
            return Placement(x, y)
        # the shortest line between both boxes, towards the middle of the region where it is near
        start = np.clip((box[:2] + box[2:]) / 2, label[:2], label[2:])
        end = np.clip(start, box[:2], box[2:])
        return Placement(x, y, (float(start[0]), float(start[1]), float(end[0]), float(end[1])))


def _spots_touching(box: Box, w: int, h: int, anchor: Anchor | None) -> Spots:
    """Spots that touch the region, its upper left corner first, as people expect it."""
    x0, y0, x1, y1 = box
    across, down = (x0 + x1 - w) / 2, (y0 + y1 - h) / 2
    left, right, top, bottom = x0, x1 - w, y0, y1 - h
    above, below, before, after = y0 - h, y1, x0 - w, x1
    # costs order the spots; all are far below what hiding another region costs
    spots = np.array(
        [
            *((left, above, 0.0), (right, above, 0.04), (across, above, 0.05)),
            *((left, below, 0.06), (right, below, 0.07), (across, below, 0.08)),
            *((left, top, 0.05), (right, top, 0.07), (left, bottom, 0.08), (right, bottom, 0.09)),
            *((across, top, 0.09), (across, bottom, 0.1), (across, down, 0.14)),
            *((after, top, 0.08), (after, down, 0.08), (after, bottom, 0.1)),
            *((before, top, 0.1), (before, down, 0.1), (before, bottom, 0.12)),
            *((before, above, 0.16), (after, above, 0.16)),
            *((before, below, 0.18), (after, below, 0.18)),
        ]
    )
    if anchor is None:
        return spots[:, :2], spots[:, 2]
    # of a shape, its thickest part comes first, then its top: the corners of its box are often bare
    inside = np.array([[anchor.x - w / 2, anchor.y - h / 2], [anchor.top_x - w / 2, y0 - h]])
    costs = np.concatenate([[0.0, 0.03], spots[:, 2] + 0.12])
    return np.concatenate([inside, spots[:, :2]]), costs


def _spots_around(box: Box, w: int, h: int, reach: float) -> Spots:
    """Spots on rings about the region, up to `reach` from it; the farther, the dearer."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    steps = np.arange(0.75 * h, reach + 1, 0.75 * h)
    distance, angle = (a.ravel() for a in np.meshgrid(steps, _ANGLES, indexing="ij"))
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (S, 2)
    middle = centre + direction * (half + distance[:, None] + np.array([w, h]) / 2)
    return middle - np.array([w, h]) / 2, 0.1 + 0.2 * distance / reach


def _intersections(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """`(A, B)`: the area that each pair shares."""
    shared: NDArray[np.float64] = np.zeros((len(a), len(b)))
    # most of a picture is far from one label: leave it out before all pairs are formed
    near = np.flatnonzero(
        ((b[:, :2] < a[:, 2:].max(axis=0)) & (b[:, 2:] > a[:, :2].min(axis=0))).all(axis=1)
    )
    wide, high = (
        np.minimum(a[:, None, k + 2], b[near, k + 2]) - np.maximum(a[:, None, k], b[near, k])
        for k in (0, 1)
    )
    shared[:, near] = np.maximum(0, wide) * np.maximum(0, high)
    return shared
