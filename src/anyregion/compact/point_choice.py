"""Which of the boxes around a point is that of the object that is meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from anyregion.proposals import box_iou
from anyregion.regions import Boxes

NO_LEVEL = -1
"""The level of a candidate that is a proposal, not the answer of a cell at the point."""
LEVEL_COUNT = 4
FEATURES = 10 + 2 * LEVEL_COUNT
"""How many numbers `candidate_features` says of a candidate."""


@dataclass(frozen=True, eq=False)
class PointCandidates:
    """Boxes that hold the same points, of which one is to be chosen.

    Attributes:
        boxes: `(n, 4)` xyxy in pixels of the image.
        scores: `(n,)`, the intersection over union that the proposal head predicts for each.
        levels: `(n,)`, of the cell at the point that answered (0 is the finest), or `NO_LEVEL`.
        middle: `(2,)`, x and y of the mean of the points, in the same pixels.
        frame_area: of the image and what was added to its sides, in the same pixels.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    levels: NDArray[np.int64]
    middle: NDArray[np.float64]
    frame_area: float


@dataclass(frozen=True, eq=False)
class PointChoice:
    """A network of one hidden layer that predicts how well each candidate fits.

    A cell scores its own box alone; here a candidate is seen beside the others. Fitted by
    `compact.training.point_choice_fit`.

    Attributes:
        mean, deviation: `(FEATURES,)`, by which features are standardised.
        hidden: `(FEATURES, H)`, and `hidden_bias` `(H,)`.
        output: `(H,)`, and `output_bias` `(1,)`.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    output_bias: NDArray[np.float32]

    def scores(self, candidates: PointCandidates) -> NDArray[np.float64]:
        """The predicted intersection over union of each candidate with the object, `(n,)`."""
        x = (candidate_features(candidates) - self.mean) / self.deviation  # (n, FEATURES)
        x = x @ self.hidden + self.hidden_bias  # (n, H)
        logits = x * _sigmoid(x) @ self.output + self.output_bias  # (n,)
        return np.asarray(_sigmoid(logits), dtype=np.float64)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save(self._arrays())

    @classmethod
    def from_bytes(cls, content: bytes) -> PointChoice:
        """Read what `to_bytes` wrote."""
        return cls(**load(content))

    def _arrays(self) -> dict[str, NDArray[np.float32]]:
        arrays: Mapping[str, NDArray[np.float32]] = {
            part.name: getattr(self, part.name) for part in fields(self)
        }
        return {name: np.ascontiguousarray(values) for name, values in arrays.items()}


def candidate_features(candidates: PointCandidates) -> NDArray[np.float32]:
    """What is known of each candidate, alone and beside the others, `(n, FEATURES)`.

    Its score, as a logit and as a share of the best one; its size and shape; how far from its
    middle the points lie; how much it overlaps with all candidates, by their kind and score; its
    level; and the best score of every level.
    """
    boxes, scores = candidates.boxes, candidates.scores
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)  # (n, 2)
    # 0 where the points are in the middle of the box, 1 at its sides
    away = np.clip(np.abs((candidates.middle - boxes[:, :2]) / sides - 0.5) * 2, 0, 1)
    overlaps = box_iou(boxes, boxes)  # (n, n)
    levels = candidates.levels[:, None] == np.arange(LEVEL_COUNT)  # (n, LEVEL_COUNT)
    at_point = candidates.levels != NO_LEVEL
    bounded = np.clip(scores, 1e-3, 1 - 1e-3)
    alone = [
        np.log(bounded / (1 - bounded)),
        scores / max(float(scores.max()), 1e-3),
        np.log(sides.prod(axis=1) / candidates.frame_area) / 2,
        np.log(sides[:, 0] / sides[:, 1]),
        away.max(axis=1),
        away.min(axis=1),
    ]
    beside = [
        overlaps @ (scores * at_point),
        overlaps @ (scores * ~at_point),
        overlaps @ scores**2,
        overlaps.mean(axis=1),
    ]
    best_of_levels = (scores[:, None] * levels).max(axis=0)  # (LEVEL_COUNT,)
    columns = [
        np.stack(alone + beside, axis=1),
        levels,
        np.broadcast_to(best_of_levels, levels.shape),
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _sigmoid(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))
