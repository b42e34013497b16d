"""Intersection over union: mean IoU of masks, and how many boxes each thing has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.masks import RLE, mask_iou
from anyregion.proposals import box_iou, contained_share
from anyregion.regions import Boxes

THING_IOU = 0.3
"""A box that overlaps a thing by as much is one of that thing, if a poor one."""
PART_SHARE = 0.9
"""A box of which so much lies in a thing, and that is of no other thing, is a part of it."""


def mask_ious(predicted: Sequence[RLE], true: Sequence[RLE]) -> NDArray[np.float64]:
    """IoU of each predicted mask with the true one at the same place, `(N,)`."""
    pairs = zip(predicted, true, strict=True)
    return np.array([mask_iou(one, other) for one, other in pairs], dtype=np.float64)


def mean_iou(ious: NDArray[np.float64] | Sequence[float]) -> float:
    """The mean of IoUs, each region counted once; NaN of none."""
    return float(np.mean(ious)) if len(ious) else float("nan")


def boxes_per_thing(boxes: Boxes, things: Boxes) -> NDArray[np.int64]:
    """How many boxes `(P, 4)` are of each thing `(T, 4)`, `(T,)`.

    A box is of the thing that it overlaps most, by an IoU of `THING_IOU` or more; else of the
    smallest thing that `PART_SHARE` of it lies in; else of none.
    """
    if not len(boxes) or not len(things):
        return np.zeros(len(things), dtype=np.int64)
    ious, shares = box_iou(boxes, things), contained_share(boxes, things)  # (P, T)
    areas = (things[:, 2:] - things[:, :2]).prod(axis=1)
    around = np.where(shares >= PART_SHARE, areas, np.inf)
    best, smallest = ious.argmax(axis=1), around.argmin(axis=1)
    is_thing = ious.max(axis=1) >= THING_IOU
    is_part = np.isfinite(around.min(axis=1))
    owner = np.where(is_thing, best, smallest)[is_thing | is_part]
    return np.bincount(owner, minlength=len(things))
