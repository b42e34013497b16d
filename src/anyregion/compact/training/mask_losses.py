"""What the mask head learns from: masks cut to their boxes, and three losses."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from anyregion.compact.training.mask_head_module import enlarged
from anyregion.regions import Boxes

OVERLAP_WEIGHT = 1.5
QUALITY_WEIGHT = 0.2


def mask_target(
    mask: NDArray[np.bool_], box: NDArray[np.float64], *, side: int, margin: float
) -> Tensor:
    """The share of each cell that lies in the mask, `(side, side)`.

    Args:
        mask: of the whole image, `(height, width)`.
        box: xyxy in pixels of the image.
        side, margin: see `MaskHeadConfig`.
    """
    whole = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
    wide = enlarged(torch.from_numpy(box[None]).float(), margin)
    # as many samples as pixels
    share: Tensor = roi_align(whole, [wide], side, 1.0, -1, aligned=True)[0, 0]
    return share


def mask_losses(logits: Tensor, quality: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Losses of each region, `(N,)`: `loss` is the weighted sum of the others.

    `border` is the binary cross-entropy of the cells, `overlap` 1 - soft intersection over union,
    so that a region counts the same whatever share of its box it fills, and `quality` says how far
    the predicted intersection over union is off.

    Args:
        logits: `(N, side, side)`.
        quality: logits of the intersection over union, `(N,)`.
        targets: `(N, side, side)`, from 0 to 1.
    """
    border = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
    inside = logits.sigmoid()
    both, either = (inside * targets).sum((1, 2)), inside.sum((1, 2)) + targets.sum((1, 2))
    overlap = 1 - (both + 1) / (either - both + 1)
    found, meant = logits.detach() > 0, targets > 0.5
    reached = (found & meant).sum((1, 2)) / (found | meant).sum((1, 2)).clamp_min(1)
    quality_loss = F.binary_cross_entropy_with_logits(quality, reached, reduction="none")
    loss = border + OVERLAP_WEIGHT * overlap + QUALITY_WEIGHT * quality_loss
    return {"loss": loss, "border": border, "overlap": overlap, "quality": quality_loss}


def jittered(boxes: Boxes, draw: np.random.Generator, *, spread: float, share: float) -> Boxes:
    """Boxes whose sides are moved at random, as a detector's or a hand's would be.

    Args:
        spread: deviation of a side, as a share of the box's width or height; at most four of them.
        share: of the boxes that are moved.
    """
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = np.clip(draw.normal(size=boxes.shape), -4, 4) * spread
    chosen = draw.random((len(boxes), 1)) < share
    out: Boxes = boxes + np.where(chosen, moved, 0) * sides
    return out
