"""Region proposals: the protocols of proposers, overlaps of boxes, and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.masks import RLE, mask_iou
from anyregion.regions import Boxes, Regions


@dataclass(frozen=True)
class DuplicateOptions:
    """When two found regions of one name are of one thing, so that the better one stays.

    Chosen on COCO's `val` (see docs/results/proposals.md). Regions of different names both stay.

    Attributes:
        iou: their intersection over union is above this.
        contained: so large a share of the smaller lies in the larger, or more.
    """

    iou: float = 0.4
    contained: float = 0.7

    def __post_init__(self) -> None:
        if not (0 <= self.iou <= 1 and self.contained > 0):
            raise InputError(f"iou from 0 to 1 and contained above 0, not {self}")


# boxes that `nms` compares with each other at once
_NMS_BLOCK = 64


class RegionProposer(Protocol):
    """A detector of regions of any kind, without prompts.

    Attributes:
        name: what people call it.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever a proposal would: weights, thresholds, sizes."""
        ...

    def propose(self, image: Pixels) -> Regions:
        """The regions of one image, best first; there may be none.

        Each has a box, and a mask where the proposer knows one. `scores`, 0 to 1, are its
        objectness: how sure the proposer is that there is one whole thing. As a detector's, they
        are multiplied with the names' scores by `Recognizer`.
        """
        ...


class EncodedProposer(RegionProposer, Protocol):
    """A proposer on top of a recogniser's image encoder, so that an image is encoded only once.

    Where `encoder` is the encoder of the recogniser that names the regions, the pipeline passes the
    encoded image in place of the image.

    Attributes:
        encoder: the `RegionEncoder` whose `encode_images` it builds on.
    """

    encoder: object

    def propose_encoded(self, encoded: Any) -> Regions:
        """As `propose`, from one image's `encode_images`."""
        ...


def nms(
    boxes: ArrayLike, scores: ArrayLike, iou: float, *, limit: int | None = None
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        boxes: `(N, 4)` xyxy; `N` may be 0.
        scores: `(N,)`; of equal ones the earlier goes first.
        iou: a box is dropped where its IoU with a selected better one is above this.
        limit: select no more than so many; None for all.

    Returns:
        Positions of the selected boxes, best first.

    Raises:
        InputError: other numbers of boxes and scores.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)  # (N, 4)
    values = np.asarray(scores, dtype=np.float64).reshape(-1)  # (N,)
    if len(corners) != len(values):
        raise InputError(f"{len(corners)} boxes but {len(values)} scores")
    # stable, so that of equal scores the earlier box is selected on every machine
    order = np.argsort(-values, kind="stable")
    most = len(order) if limit is None else limit
    selected = np.zeros(0, dtype=np.int64)
    # in blocks: overlaps of one come at once, and few boxes are compared that need not be
    for start in range(0, len(order), _NMS_BLOCK):
        block = order[start : start + _NMS_BLOCK]
        apart = (box_iou(corners[selected], corners[block]) <= iou).all(axis=0)
        block = block[apart]
        overlapping = box_iou(corners[block], corners[block]) > iou
        dropped = np.zeros(len(block), dtype=bool)
        for i in range(len(block)):
            if not dropped[i]:
                dropped[i + 1 :] |= overlapping[i, i + 1 :]
        selected = np.concatenate([selected, block[~dropped]])[:most]
        if len(selected) == most:
            break
    return selected


