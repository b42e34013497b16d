"""The proposal head of the built-in model: boxes of objects, without a prompt or at points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.point_choice import NO_LEVEL, PointCandidates, PointChoice
from anyregion.compact.ranking import AGREEING
from anyregion.proposals import box_iou, nms
from anyregion.regions import Boxes

LEVELS = (8, 16, 32, 64)
"""Strides of the grids, in pixels of the network's input."""

OUTPUTS = ("boxes", "scores", "point_boxes", "point_scores")
"""What the graph gives; see `GridBoxes`."""

# candidates that NMS compares: it takes as many comparisons as their square
_CANDIDATES = 2000
# selected boxes whose overlaps with all candidates are computed together
_VOTED_AT_ONCE = 16
# Of a candidate and all that overlap it as much, the mean is a better box, weighted by the squares
# of the scores (box voting; Gidaris and Komodakis, ICCV 2015). Average recall of 100 on 60
# photographs of `train`: 0.346 without, 0.366 with 0.7, 0.356 with 0.8, alike for squares and
# fourth powers; the maps of a mirrored or a larger image beside brought nothing
VOTING = 0.7
# so many candidates are ranked, of those that do not overlap by more
POOL, POOL_IOU = 300, 0.7


@dataclass(frozen=True)
class ProposalOptions:
    """Which of the boxes of an image are its proposals.

    Attributes:
        limit: most of an image.
        min_score: the lowest score. Of 160 photographs of `train` the default is the lowest one
            with which nine of ten things have one region or none (docs/results/compact.md).
        nms_iou: of two that overlap more, the better one stays.
    """

    limit: int = 50
    min_score: float = 0.35
    nms_iou: float = 0.9


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes of an image that are to be ranked, and what the others say of them.

    Attributes:
        boxes: `(K, 4)` xyxy, by the vote of all that overlap them.
        scores: `(K,)`, the predicted intersection over union with an object, descending.
        agreement: `(K,)`, the sum of the scores of all boxes that overlap each by `AGREEING`.
        dense_boxes, dense_scores: `(M, 4)` and `(M,)`, the best boxes before any was suppressed.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    agreement: NDArray[np.float64]
    dense_boxes: Boxes
    dense_scores: NDArray[np.float64]


# at a point, where something is known to lie, proposals of low scores are candidates too, but no
# more than so many
AT_POINTS = ProposalOptions(limit=100, min_score=0.06, nms_iou=0.7)
_MOST_AT_POINT = 8


