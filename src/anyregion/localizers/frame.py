"""Masks between an image and a localizer's square: as prompts, and as what it answers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anyregion.localizers.square import Frame
from anyregion.masks import RLE, encode_mask

# magnitude of the logits that a binary mask prompt becomes: a sure mask, as SAM itself gives it
MASK_LOGIT = 10.0


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
