"""Between pixels of an image and pixels of what the eyes' network saw of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.image_encoder import STRIDE, FeaturePyramid, prepare
from anyregion.images import Pixels


def frame_factors(maps: FeaturePyramid) -> NDArray[np.float64]:
    """What takes x0, y0, x1, y1 from pixels of the image to pixels of the network's input."""
    rows, columns = maps.maps["stride32"].shape[:2]
    height, width = maps.span
    return np.array([columns * STRIDE / width, rows * STRIDE / height] * 2)


def frame_of(maps: FeaturePyramid, pixels: Pixels) -> NDArray[np.float32]:
    """The network's input `(1, 3, H, W)` that the maps were made of."""
    height, width = pixels.shape[:2]
    # that of the longer side alone was not rounded to whole pixels
    factor = frame_factors(maps)[0 if width >= height else 1]
    frame, _ = prepare(pixels, long_side=round(max(height, width) * factor))
    return frame