def soft_nms(
    boxes: Boxes,
    scores: NDArray[np.float64],
    decay: float,
    *,
    nms_iou: float,
    limit: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Soft non-maximum suppression (Bodla et al., ICCV 2017): overlapping boxes lose score.

    Args:
        boxes: `(N, 4)` xyxy; `N` may be 0.
        scores: `(N,)` from 0 to 1.
        decay: a box that overlaps a selected one by `iou` keeps `exp(-iou ** 2 / decay)` of its
            score.
        nms_iou: one that overlaps it more than this is dropped.
        limit: select no more than so many.

    Returns:
        Positions of the selected boxes, best first, and the scores that they had left.
    """
    overlaps = box_iou(boxes, boxes)  # (N, N)
    kept = np.where(overlaps > nms_iou, 0.0, np.exp(-(overlaps**2) / decay))
    left = np.array(scores, dtype=np.float64)
    rows: list[int] = []
    values: list[float] = []
    for _ in range(min(limit, len(left))):
        best = int(left.argmax())
        if left[best] <= 0:
            break
        rows.append(best)
        values.append(float(left[best]))
        left *= kept[best]
        left[best] = 0  # also where a box of no area overlaps nothing, itself neither
    return np.array(rows, dtype=np.int64), np.array(values)


def without_duplicates(
    boxes: Boxes,
    names: ArrayLike,
    scores: ArrayLike,
    options: DuplicateOptions,
    *,
    masks: Sequence[RLE | None] | None = None,
) -> NDArray[np.int64]:
    """Positions, ascending, of the regions that no better one of the same name stands for.

    Of two regions with masks that share no pixel both stay, however their boxes lie.

    Args:
        boxes: `(N, 4)` xyxy; `N` may be 0.
        names: `(N,)`, equal ones for equal names.
        scores: `(N,)`; of equal ones the earlier is better.
        options: see there.
        masks: of each region, or None; None for boxes alone.
    """
    labels, values = np.asarray(names), np.asarray(scores, dtype=np.float64)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept: list[int] = []
    for i in np.argsort(-values, kind="stable").tolist():
        same = [j for j in kept if labels[j] == labels[i] and not _apart(masks, i, j)]
        if same:
            one, others = boxes[i : i + 1], boxes[same]
            share = contained_share(one, others)[0]
            # the better one may be the part
            whole = np.where(areas[same] < areas[i], contained_share(others, one)[:, 0], share)
            if (box_iou(one, others)[0] > options.iou).any() or (whole >= options.contained).any():
                continue
        kept.append(i)
    return np.sort(np.array(kept, dtype=np.int64))


def _apart(masks: Sequence[RLE | None] | None, one: int, other: int) -> bool:
    """Whether both regions have masks, and these share no pixel."""
    pair = [] if masks is None else [m for m in (masks[one], masks[other]) if m is not None]
    return len(pair) == 2 and mask_iou(*pair) == 0


def contained_share(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Share of each of `(N, 4)` xyxy boxes that lies in each of `(M, 4)`, `(N, M)`; 0 of empty."""
    intersection = _intersection(first, second)  # (N, M)
    areas = np.clip(first[:, 2:] - first[:, :2], 0, None).prod(axis=1)[:, None]
    share: NDArray[np.float64] = np.divide(
        intersection, areas, out=np.zeros(intersection.shape, dtype=np.float64), where=areas > 0
    )
    return share


def box_iou(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """IoU of each of `(N, 4)` with each of `(M, 4)` xyxy boxes, `(N, M)`; 0 of two empty ones.

    In single precision where both are, which takes half the time for many boxes.
    """
    if not first.dtype == second.dtype == np.float32:
        first, second = (np.asarray(boxes, dtype=np.float64) for boxes in (first, second))
    intersection = _intersection(first, second)  # (N, M)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - intersection
    # boxes without area have no union: 0, not NaN; a division that leaves elements out is slower
    np.maximum(union, np.finfo(union.dtype).tiny, out=union)
    iou: NDArray[Any] = np.divide(intersection, union, out=union)
    return iou


def _intersection(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The area that each of `(N, 4)` xyxy boxes shares with each of `(M, 4)`, `(N, M)`."""
    sides = []
    for axis in (0, 1):  # one after the other: arrays of pairs take three times as long
        low = np.maximum(first[:, None, axis], np.ascontiguousarray(second[:, axis]))
        side = np.minimum(first[:, None, axis + 2], np.ascontiguousarray(second[:, axis + 2]))
        side -= low
        sides.append(np.maximum(side, 0, out=side))
    area: NDArray[Any] = np.multiply(sides[0], sides[1], out=sides[0])
    return area
