"""One ranking of boxes of several kinds: how probably each is a thing that no better one is on.

The proposal head's objectness predicts an intersection over union, and a merge tree's scores
compare the regions of one image: neither says how often such a region is a thing, and they cannot
be compared with each other. A logistic regression on what is known of each box makes both one
probability, and overlapping boxes take from each other (soft non-maximum suppression).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import CheckpointError
from anyregion.proposals import box_iou, soft_nms
from anyregion.region_trees.proposer import JoinedRegions
from anyregion.regions import Boxes

HEAD_FEATURES = ("objectness", "agreement", "area", "border", "near", "near_score")
"""Of a box of the proposal head. The last two are of the nearest node of a tree, where there is
one."""
TREE_FEATURES = (
    "height", "objectness", "agreement", "area", "border", "near", "persistence", "fill",
)  # fmt: skip
"""Of a node of a merge tree; `near` is of the nearest of the head's candidates."""

# boxes of the head that overlap as much agree on a thing
AGREEING = 0.6
# a side that lies so near the image's, in pixels, may be cut off there
BORDER = 2.0
# of two boxes that overlap more the worse is dropped, however probable
SAME = 0.9


@dataclass(frozen=True)
class Logistic:
    """A logistic regression: the weights of features as they are, and the bias."""

    weights: tuple[float, ...]
    bias: float

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of rows of features `(N, F)`, `(N,)`."""
        logits = np.clip(features @ np.array(self.weights) + self.bias, -50, 50)
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return probabilities


@dataclass(frozen=True)
class Ranking:
    """How the boxes of an image are ranked, as it was fitted (`tools/fit_proposal_ranking.py`).

    Attributes:
        head, tree: the share of the IoU thresholds 0.5 to 0.95 at which such a box meets a thing;
            `tree` is None where the head's boxes are alone, and then have no `near`.
        decay: of `soft_nms`.
        calibration: from what soft suppression leaves, as a logit, to how often such a box is one
            of a thing that no better box has met.
    """

    head: Logistic
    tree: Logistic | None
    decay: float
    calibration: Logistic

    def rank(
        self, boxes: Boxes, probabilities: NDArray[np.float64], *, limit: int, nms_iou: float = SAME
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions of the best boxes `(n,)`, best first, and their probabilities `(n,)`."""
        rows, left = soft_nms(boxes, probabilities, self.decay, nms_iou=nms_iou, limit=limit)
        return rows, self.calibration.probabilities(logits(left)[:, None])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def read_rankings(content: bytes) -> dict[str, Ranking]:
    """Rankings by their names, `alone` and `joint`.

    Raises:
        CheckpointError: the content is none that `to_dict` made.
    """
    try:
        return {
            name: Ranking(
                head=_logistic(entry["head"]),
                tree=None if entry["tree"] is None else _logistic(entry["tree"]),
                decay=float(entry["decay"]),
                calibration=_logistic(entry["calibration"]),
            )
            for name, entry in json.loads(content).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"no rankings of proposals ({error})") from None


def head_features(
    boxes: Boxes,
    scores: NDArray[np.float64],
    agreement: NDArray[np.float64],
    size: tuple[int, int],
    *,
    overlaps: NDArray[np.float64] | None = None,
    heights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """`HEAD_FEATURES` of the head's candidates, `(K, 6)`, or without a tree the first four.

    Args:
        boxes, scores, agreement: see `Candidates`.
        size: `(height, width)` of the image.
        overlaps: `(K, N)` IoU with the nodes of a tree.
        heights: `(N,)` scores of these.
    """
    columns = [logits(scores), np.log1p(agreement), *_place(boxes, size)]
    if overlaps is not None and heights is not None:
        columns += [
            overlaps.max(axis=1, initial=0),
            (overlaps * heights).max(axis=1, initial=0),
        ]
    return np.stack(columns, axis=1)


def tree_features(
    regions: JoinedRegions,
    rows: NDArray[np.int64],
    dense_boxes: Boxes,
    dense_scores: NDArray[np.float64],
    *,
    overlaps: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`TREE_FEATURES` of nodes of a merge tree, `(N, 8)`.

    Args:
        regions: of a tree.
        rows: the nodes.
        dense_boxes, dense_scores: of the head's boxes before any was suppressed, `(M, 4)`, `(M,)`.
        overlaps: `(N, K)` IoU with the head's candidates.
    """
    boxes = regions.boxes[rows]
    dense = box_iou(boxes, dense_boxes)  # (N, M)
    agreement = (dense_scores * (dense >= AGREEING)).sum(axis=1)
    height, own = (np.log(values[rows] + 1e-4) for values in (regions.scores, regions.own))
    fill = regions.shares[rows] * np.prod(regions.size) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.stack(
        [
            height,
            logits((dense * dense_scores).max(axis=1, initial=0)),
            np.log1p(agreement),
            *_place(boxes, regions.size),
            overlaps.max(axis=1, initial=0),
            height - own,
            fill,
        ],
        axis=1,
    )


def logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits of numbers from 0 to 1, which stay finite."""
    inner = np.clip(probabilities, 1e-4, 1 - 1e-4)
    values: NDArray[np.float64] = np.log(inner / (1 - inner))
    return values


def _place(boxes: Boxes, size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """The logarithm of each box's share of the image, and how many of its sides lie at a border."""
    height, width = size
    area = np.log((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (height * width))
    low = (boxes[:, :2] <= BORDER).sum(axis=1)
    high = (boxes[:, 2:] >= np.array([width, height]) - BORDER).sum(axis=1)
    return [area, (low + high).astype(np.float64)]


def _logistic(entry: dict[str, Any]) -> Logistic:
    return Logistic(tuple(float(w) for w in entry["weights"]), float(entry["bias"]))
