"""Label maps as masks, and features averaged under masks."""

from __future__ import annotations

import torch
from torch import Tensor


def count_segments(labels: Tensor) -> int:
    """One more than the largest id of `labels`: room for the segments of every image."""
    return int(labels.max()) + 1


def cell_shares(labels: Tensor, segments: int, size: tuple[int, int]) -> Tensor:
    """How much of each cell of a coarser grid each segment covers, counted pixel by pixel.

    Args:
        labels: `(B, H, W)` ids, 0 to `segments` - 1.
        size: rows and columns of the grid.

    Returns:
        `(B, segments, h, w)`, 0 to 1; sums to 1 in every cell. No segment gets lost, however small.
    """
    images, height, width = labels.shape
    rows, columns = size
    device = labels.device
    row = torch.arange(height, device=device) * rows // height
    column = torch.arange(width, device=device) * columns // width
    cell = row[:, None] * columns + column
    cells = rows * columns
    image = torch.arange(images, device=device)[:, None, None]
    place = (image * segments + labels) * cells + cell
    counts = torch.zeros(images * segments * cells, device=device)
    counts.index_add_(0, place.flatten(), torch.ones(1, device=device).expand(place.numel()))
    pixels = torch.bincount(cell.flatten(), minlength=cells).clamp(min=1)
    return counts.view(images, segments, cells).div(pixels).view(images, segments, rows, columns)


def soft_masks(labels: Tensor, segments: int, size: tuple[int, int]) -> Tensor:
    """One-hot maps of the segments, resized bilinearly without antialiasing, as published.

    Equal to `F.interpolate(one_hot, size, mode="bilinear")`, without the one-hot maps. It looks at
    four pixels a cell: a segment that lies between them is lost (`cell_shares` loses none).

    Args:
        labels: `(B, H, W)` ids, 0 to `segments` - 1.
        size: rows and columns of the result.

    Returns:
        `(B, segments, h, w)`, 0 to 1.
    """
    images, height, width = labels.shape
    rows, columns = size
    masks = torch.zeros(images, segments, rows, columns, device=labels.device)
    for row, row_share in _taps(height, rows, labels.device):
        for column, column_share in _taps(width, columns, labels.device):
            ids = labels[:, row][:, :, column].unsqueeze(1)
            share = (row_share[:, None] * column_share).expand_as(ids)
            masks.scatter_add_(1, ids, share)
    return masks


def _taps(pixels: int, cells: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """The two pixels that bilinear resizing reads for each cell, each with its share."""
    centre = ((torch.arange(cells, device=device) + 0.5) * (pixels / cells) - 0.5).clamp(min=0)
    low = centre.long().clamp(max=pixels - 1)
    share = (centre - low).float()
    return (low, 1 - share), ((low + 1).clamp(max=pixels - 1), share)


def pool(features: Tensor, masks: Tensor) -> Tensor:
    """The mean feature under each mask, weighted by the mask.

    At least 1 cell is divided by (published): a mask of less area gives a shorter vector in the
    same direction; one without area gives zeros.

    Args:
        features: `(B, C, P)`.
        masks: `(B, N, P)`, not negative.

    Returns:
        `(B, N, C)`.
    """
    sums = torch.bmm(masks, features.transpose(1, 2).to(masks.dtype))
    return sums / masks.sum(dim=2, keepdim=True).clamp(min=1.0)
