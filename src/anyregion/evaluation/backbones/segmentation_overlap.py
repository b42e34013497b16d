"""Overlap of an image's partition, by clusters or by rulers, with people's segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from anyregion.evaluation.backbones.segmentation_datasets import BACKGROUND, SegmentMap
from anyregion.proposals import box_iou

Match: TypeAlias = Literal["hungarian", "best"]
Partition: TypeAlias = NDArray[np.int64]
"""`(height, width)`: the part, from 0, that each pixel belongs to."""


def segment_ious(truth: SegmentMap, parts: Partition, *, background: bool) -> NDArray[np.float64]:
    """Intersections over union, `(segments, parts)`, over the pixels that are not void.

    With `background` the background is a segment too: the first row, where there is any. A part
    that lies in void alone has 0 everywhere.
    """
    judged = truth >= (BACKGROUND if background else BACKGROUND + 1)
    numbers = np.unique(truth[judged])
    inside = truth >= BACKGROUND
    # one pass over the pixels counts all pairs of segment and part
    count = int(parts.max()) + 1
    area = np.bincount(parts[inside], minlength=count)
    row = np.searchsorted(numbers, truth[judged])
    shared = np.bincount(row * count + parts[judged], minlength=len(numbers) * count)
    shared = shared.reshape(len(numbers), count)  # (segments, parts)
    union = shared.sum(axis=1, keepdims=True) + area - shared
    ious: NDArray[np.float64] = shared / np.maximum(union, 1)
    return ious


def match_segments(iou: NDArray[np.float64], match: Match) -> NDArray[np.float64]:
    """`(segments,)` the overlap of each segment with the part that it is matched with.

    Args:
        match: `hungarian`: one segment a part, the largest sum (Kuhn, 1955); a segment without a
            part has 0. `best`: each segment takes its best part, which others may take too.
    """
    if match == "best":
        return np.asarray(iou.max(axis=1), dtype=np.float64)
    best = np.zeros(len(iou))
    rows, columns = linear_sum_assignment(iou, maximize=True)
    best[rows] = iou[rows, columns]
    return best


def grid_partition(size: tuple[int, int], k: int) -> Partition:
    """`k` rectangles of the same area, as near to squares as rows of them allow.

    The rows number about `sqrt(k * height / width)`; where `k` does not divide by them, the first
    rows hold one rectangle more, and are as much higher.
    """
    height, width = size
    rows = min(max(round((k * height / width) ** 0.5), 1), k)
    counts = np.full(rows, k // rows)
    counts[: k % rows] += 1
    ends = np.cumsum(counts)
    # a row of rectangles is as high as the share of them that it holds
    y = (np.arange(height) + 0.5) / height * k
    row = np.searchsorted(ends, y, side="right")  # (height,)
    x = (np.arange(width) + 0.5) / width
    column = (x[None] * counts[row][:, None]).astype(np.int64)  # (height, width)
    parts: Partition = (ends - counts)[row][:, None] + column
    return parts


def resize_partition(parts: Partition, size: tuple[int, int]) -> Partition:
    """A partition at another size: each pixel takes the part at its centre."""
    rows = ((np.arange(size[0]) + 0.5) * parts.shape[0] / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * parts.shape[1] / size[1]).astype(np.int64)
    resized: Partition = parts[rows[:, None], columns[None]]
    return resized


def border_prior(parts: Partition) -> NDArray[np.bool_]:
    """Of two parts (0 and 1) the one that holds less of the image's border; of equals the smaller,
    and then the second."""
    border = np.concatenate([parts[0], parts[-1], parts[1:-1, 0], parts[1:-1, -1]])
    # corners count once
    on_border = np.bincount(border, minlength=2)
    area = np.bincount(parts.reshape(-1), minlength=2)
    first = (on_border[0], area[0]) < (on_border[1], area[1])
    foreground: NDArray[np.bool_] = parts == (0 if first else 1)
    return foreground


def centred_box(size: tuple[int, int]) -> NDArray[np.bool_]:
    """The box in the middle of the image that has its shape and half its area."""
    # sides of sqrt(1/2) give half the area
    inside = [np.abs((np.arange(n) + 0.5) / n - 0.5) < 0.5 * 0.5**0.5 for n in size]
    box: NDArray[np.bool_] = inside[0][:, None] & inside[1][None]
    return box


def foreground_ious(truth: SegmentMap, foreground: NDArray[np.bool_]) -> tuple[float, float]:
    """Intersection over union of the foreground (all segments together) and of the background, over
    the pixels that are not void; 1 where neither has any."""
    inside = truth >= BACKGROUND
    expected, actual = (truth > BACKGROUND)[inside], foreground[inside]
    return _iou(expected, actual), _iou(~expected, ~actual)


def pixel_accuracy(truth: SegmentMap, foreground: NDArray[np.bool_]) -> float:
    """Share of the pixels that are not void which are rightly in front or behind."""
    inside = truth >= BACKGROUND
    return float(((truth > BACKGROUND) == foreground)[inside].mean()) if inside.any() else 1.0


def tight_box_iou(foreground: NDArray[np.bool_], box: Sequence[float]) -> float:
    """IoU of the foreground's tight box with a box, xyxy in pixels; 0 where nothing is in front."""
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    if not len(rows):
        return 0.0
    own = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)
    return float(box_iou(own, np.array([box], dtype=np.float64))[0, 0])


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0
