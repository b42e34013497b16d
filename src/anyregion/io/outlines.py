"""Outlines of masks: polygons along the edges of pixels, with holes, simplified or joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.masks import RLE, decode_mask, mask_box

Ring = NDArray[np.float64]
"""The corners of a closed line `(P, 2)`, x and y in pixels, the first not repeated."""

# corners beyond which the nearest pair of two rings is looked for among some of them
_MANY = 2000


@dataclass(frozen=True, eq=False)
class Part:
    """One connected part of a mask: its outer ring and the rings of its holes."""

    outer: Ring
    holes: tuple[Ring, ...] = ()


def mask_parts(mask: RLE) -> list[Part]:
    """The parts of a mask, the largest first; pixels that touch at a corner alone are parted.

    Rings run exactly along the edges of pixels: filled, they are the mask again.
    """
    x0, y0, x1, y1 = mask_box(mask).astype(int).tolist()
    inside = np.pad(decode_mask(mask)[y0:y1, x0:x1], 1)
    rings, is_outer = _rings(inside)
    offset = np.array([x0, y0])
    rings = [ring + offset for ring in rings]
    parts = [[ring] for ring, outer in zip(rings, is_outer, strict=True) if outer]
    areas = [abs(ring_area(part[0])) for part in parts]
    for ring, outer in zip(rings, is_outer, strict=True):
        if not outer:
            # a point of the hole that is no corner of any ring: the middle of its first pixel
            point = ring[0] + 0.5
            holding = [i for i, part in enumerate(parts) if _contains(part[0], point)]
            parts[min(holding, key=lambda i: areas[i])].append(ring)
    order = np.argsort([-area for area in areas], kind="stable")
    return [Part(parts[i][0], tuple(parts[i][1:])) for i in order]


def _rings(inside: NDArray[np.bool_]) -> tuple[list[Ring], list[bool]]:
    """All closed lines between inside and outside, and whether each is an outer one.

    Args:
        inside: `(h, w)` with a border of False. Coordinates count from its pixel (1, 1).
    """
    top_left, top_right = inside[:-1, :-1], inside[:-1, 1:]
    low_left, low_right = inside[1:, :-1], inside[1:, 1:]
    count = top_left.astype(np.int8) + top_right + low_left + low_right
    # where four pixels touch at a corner and two across are inside, two lines meet
    cross = (count == 2) & (top_left == low_right)
    y, x = np.nonzero((count % 2 == 1) | cross)
    times = np.where(cross[y, x], 2, 1)
    second = np.concatenate([[0], np.cumsum(times)[:-1]]) + 1
    y, x = np.repeat(y, times), np.repeat(x, times)
    copy = np.zeros(len(y), dtype=np.int64)
    copy[second[times == 2]] = 1
    # along a row corners are the ends of edges in turn, and so they are along a column; of a
    # crossing the first copy ends the edge before it. Pixels across are parted: which copies of the
    # two directions are one corner depends on which two pixels are inside
    falling = top_left[y, x]
    along_column = np.where(falling | (times.repeat(times) == 1), copy, 1 - copy)
    across, down = np.empty(len(y), dtype=np.int64), np.empty(len(y), dtype=np.int64)
    for order, partner in (
        (np.lexsort((copy, x, y)), across),
        (np.lexsort((along_column, y, x)), down),
    ):
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    rings: list[Ring] = []
    is_outer: list[bool] = []
    visited = np.zeros(len(y), dtype=bool)
    neighbours = across.tolist(), down.tolist()
    corners = np.stack([x, y], axis=1).astype(np.float64)
    for start in range(len(y)):
        if visited[start]:
            continue
        line: list[int] = []
        at = start
        while True:
            line += [at, neighbours[0][at]]
            at = neighbours[1][line[-1]]
            if at == start:
                break
        visited[line] = True
        rings.append(corners[line])
        # the first corner is the highest, and of these the left one: inside is below it or not
        is_outer.append(bool(low_right[y[start], x[start]]))
    return rings, is_outer


def ring_area(ring: Ring) -> float:
    """The area of a ring, positive where it runs clockwise as images are seen."""
    x, y = ring.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _contains(ring: Ring, point: NDArray[np.float64]) -> bool:
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    crosses = (y > point[1]) != (next_y > point[1])
    height = np.where(crosses, next_y - y, 1.0)
    at = x + (point[1] - y) * (next_x - x) / height
    return bool((crosses & (at > point[0])).sum() % 2)


def simplify(ring: Ring, tolerance: float) -> Ring:
    """The ring with fewer corners: none that is left out lies farther than `tolerance` pixels from
    the new line (Douglas and Peucker, 1973). At least three corners stay.
    """
    if tolerance <= 0 or len(ring) < 5:
        return ring
    # between the first corner and the one that is farthest from it
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, len(ring)]] = True
    open_parts = [(0, far), (far, len(ring))]
    while open_parts:
        start, end = open_parts.pop()
        if end - start < 2:
            continue
        a, b = closed[start], closed[end]
        between = closed[start + 1 : end] - a
        length = float(np.hypot(*(b - a)))
        if length:
            direction = (b - a) / length
            along = np.clip(between @ direction, 0, length)
            distance = np.hypot(*(between - along[:, None] * direction).T)
        else:
            distance = np.hypot(*between.T)
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance:
            middle = start + 1 + worst
            keep[middle] = True
            open_parts += [(start, middle), (middle, end)]
    simple = closed[:-1][keep[:-1]]
    return simple if len(simple) >= 3 else ring


def joined(rings: Sequence[Ring]) -> Ring:
    """One ring of several: each is reached over a line to its nearest corner, and left over it.

    Filled, the line encloses nothing: holes stay holes and parts stay apart. It is how formats of
    one polygon a region hold the others.
    """
    whole = rings[0]
    for ring in rings[1:]:
        some = np.unique(np.linspace(0, len(whole) - 1, min(len(whole), _MANY)).astype(int))
        others = np.unique(np.linspace(0, len(ring) - 1, min(len(ring), _MANY)).astype(int))
        apart = ((whole[some][:, None] - ring[others][None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(np.argmin(apart)), apart.shape)
        at, there = int(some[i]), int(others[j])
        turned = np.concatenate([ring[there:], ring[: there + 1]])
        whole = np.concatenate([whole[: at + 1], turned, whole[at:]])
    return whole


def outline_polygons(mask: RLE, *, tolerance: float = 0.0) -> list[list[float]]:
    """The mask as polygons, one a part, each x, y, x, y, ...; holes are joined to their part."""
    polygons: list[list[float]] = []
    for part in mask_parts(mask):
        rings = [simplify(ring, tolerance) for ring in (part.outer, *part.holes)]
        polygons.append(joined(rings).reshape(-1).tolist())
    return polygons


def single_outline(mask: RLE, *, tolerance: float = 0.0) -> list[float]:
    """The mask as one polygon, all its parts and holes joined; x, y, x, y, ..."""
    polygons = outline_polygons(mask, tolerance=tolerance)
    rings = [np.reshape(polygon, (-1, 2)) for polygon in polygons]
    return [float(v) for v in joined(rings).reshape(-1)]
