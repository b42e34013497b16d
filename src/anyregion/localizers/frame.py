"""Transforms between an image and a localizer's square input, for pixels, prompts and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anyregion.images import Pixels
from anyregion.masks import RLE, encode_mask

# magnitude of the logits that a binary mask prompt becomes: a sure mask, as SAM itself gives it
MASK_LOGIT = 10.0


@dataclass(frozen=True)
class Frame:
    """Where one image lies in the square.

    Attributes:
        size: the image's `(height, width)` in pixels.
        inside: the `(height, width)` that it takes in the square, from the upper left corner.
        side: the square's side.
        padded: whether the rest is padding (SAM, SAM-HQ) or the image was squashed to fill the
            square (SAM 2, SAM 3). Masks come back by another way in each.
    """

    size: tuple[int, int]
    inside: tuple[int, int]
    side: int
    padded: bool


def padded_frame(size: tuple[int, int], side: int) -> Frame:
    """The long side becomes `side`, the other keeps the aspect, rounded half up."""
    scale = side / max(size)
    # half up as segment-anything rounds; `round` would go to the even number
    height = max(1, int(size[0] * scale + 0.5))
    width = max(1, int(size[1] * scale + 0.5))
    return Frame(size, (height, width), side, padded=True)


def squashed_frame(size: tuple[int, int], side: int) -> Frame:
    """Both sides become `side`."""
    return Frame(size, (side, side), side, padded=False)


def resize_to_frame(image: Pixels, frame: Frame) -> Pixels:
    """Resize the bytes as Pillow does (bilinear, antialiased), which SAM was trained with."""
    height, width = frame.inside
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def to_frame(coordinates: NDArray[np.float64], frame: Frame) -> NDArray[np.float32]:
    """Scale coordinates of the image to the square, x and y each by its own side's factor.

    Along the last axis x and y take turns: points `(..., 2)`, boxes `(..., 4)`.
    """
    factors = [frame.inside[1] / frame.size[1], frame.inside[0] / frame.size[0]]
    scaled: NDArray[np.float32] = (
        coordinates * np.tile(factors, coordinates.shape[-1] // 2)
    ).astype(np.float32)
    return scaled


def mask_to_logits(mask: NDArray[np.bool_], frame: Frame, low_side: int) -> Tensor:
    """A binary mask `(height, width)` of the image to `(low_side, low_side)` logits of the square.

    Inside becomes `+MASK_LOGIT`, outside and padding `-MASK_LOGIT`, a cell on the border what the
    share of its area says.
    """
    # antialiased both times, so that a cell becomes the share of its area that is inside
    share = torch.from_numpy(mask.astype(np.float32))[None, None]
    share = F.interpolate(share, frame.inside, mode="bilinear", antialias=True)
    height, width = frame.inside
    share = F.pad(share, (0, frame.side - width, 0, frame.side - height))  # (1, 1, side, side)
    share = F.interpolate(share, (low_side, low_side), mode="bilinear", antialias=True)
    return (share[0, 0] * 2 - 1) * MASK_LOGIT


def logits_to_image(logits: Tensor, frame: Frame) -> Tensor:
    """Low-resolution logits `(M, h, w)` of the square to `(M, height, width)` of the image.

    Bilinear; from a padded square by way of its full size, as published.
    """
    maps = logits[:, None].float()  # (M, 1, h, w)
    if frame.padded:
        square = (frame.side, frame.side)
        maps = F.interpolate(maps, square, mode="bilinear", align_corners=False)
        # padding is cut off before the second resize: it must not bleed into the image
        maps = maps[..., : frame.inside[0], : frame.inside[1]]
    return F.interpolate(maps, frame.size, mode="bilinear", align_corners=False)[:, 0]


def logits_to_masks(logits: Tensor, frame: Frame) -> list[RLE]:
    """Low-resolution logits `(M, h, w)` of the square to the image's masks: inside is above 0."""
    inside = (logits_to_image(logits, frame) > 0).cpu().numpy()
    return [encode_mask(mask) for mask in inside]
