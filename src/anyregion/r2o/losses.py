"""The loss of R2O: the two views of a region predict each other (BYOL's loss, for each mask)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MIN_AREA = 1e-3
"""A mask counts in a view where it covers more than this, summed over the cells (published)."""


def similarity_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """`|p/|p| - t/|t||^2` of each row, 0 to 4 (BYOL's loss). `(R, D)` and `(R, D)` to `(R,)`."""
    difference = F.normalize(predicted.float(), dim=-1) - F.normalize(targets.float(), dim=-1)
    return difference.square().sum(dim=-1)  # equal to 2 - 2 cos


def shared_masks(areas1: Tensor, areas2: Tensor) -> Tensor:
    """Whether a mask lies in both views. `(B, K)` areas of each, in cells, to `(B, K)` bool."""
    return (areas1 > MIN_AREA) & (areas2 > MIN_AREA)


def mask_weights(areas1: Tensor, areas2: Tensor, *, by_area: bool, shared_only: bool) -> Tensor:
    """The weight of each mask's loss.

    Args:
        areas1, areas2: `(B, K)` sums of a mask over the cells of each view.
        by_area: a mask weighs as much as its area in the two views together; else all alike.
        shared_only: masks that are not in both views weigh nothing.

    Returns:
        `(B, K)`; to be divided by its sum.
    """
    weights = areas1 + areas2 if by_area else areas1.new_ones(areas1.shape)
    return weights * shared_masks(areas1, areas2) if shared_only else weights
