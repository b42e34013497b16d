"""One annotated image, read and checked: what the extractors are given, by both readers alike."""

from __future__ import annotations

import hashlib
from pathlib import Path

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.mirror import mirror_pixels, mirror_regions
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image, size_of
from anyregion.regions import Regions

HASH_BYTES = 16


def short_hash(*parts: bytes | memoryview) -> bytes:
    """The first 16 bytes of SHA-256: processors have instructions for it, as for no other hash."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()[:HASH_BYTES]


def read_file(path: Path) -> bytes:
    """The bytes of a file; `InputError` names it."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # `ValueError`: a name that no file can have
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def decode_input(
    content: bytes, path: Path, annotations: Annotations, image: int
) -> tuple[Pixels, Regions]:
    """The upright pixels and the regions that are no crowd, clipped to the image.

    Raises:
        InputError: the image is broken or of another size than annotated, or one of its regions
            does not lie in it: tokens of other places than meant would be learned from.
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


def mirrored_input(pixels: Pixels, regions: Regions) -> tuple[Pixels, Regions]:
    """The mirror image with its regions."""
    return mirror_pixels(pixels), mirror_regions(regions, pixels.shape[1])
