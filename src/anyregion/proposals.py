"""Regions that nobody gave: what finds them, and how overlapping finds are thinned out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.regions import Regions


class RegionProposer(Protocol):
    """What finds regions in an image by itself.

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

    Where `encoder` is the encoder of the recogniser that names the regions, the pipeline hands over
    what that made of the image, in place of the image.

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
        iou: a box is dropped where its IoU with a better kept one is above this.
        limit: keep no more than so many; None for all.

    Returns:
        Positions of the kept boxes, best first.

    Raises:
        InputError: other numbers of boxes and scores.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(corners) != len(values):
        raise InputError(f"{len(corners)} boxes but {len(values)} scores")
    left = np.argsort(-values, kind="stable")
    kept: list[int] = []
    while len(left) and (limit is None or len(kept) < limit):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[box_iou(corners[best : best + 1], corners[left])[0] <= iou]
    return np.array(kept, dtype=np.int64)


def box_iou(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """IoU of each of `(N, 4)` with each of `(M, 4)` xyxy boxes, `(N, M)`; 0 of two empty ones."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - inside
    shares: NDArray[np.float64] = np.divide(
        inside, union, out=np.zeros(union.shape, dtype=np.float64), where=union > 0
    )
    return shares
