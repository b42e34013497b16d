"""Intersection over union: mean IoU of masks, and recall of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.masks import RLE, mask_iou
from anyregion.proposals import box_iou
from anyregion.regions import Boxes

AR_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds that COCO's average recall (AR) is a mean over."""


def mask_ious(predicted: Sequence[RLE], true: Sequence[RLE]) -> NDArray[np.float64]:
    """IoU of each predicted mask with the true one at the same place, `(N,)`."""
    pairs = zip(predicted, true, strict=True)
    return np.array([mask_iou(one, other) for one, other in pairs], dtype=np.float64)


def mean_iou(ious: NDArray[np.float64] | Sequence[float]) -> float:
    """The mean of IoUs, each region counted once; NaN of none."""
    return float(np.mean(ious)) if len(ious) else float("nan")


def count_matched(boxes: Boxes, true_boxes: Boxes, threshold: float) -> int:
    """How many true boxes are recalled by proposals `(P, 4)`, best first, at an IoU threshold.

    Each proposal in turn takes the true box it overlaps most of those not yet taken, if by
    `threshold` or more.
    """
    # greedy, as COCO's evaluation matches; an optimal assignment would recall a little more
    free = np.ones(len(true_boxes), dtype=bool)
    for box in boxes:
        if not free.any():
            break
        # (T,) of this proposal with every true box; those taken are out of reach
        ious = np.where(free, box_iou(box[None], true_boxes)[0], -1.0)
        best = int(np.argmax(ious))
        if ious[best] >= threshold:
            free[best] = False
    return int((~free).sum())
