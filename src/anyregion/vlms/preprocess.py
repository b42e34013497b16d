"""From images to a model's square input, and positions to a grid of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.errors import CheckpointError, InputError
from anyregion.images import Pixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# both mean and standard deviation of SigLIP's input
HALF = (0.5, 0.5, 0.5)


def squash(
    images: Sequence[Pixels],
    size: int,
    *,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    antialias: bool = True,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Squash each image to a square, whatever its sides, and normalise: `(B, 3, size, size)`.

    Bilinear on floats, not on bytes: rounding to bytes in between moves RegionSpot's input by
    7.5e-3. `antialias=False` is the resize of its published interactive predictor. There must be
    at least one image.
    """
    # one at a time: images of a batch differ in size until they are squashed
    squares = []
    for image in images:
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
        squares.append(
            F.interpolate(
                pixels, (size, size), mode="bilinear", align_corners=False, antialias=antialias
            )
        )
    batch = torch.cat(squares)
    shape = (1, 3, 1, 1)
    centre = torch.tensor(mean, device=device).view(shape)
    spread = torch.tensor(std, device=device).view(shape)
    return (batch - centre) / spread


def square_grid(image_size: int, patch: int) -> tuple[int, int]:
    """Patches down and across.

    Raises:
        InputError: the image is smaller than one patch.
    """
    if image_size < patch:
        raise InputError(f"image_size must be at least one patch of {patch}, not {image_size}")
    return image_size // patch, image_size // patch


def resize_positions(positions: Tensor, grid: tuple[int, int], *, class_rows: int = 1) -> Tensor:
    """Fit learned positions of a square grid to another grid, `(class_rows + h * w, D)` float32.

    Rows of class tokens are kept; the grid is resized bicubically, `align_corners` False, in
    single precision. Positions that fit already are returned as they are.

    Raises:
        CheckpointError: the positions are of no square grid.
    """
    rows = len(positions) - class_rows
    side = math.isqrt(max(rows, 0))
    if side < 1 or side * side != rows:
        raise CheckpointError(f"{len(positions)} image positions are those of no square grid")
    if (side, side) == grid:
        return positions.float()
    # (class_rows + s s, D): the class rows have no place in the grid
    class_positions = positions[:class_rows].float()
    square = positions[class_rows:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return torch.cat([class_positions, resized.permute(0, 2, 3, 1).flatten(0, 2)])


def set_grid(embeddings: Any, grid: tuple[int, int], image_size: int, *, class_rows: int) -> None:
    """Fit the patch embeddings of a `transformers` ViT to another grid, once and for all."""
    positions = resize_positions(
        embeddings.position_embedding.weight.detach(), grid, class_rows=class_rows
    )
    embeddings.position_embedding = nn.Embedding(
        len(positions), positions.shape[1], _weight=positions, _freeze=True
    )
    # the module looks its positions up by these ids
    embeddings.position_ids = torch.arange(len(positions), device=positions.device)[None]
    embeddings.num_patches = len(positions) - class_rows
    embeddings.num_positions = len(positions)
    embeddings.image_size = image_size