@dataclass(frozen=True, eq=False)
class GridBoxes:
    """Boxes and scores for each cell of the four grids: level by level, row by row.

    Attributes:
        boxes: `(cells, 4)` xyxy in pixels of the image, inside it.
        scores: `(cells,)`, the predicted intersection over union of the box with an object.
        point_boxes, point_scores: the same, provided that an object lies at the cell.
        rows, columns: cells at stride 32.
        scale: `(4,)`, pixels of the network's input for a pixel of the image, for x0 to y1.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    point_boxes: Boxes
    point_scores: NDArray[np.float64]
    rows: int
    columns: int
    scale: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProposalHead:
    """Boxes of objects of any kind.

    Attributes:
        session: an `onnxruntime.InferenceSession` of the graph that `compact.training` exports. It
            takes the maps and gives `OUTPUTS`: boxes `(cells, 4)` in pixels of the network's input
            and scores `(cells,)`.
        choice: which box of a point's candidates is taken, fitted to this graph's answers; None to
            take the cell at the point that has the best score.
    """

    session: Any
    choice: PointChoice | None = None

    def propose(
        self, pyramid: FeaturePyramid, options: ProposalOptions | None = None
    ) -> tuple[Boxes, NDArray[np.float64]]:
        """The most probable objects of an image, best first.

        Returns:
            Boxes `(n, 4)`, xyxy in pixels of the image, and the intersection over union with an
            object that is predicted for each, `(n,)`.
        """
        return best_proposals(self.predict(pyramid), options or ProposalOptions())

    def candidates(self, pyramid: FeaturePyramid, *, pool: int = POOL) -> Candidates:
        """The boxes of an image that are to be ranked, at most `pool`."""
        grid = self.predict(pyramid)
        best = _usable(grid, 0.0)
        boxes, scores = grid.boxes[best], grid.scores[best]
        selected = nms(boxes, scores, POOL_IOU, limit=pool)
        voted, agreement = _votes(boxes, scores, selected)
        return Candidates(
            boxes=voted,
            scores=scores[selected],
            agreement=agreement,
            dense_boxes=boxes,
            dense_scores=scores,
        )

    def boxes_from_points(
        self,
        pyramid: FeaturePyramid,
        points: Sequence[NDArray[np.float64]],
        labels: Sequence[NDArray[np.int64]],
    ) -> tuple[Boxes, NDArray[np.float64]]:
        """The box of the object at each region's points; see `box_of_points`.

        Args:
            pyramid: all four maps of the image.
            points: per region `(P, 2)` x and y in pixels, inside the image.
            labels: per region `(P,)` of 1 (foreground, at least one) and 0 (background).

        Returns:
            Boxes `(N, 4)`, and the intersection over union that is predicted for each, `(N,)`: a
            low one says that the point alone does not tell which object it stands for.
        """
        if not len(points):
            return np.zeros((0, 4)), np.zeros(0)
        grid = self.predict(pyramid)
        proposals = None if self.choice is None else best_proposals(grid, AT_POINTS)
        answers = [
            box_of_points(grid, *prompt, proposals=proposals, choice=self.choice)
            for prompt in zip(points, labels, strict=True)
        ]
        return np.stack([box for box, _ in answers]), np.array([score for _, score in answers])

    def predict(self, pyramid: FeaturePyramid) -> GridBoxes:
        """Boxes and scores of every cell; boxes in pixels of the image, clipped to it."""
        feed = {str(name): pyramid.maps[name] for name in CHANNELS}
        boxes, scores, point_boxes, point_scores = self.session.run(list(OUTPUTS), feed)
        rows, columns = pyramid.maps["stride32"].shape[:2]
        scale = pyramid.frame_scale()
        limits = np.array(pyramid.size[::-1] * 2, dtype=np.float64)  # (4,)
        return GridBoxes(
            boxes=np.clip(boxes / scale, 0, limits),
            scores=scores.astype(np.float64),
            point_boxes=np.clip(point_boxes / scale, 0, limits),
            point_scores=point_scores.astype(np.float64),
            rows=rows,
            columns=columns,
            scale=scale,
        )


def best_proposals(grid: GridBoxes, options: ProposalOptions) -> tuple[Boxes, NDArray[np.float64]]:
    """The best boxes that overlap little, best first: `(n, 4)` and their scores `(n,)`."""
    best = _usable(grid, options.min_score)
    best = best[nms(grid.boxes[best], grid.scores[best], options.nms_iou, limit=options.limit)]
    return grid.boxes[best], grid.scores[best]


def _votes(
    boxes: Boxes, scores: NDArray[np.float64], selected: NDArray[np.int64]
) -> tuple[Boxes, NDArray[np.float64]]:
    """Of some of the boxes `(K, 4)` the mean of all like them, and how much agrees with it `(K,)`.

    Args:
        boxes, scores: `(M, 4)` and `(M,)`.
        selected: `(K,)` positions of those whose votes are counted.
    """
    single = boxes.astype(np.float32)  # of hundreds of thousands of pairs
    squares = np.square(scores)[:, None]
    weighted = np.concatenate([boxes * squares, squares], axis=1)  # (M, 5)
    sums, agreement = np.zeros((len(selected), 5)), np.zeros(len(selected))
    # few rows at once stay in the caches, and in memory that the process has already
    for start in range(0, len(selected), _VOTED_AT_ONCE):
        rows = slice(start, start + _VOTED_AT_ONCE)
        overlaps = box_iou(single[selected[rows]], single)  # (k, M)
        sums[rows] = (overlaps >= VOTING) @ weighted
        agreement[rows] = (overlaps >= AGREEING) @ scores
    # each votes for itself: a box of a pixel and more overlaps itself
    return sums[:, :4] / sums[:, 4:].clip(1e-12), agreement


def _usable(grid: GridBoxes, min_score: float) -> NDArray[np.int64]:
    """Positions of the boxes with the highest scores, best first, at most `_CANDIDATES`."""
    sides = grid.boxes[:, 2:] - grid.boxes[:, :2]
    # a box of less than a pixel shows nothing
    usable = np.flatnonzero((grid.scores >= min_score) & (sides >= 1).all(axis=1))
    return usable[np.argsort(-grid.scores[usable], kind="stable")][:_CANDIDATES]


def box_of_points(
    grid: GridBoxes,
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    proposals: tuple[Boxes, NDArray[np.float64]] | None = None,
    choice: PointChoice | None = None,
) -> tuple[NDArray[np.float64], float]:
    """The box of the object that lies at some points, `(4,)`, and its score.

    Candidates are the boxes of the cells, one of every level, in which a foreground point lies,
    and the proposals, where there is a `choice` to compare them. A box has to hold all foreground
    points and no background point; the best score is taken. Where no box does, background points
    are let go first, and at last the best box of the cells is widened to hold the foreground
    points.

    Args:
        points: `(P, 2)` x and y in pixels of the image, at least one of them foreground.
        labels: `(P,)`, 1 for foreground and 0 for background.
        proposals: of the image, best first: boxes `(n, 4)` and scores `(n,)`.
        choice: scores the candidates; None to take the scores of the cells.
    """
    foreground, background = points[labels == 1], points[labels == 0]
    candidates = candidates_at(grid, foreground, None if choice is None else proposals)
    if len(candidates.boxes):
        scores = candidates.scores if choice is None else choice.scores(candidates)
        clean = ~_contains(candidates.boxes, background).any(axis=1)  # (n,)
        best = int(np.argmax(np.where(clean, scores, -1.0) if clean.any() else scores))
        return candidates.boxes[best], float(scores[best])
    cells = np.concatenate([_cells_at(grid, point) for point in foreground])
    best = int(cells[np.argmax(grid.point_scores[cells])])
    box, score = grid.point_boxes[best], grid.point_scores[best]
    low = np.minimum(box[:2], foreground.min(axis=0))
    high = np.maximum(box[2:], foreground.max(axis=0) + 1)
    widened = np.concatenate([low, high])
    # the score was predicted for the narrower box: no more than the share of it that is left
    return widened, float(score * box_iou(box[None], widened[None])[0, 0])


def candidates_at(
    grid: GridBoxes,
    foreground: NDArray[np.float64],
    proposals: tuple[Boxes, NDArray[np.float64]] | None = None,
) -> PointCandidates:
    """The boxes that hold all of some points: those of the cells there, and proposals.

    Args:
        foreground: `(P, 2)` x and y in pixels of the image.
        proposals: see `box_of_points`.
    """
    at_point = np.concatenate([_cells_at(grid, point) for point in foreground])  # (4 P,)
    levels = np.tile(np.arange(len(LEVELS)), len(foreground))
    cells, first = np.unique(at_point, return_index=True)
    parts = [(grid.point_boxes[cells], grid.point_scores[cells], levels[first])]
    if proposals is not None:
        boxes, scores = proposals
        rows = np.flatnonzero(_contains(boxes, foreground).all(axis=1))[:_MOST_AT_POINT]
        parts.append((boxes[rows], scores[rows], np.full(len(rows), NO_LEVEL)))
    boxes, scores, levels = (np.concatenate([part[i] for part in parts]) for i in range(3))
    holds = _contains(boxes, foreground).all(axis=1)  # (n,)
    return PointCandidates(
        boxes=boxes[holds],
        scores=scores[holds],
        levels=levels[holds],
        middle=foreground.mean(axis=0) + 0.5,
        frame_area=float(grid.rows * grid.columns * 32**2 / grid.scale[:2].prod()),
    )


def level_sizes(rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Rows, columns and stride of every level, from the rows and columns at stride 32."""
    coarse = (-(-rows // 2), -(-columns // 2), LEVELS[3])
    return [*((rows * f, columns * f, 32 // f) for f in (4, 2, 1)), coarse]


def _cells_at(grid: GridBoxes, point: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cell of every level that a point lies in, `(4,)`."""
    # a point is the position of a pixel: its middle is half a pixel further
    x, y = (point + 0.5) * grid.scale[:2]
    # a level's cells come after those of the finer ones
    cells, start = [], 0
    for rows, columns, stride in level_sizes(grid.rows, grid.columns):
        row = min(max(int(y // stride), 0), rows - 1)
        column = min(max(int(x // stride), 0), columns - 1)
        cells.append(start + row * columns + column)
        start += rows * columns
    return np.array(cells, dtype=np.int64)


def _contains(boxes: Boxes, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes `(n, 4)` hold the middles of which pixels `(P, 2)`, `(n, P)`."""
    middle = points + 0.5
    low = boxes[:, None, :2] <= middle[None]
    high = middle[None] <= boxes[:, None, 2:]
    return np.asarray((low & high).all(axis=2))
