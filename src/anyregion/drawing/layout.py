"""Where labels go: near their regions, never over each other, seldom over other regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rectangles: TypeAlias = NDArray[np.float64]
"""`(N, 4)` x0, y0, x1, y1."""

Rectangle: TypeAlias = tuple[float, float, float, float]

_ANGLES = np.arange(16) * (2 * np.pi / 16)
_OWN_COVER_FREE = 0.2


@dataclass(frozen=True)
class Place:
    """A spot for a label.

    Attributes:
        box: where it goes.
        leader: a line `(x0, y0, x1, y1)` from the label to its region, for one that stands apart.
    """

    box: Rectangle
    leader: Rectangle | None = None


@dataclass(frozen=True)
class Anchor:
    """Where a region that is no rectangle is thickest, where its top is, and how large it is."""

    x: float
    y: float
    top_x: float
    area: float


class Layout:
    """The canvas with its regions and the labels placed so far."""

    def __init__(
        self, regions: Rectangles, width: int, height: int, anchors: Mapping[int, Anchor]
    ) -> None:
        """Start with no label.

        Args:
            regions: `(R, 4)` boxes in pixels of the canvas.
            width, height: the canvas's size.
            anchors: by row, of the regions whose shape is known to be other than their box.
        """
        self._regions = regions
        self._areas = np.maximum(1.0, np.prod(regions[:, 2:] - regions[:, :2], axis=1))
        self._anchors = anchors
        self._size = (width, height)
        self._taken = np.zeros((0, 4))

    def put(
        self, region: int, width: int, height: int, *, limit: float, reach: float = 0.0
    ) -> Place | None:
        """Place a label of `width` x `height` beside, inside or near `region`, or give None.

        The cost of a spot is the sum, over the other regions, of the share of each that it would
        hide, the share of its own beyond a fifth, and a little for the less usual spots.

        Args:
            region: row of the regions.
            width, height: size of the label.
            limit: the highest cost to accept.
            reach: how far from the region a label with a leader line may stand; 0 for touching.
        """
        box, anchor = self._regions[region], self._anchors.get(region)
        if reach:
            spots, costs = _around(box, width, height, reach)
        else:
            spots, costs = _touching(box, width, height)
            if anchor is not None:
                spots, costs = _with_anchor(anchor, float(box[1]), width, height, spots, costs)
        sides = np.array([width, height], dtype=np.float64)
        high = np.maximum(0, np.array(self._size) - sides)
        if not reach:
            # a label may slide along the border of the canvas, but must keep touching its region
            spots = np.clip(spots, 0, high)
        rectangles = np.concatenate([spots, spots + sides], axis=1)
        bad = (spots < 0).any(axis=1) | (rectangles[:, 2:] > self._size).any(axis=1)
        if len(self._taken):
            bad |= (_shared(rectangles, self._taken) > 0).any(axis=1)
        rectangles, costs = rectangles[~bad], costs[~bad]
        if not len(rectangles):
            return None
        hidden = _shared(rectangles, self._regions) / self._areas
        if anchor is not None:
            hidden[:, region] *= self._areas[region] / max(1.0, anchor.area)
        hidden[:, region] = np.maximum(0, hidden[:, region] - _OWN_COVER_FREE)
        costs = costs + hidden.sum(axis=1)
        best = int(costs.argmin())
        if costs[best] > limit:
            return None
        chosen = rectangles[best]
        self._taken = np.concatenate([self._taken, chosen[None]])
        return Place(_tuple(chosen), _leader(chosen, box) if reach else None)


def _touching(box: NDArray[np.float64], w: int, h: int) -> tuple[NDArray[np.float64], Rectangles]:
    x0, y0, x1, y1 = box
    across, down = (x0 + x1 - w) / 2, (y0 + y1 - h) / 2
    left, right, top, bottom = x0, x1 - w, y0, y1 - h
    above, below, before, after = y0 - h, y1, x0 - w, x1
    spots = [
        *((left, above, 0.0), (right, above, 0.04), (across, above, 0.05)),
        *((left, below, 0.06), (right, below, 0.07), (across, below, 0.08)),
        *((left, top, 0.05), (right, top, 0.07), (left, bottom, 0.08), (right, bottom, 0.09)),
        *((across, top, 0.09), (across, bottom, 0.1), (across, down, 0.14)),
        *((after, top, 0.08), (after, down, 0.08), (after, bottom, 0.1)),
        *((before, top, 0.1), (before, down, 0.1), (before, bottom, 0.12)),
        *((before, above, 0.16), (after, above, 0.16), (before, below, 0.18), (after, below, 0.18)),
    ]
    table = np.array(spots)
    return table[:, :2], table[:, 2]


def _with_anchor(
    anchor: Anchor, top: float, w: int, h: int, spots: NDArray[np.float64], costs: Rectangles
) -> tuple[NDArray[np.float64], Rectangles]:
    """Of a shape, prefer its thickest part, then its top; the corners of its box are often bare."""
    better = np.array([[anchor.x - w / 2, anchor.y - h / 2], [anchor.top_x - w / 2, top - h]])
    return np.concatenate([better, spots]), np.concatenate([[0.0, 0.03], costs + 0.12])


def _around(
    box: NDArray[np.float64], w: int, h: int, reach: float
) -> tuple[NDArray[np.float64], Rectangles]:
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    steps = np.arange(0.75 * h, reach + 1, 0.75 * h)
    distance, angle = (a.ravel() for a in np.meshgrid(steps, _ANGLES, indexing="ij"))
    way = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = centre + way * (half + distance[:, None] + np.array([w, h]) / 2)
    return middle - np.array([w, h]) / 2, 0.1 + 0.2 * distance / reach


def _leader(label: NDArray[np.float64], box: NDArray[np.float64]) -> Rectangle:
    """The shortest line between two rectangles, to the middle of the region where that is near."""
    start = np.clip((box[:2] + box[2:]) / 2, label[:2], label[2:])
    end = np.clip(start, box[:2], box[2:])
    return float(start[0]), float(start[1]), float(end[0]), float(end[1])


def _shared(a: Rectangles, b: Rectangles) -> NDArray[np.float64]:
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


def _tuple(box: NDArray[np.float64]) -> Rectangle:
    x0, y0, x1, y1 = (float(v) for v in box)
    return x0, y0, x1, y1
