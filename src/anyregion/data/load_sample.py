"""One annotated image, decoded and checked: the input of the extractors, for every reader."""

from __future__ import annotations

from pathlib import Path

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.mirror import mirror_pixels, mirror_regions
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image, size_of
from anyregion.regions import Regions


def decode_sample(
    content: bytes, path: Path, annotations: Annotations, image: int
) -> tuple[Pixels, Regions]:
    """The upright pixels and the regions that are no crowd, clipped to the image.

    Args:
        content: of the image file.
        path: of the image file, for messages.
        annotations, image: of which data set, and its position there.

    Raises:
        InputError: the image is broken or of another size than annotated, or one of its regions
            does not lie in it: tokens of other places than annotated would be learned from.
    """
    try:
        pixels = read_image(content)
    except InputError as error:
        raise InputError(str(error).replace("<bytes>", str(path), 1)) from None
    height, width = size_of(pixels)
    stated = tuple(annotations.sizes[image].tolist())
    if min(stated) >= 0 and stated != (height, width):
        raise InputError(
            f"{path}: {width} x {height}, but the annotations say {stated[1]} x {stated[0]}"
        )
    try:
        regions, outside = annotations.regions(image).fit(height, width)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if outside:
        raise InputError(f"{path}: {outside[0]}")
    return pixels, regions


def mirror_sample(pixels: Pixels, regions: Regions) -> tuple[Pixels, Regions]:
    """The mirror image with its regions."""
    return mirror_pixels(pixels), mirror_regions(regions, pixels.shape[1])
