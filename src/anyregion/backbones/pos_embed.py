"""Position embeddings of plain ViTs, resized to another grid of patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from anyregion.errors import InputError


def intermediate_depth(blocks: int) -> int:
    """After how many of a ViT's blocks the intermediate map is read: two thirds."""
    return max(1, blocks * 2 // 3)


def patch_grid(height: int, width: int, patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        InputError: the sides are no multiple of the patch's.
    """
    # refused rather than cropped: a map of part of an image would be taken for one of all
    rows, columns = height // patch[0], width // patch[1]
    if rows * patch[0] != height or columns * patch[1] != width or not rows * columns:
        raise InputError(
            f"images of {height} x {width} pixels: this ViT takes multiples of its patch, "
            f"{patch[0]} x {patch[1]}; {max(1, rows) * patch[0]} x {max(1, columns) * patch[1]} "
            "would do"
        )
    return rows, columns


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int], *, prefix: int) -> Tensor:
    """`(1, prefix + n, D)` of a square grid to `(1, prefix + rows * columns, D)`.

    Bicubic with antialiasing; the first `prefix` (class token, registers) stay.

    Raises:
        ValueError: `n` is no square.
    """
    count = pos_embed.shape[1] - prefix
    if count == grid[0] * grid[1] and grid[0] == grid[1]:
        return pos_embed
    side = math.isqrt(max(count, 0))
    if not count or side**2 != count:
        raise ValueError(f"{count} positions are no square grid")
    # as timm resamples; in float32, whatever the precision of the weights
    square = pos_embed[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, s, s)
    resized = interpolate(
        square.float(), size=grid, mode="bicubic", align_corners=False, antialias=True
    )
    patches = resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)  # (1, rows * columns, D)
    return torch.cat([pos_embed[:, :prefix], patches], dim=1)
