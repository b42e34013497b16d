"""A picture of where a region looked when it was named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.drawing.picture import draw
from anyregion.explain import Explanation
from anyregion.images import Pixels

# from nothing to the peak, in sRGB: the photograph alone, then blue, magenta, orange and yellow,
# which differ in lightness too, so that they can be told apart without colour
_STOPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_COLOURS = np.array(
    [[16, 16, 20], [70, 20, 150], [200, 40, 120], [250, 140, 40], [255, 240, 110]], dtype=np.float64
)
# how much of a pixel is colour: where nothing is attended to the photograph stays, dimmed
_DIM, _MOST = 0.45, 0.8
# the share of cells that are brighter than the peak: attention often has a few single cells that
# hide all others
_CLIPPED = 0.005


def draw_explanation(pixels: Pixels, explanation: Explanation) -> Image.Image:
    """The image with one region's attention over it, its box or points, its name and score."""
    attention = explanation.attention
    overlay = overlay_attention(pixels, attention.weights, extent=attention.extent)
    return draw(np.asarray(overlay), explanation.predictions)


def overlay_attention(
    pixels: Pixels, attention: NDArray[np.float32], *, extent: NDArray[np.float64] | None = None
) -> Image.Image:
    """One region's map `(h, w)` over its image: bright and warm where it attends, else dim.

    Args:
        pixels: the image.
        attention: weights from 0.
        extent: `(4,)` xyxy in pixels of the image, what the map covers; None for the whole image.
    """
    height, width = pixels.shape[:2]
    covers = np.array([0, 0, width, height]) if extent is None else extent
    x0, y0, x1, y1 = np.rint(covers).astype(int).tolist()
    peak = float(np.quantile(attention, 1 - _CLIPPED)) or float(attention.max()) or 1.0
    # resized as floats: a photograph of a thousand pixels has steps in 8 bits
    heat = Image.fromarray(np.clip(attention / peak, 0, 1).astype(np.float32))
    resized = heat.resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BICUBIC)
    strength = np.zeros((height, width), dtype=np.float64)
    # what of the map lies in the image: the rest is of padding
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    strength[top:bottom, left:right] = np.asarray(resized)[
        top - y0 : bottom - y0, left - x0 : right - x0
    ]
    strength = strength.clip(0, 1)
    colour = np.stack([np.interp(strength, _STOPS, _COLOURS[:, c]) for c in range(3)], axis=-1)
    alpha = (_DIM + (_MOST - _DIM) * strength)[..., None]
    mixed = pixels * (1 - alpha) + colour * alpha
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
