"""What the finder says at every cell of the frozen maps, and what is chosen of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.proposals import box_iou, nms
from anyregion.regions import Boxes

LEVELS = (8, 16, 32, 64)
"""Strides of the cells, in pixels of the network's input."""

OVERLAP = 0.5
"""Of two proposals that overlap more, the better one stays."""
_CONSIDERED = 2000


@dataclass(frozen=True, eq=False)
class GridBoxes:
    """A box and a score for each cell: level by level, row by row.

    Attributes:
        boxes: `(cells, 4)` xyxy in pixels of the image, inside it.
        scores: `(cells,)`, the intersection over union with a thing that is predicted for the box.
        point_scores: the same, provided that a thing lies at the cell.
        rows, columns: cells at stride 32.
        factors: `(4,)`, pixels of the network's input for a pixel of the image, for x0 to y1.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    point_scores: NDArray[np.float64]
    rows: int
    columns: int
    factors: NDArray[np.float64]


def level_sizes(rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Rows, columns and stride of every level, given the rows and columns at stride 32."""
    coarse = (-(-rows // 2), -(-columns // 2), LEVELS[3])
    return [*((rows * f, columns * f, 32 // f) for f in (4, 2, 1)), coarse]


def best_proposals(
    cells: GridBoxes, *, limit: int, min_score: float = 0.0, overlap: float = OVERLAP
) -> tuple[Boxes, NDArray[np.float64]]:
    """The best boxes that overlap little, best first: `(n, 4)` and their scores `(n,)`.

    Args:
        limit: at most so many.
        min_score: none below.
        overlap: of two boxes with a higher intersection over union the worse one is dropped.
    """
    sides = cells.boxes[:, 2:] - cells.boxes[:, :2]
    usable = np.flatnonzero((cells.scores >= min_score) & (sides >= 1).all(axis=1))
    best = usable[np.argsort(-cells.scores[usable], kind="stable")][:_CONSIDERED]
    kept = best[nms(cells.boxes[best], cells.scores[best], overlap, limit=limit)]
    return cells.boxes[kept], cells.scores[kept]


def box_of_points(
    cells: GridBoxes, points: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """The box of the thing that lies at some points, `(4,)`, and its score.

    Each foreground point asks the cell of every level that it lies in. What they answer has to hold
    all foreground points and no background point; the best score is taken. Where no answer does,
    background points are let go first, and at last the box of the best answer is widened to hold
    the points.

    Args:
        points: `(P, 2)` x and y in pixels of the image, at least one of them foreground.
        labels: `(P,)`, 1 for foreground and 0 for background.
    """
    wanted, unwanted = points[labels == 1], points[labels == 0]
    asked = np.unique(np.concatenate([_cells_at(cells, point) for point in wanted]))
    boxes, scores = cells.boxes[asked], cells.point_scores[asked]
    holds = _held(boxes, wanted).all(axis=1)
    clean = holds & ~_held(boxes, unwanted).any(axis=1)
    for fits in (clean, holds):
        if fits.any():
            best = int(np.argmax(np.where(fits, scores, -1.0)))
            return boxes[best], float(scores[best])
    best = int(np.argmax(scores))
    low = np.minimum(boxes[best, :2], wanted.min(axis=0))
    high = np.maximum(boxes[best, 2:], wanted.max(axis=0) + 1)
    widened = np.concatenate([low, high])
    return widened, float(scores[best] * overlaps(boxes[best], widened[None])[0])


def overlaps(box: NDArray[np.float64], boxes: Boxes) -> NDArray[np.float64]:
    """Intersection over union of one box with each of others, `(n,)`."""
    share: NDArray[np.float64] = box_iou(box[None], boxes)[0]
    return share


def _cells_at(cells: GridBoxes, point: NDArray[np.float64]) -> NDArray[np.int64]:
    x, y = (point + 0.5) * cells.factors[:2]  # a point is the position of a pixel
    found, start = [], 0
    for rows, columns, stride in level_sizes(cells.rows, cells.columns):
        row = min(max(int(y // stride), 0), rows - 1)
        column = min(max(int(x // stride), 0), columns - 1)
        found.append(start + row * columns + column)
        start += rows * columns
    return np.array(found, dtype=np.int64)


def _held(boxes: Boxes, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes hold the middles of which pixels, `(n, P)`."""
    middle = points + 0.5
    low = boxes[:, None, :2] <= middle[None]
    high = middle[None] <= boxes[:, None, 2:]
    return np.asarray((low & high).all(axis=2))


def as_grid_boxes(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    point_scores: NDArray[np.float32],
    *,
    grid: Sequence[int],
    factors: NDArray[np.float64],
    size: tuple[int, int],
) -> GridBoxes:
    """What the finder's network gave, in pixels of the image and clipped to it.

    Args:
        boxes: `(cells, 4)` in pixels of the network's input.
        scores, point_scores: `(cells,)` each.
        grid: rows and columns at stride 32.
        factors: see `GridBoxes`.
        size: height and width of the image.
    """
    height, width = size
    clipped = np.clip(boxes / factors, 0, np.array([width, height] * 2, dtype=np.float64))
    return GridBoxes(
        boxes=clipped,
        scores=scores.astype(np.float64),
        point_scores=point_scores.astype(np.float64),
        rows=int(grid[0]),
        columns=int(grid[1]),
        factors=factors,
    )
