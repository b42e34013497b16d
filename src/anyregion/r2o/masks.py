"""Masks of the whole image, seen through the crop of a view."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align


def align_masks(
    masks: Tensor,
    boxes: Tensor,
    flipped: Tensor,
    grid: tuple[int, int],
    *,
    published: bool = False,
) -> Tensor:
    """RoIAlign of each view's crop to the encoder's output grid, mirrored where the view is.

    Args:
        masks: `(B, K, H, W)` of the whole images.
        boxes: `(B, 4)` crops: top, left, bottom, right as fractions of the image.
        flipped: `(B,)` bool.
        grid: rows and columns of the encoder's output.
        published: leave the half pixel out by which RoIAlign was off at first (`aligned=False`).

    Returns:
        `(B, K, rows * columns)`: how much of each cell a mask covers, 0 to 1.
    """
    height, width = masks.shape[-2:]
    scale = boxes.new_tensor([height, width, height, width])
    corners = (boxes * scale)[:, [1, 0, 3, 2]]
    rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None], corners], dim=1)
    found: Tensor = roi_align(
        masks, rois.to(masks.dtype), grid, spatial_scale=1.0, sampling_ratio=-1,
        aligned=not published,
    )  # fmt: skip
    found = torch.where(flipped[:, None, None, None], found.flip(-1), found)
    return found.flatten(2)
