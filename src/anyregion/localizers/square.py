"""Where an image lies in a localizer's square input, and its pixels and prompts there; no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.images import Pixels


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
