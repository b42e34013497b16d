"""Images with a class for every pixel as they are trained on: scaled, cropped, mirrored."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anyregion.data.semantic.dataset import VOID, ClassMap
from anyregion.images import Pixels, size_of
from anyregion.transfer.config import CropConfig


def scaled_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """`(height, width)` with the short side at `short_side`; as it is without one."""
    if short_side is None:
        return size
    factor = short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_image(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """An image at `(height, width)`, bilinear with antialiasing; itself where it has that size."""
    if size_of(pixels) == size:
        return pixels
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def resize_classes(classes: ClassMap, size: tuple[int, int]) -> ClassMap:
    """A class map at `(height, width)`: each pixel takes the class at its place."""
    image = Image.fromarray(classes).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(image, dtype=np.int32)


def random_crop(
    pixels: Pixels,
    classes: ClassMap,
    config: CropConfig,
    draw: np.random.Generator,
    *,
    fill: tuple[int, int, int],
) -> tuple[Pixels, ClassMap]:
    """Scale, crop and mirror an image and its classes alike.

    Args:
        fill: the colour beyond the image's border; the class there is void.

    Returns:
        `(h, w, 3)` and `(h, w)` of the crop's size.
    """
    height, width = scaled_size(size_of(pixels), config.short_side)
    # each scale of the range is as likely on a logarithmic rule as its inverse would be
    factor = float(np.exp(draw.uniform(*np.log(config.scale))))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels, classes = resize_image(pixels, size), resize_classes(classes, size)
    crop = config.crop
    top, left = (int(draw.integers(max(0, s - c) + 1)) for s, c in zip(size, crop, strict=True))
    mirrored = draw.random() < config.flip
    pixels = pixels[top : top + crop[0], left : left + crop[1]]
    classes = classes[top : top + crop[0], left : left + crop[1]]
    if mirrored:
        pixels, classes = pixels[:, ::-1], classes[:, ::-1]
    filled = np.empty((*crop, 3), dtype=np.uint8)
    filled[:] = fill
    labelled = np.full(crop, VOID, dtype=np.int32)
    filled[: pixels.shape[0], : pixels.shape[1]] = pixels
    labelled[: classes.shape[0], : classes.shape[1]] = classes
    return filled, labelled
