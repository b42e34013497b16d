"""Features of frozen models: protocols of extractors and readers, and readers without a store."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.image_files import image_path, read_file
from anyregion.data.mirror import mirror_pixels, mirror_regions
from anyregion.errors import InputError, InputWarning
from anyregion.images import AS_STORED, UNSURE_TURN, Pixels, decode
from anyregion.regions import Regions

# named arrays of one image, float16 (but for single figures such as `compact`'s `span`, float32);
# what is called `tokens` has one row a region
Features: TypeAlias = Mapping[str, NDArray[Any]]


class FeatureExtractor(Protocol):
    """Frozen models that compute everything a training needs of an image."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a number would: models, weights, sizes."""

    def describe(self) -> Mapping[str, str]:
        """The parts behind the fingerprint, in words: `{"vlm": "NAME (hash)", ...}`."""

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """The features of each image with its regions; an image may have none.

        Raises:
            InputError: a number beyond half precision's range.
        """


class FeatureReader(Protocol):
    """Features of the images of one data set: from the store, or computed when they are read.

    Attributes:
        annotations: what the features belong to.
        fingerprint: of the extractor.
    """

    annotations: Annotations
    fingerprint: str

    def read(self, image: int, *, flipped: bool = False) -> Features:
        """The features of one image, or of its mirror image (left and right exchanged).

        The rows of `tokens` are `annotations.rows(image)`, in both cases. Safe in several threads.

        Raises:
            InputError: the image or its shard cannot be read; says which.
        """


class OnTheFly:
    """The same arrays as from a store of this extractor, at the price of running it every time.

    Args:
        extractor: its models must be safe to call in several threads, as those here are.
        annotations: what to read.
        images_folder: where file names start from; see `find_image`.
    """

    def __init__(
        self, extractor: FeatureExtractor, annotations: Annotations, images_folder: str | Path
    ) -> None:
        self.annotations = annotations
        self.fingerprint = extractor.fingerprint
        self._extractor = extractor
        self._folder = Path(images_folder)

    def read(self, image: int, *, flipped: bool = False) -> Features:
        """See `FeatureReader`."""
        path = image_path(self._folder, self.annotations.file_names[image])
        pixels, regions = load_sample(read_file(path), path, self.annotations, image)
        if flipped:
            pixels, regions = mirror_sample(pixels, regions)
        try:
            return self._extractor.extract([pixels], [regions])[0]
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


class CombinedReader:
    """Several readers as one: tokens from the store, feature maps on the fly, for instance.

    Args:
        readers: of the same images; where two have an array of one name, the later one's counts.

    Raises:
        InputError: readers of different images or regions.
    """

    def __init__(self, readers: Sequence[FeatureReader]) -> None:
        if not readers:
            raise InputError("no reader to read from")
        self.annotations = readers[0].annotations
        self.fingerprint = " + ".join(reader.fingerprint for reader in readers)
        self._readers = tuple(readers)
        for reader in readers[1:]:
            first, other = self.annotations, reader.annotations
            if first.file_names != other.file_names or (
                first.region_ids.tolist() != other.region_ids.tolist()
            ):
                raise InputError("the readers' images or regions differ")

    def read(self, image: int, *, flipped: bool = False) -> Features:
        """See `FeatureReader`."""
        features: dict[str, NDArray[Any]] = {}
        for reader in self._readers:
            features |= reader.read(image, flipped=flipped)
        return features


def load_sample(
    content: bytes, path: Path, annotations: Annotations, image: int
) -> tuple[Pixels, Regions]:
    """The upright pixels of an image file and its regions that are no crowd, clipped to it.

    Raises:
        InputError: the image is broken or of another size than annotated, or one of its regions
            does not lie in it: tokens of other places than annotated would be learned from.
    """
    try:
        decoded = decode(content)
    except InputError as error:
        raise InputError(str(error).replace("<bytes>", str(path), 1)) from None
    size = decoded.size
    height, width = size.upright
    stated = tuple(annotations.sizes[image].tolist())
    if min(stated) >= 0 and stated != (height, width):
        raise InputError(
            f"{path}: {width} x {height}, but the annotations say {stated[1]} x {stated[0]}"
            + AS_STORED * (stated == size.stored)
        )
    if size.hides_turn(None if min(stated) < 0 else stated):
        # one text for a folder: Python warns once of it, in whatever thread
        text = f"EXIF turns images in {path.parent}, {UNSURE_TURN} (`anyregion data check`: which)"
        warnings.warn(text, InputWarning, stacklevel=2)
    try:
        regions, outside = annotations.regions(image).fit(height, width)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # one region outside spoils the image: rows of tokens are rows of the annotations
    if outside:
        raise InputError(f"{path}: {outside[0]}")
    return decoded.pixels, regions


def mirror_sample(pixels: Pixels, regions: Regions) -> tuple[Pixels, Regions]:
    """The mirror image with its regions."""
    return mirror_pixels(pixels), mirror_regions(regions, pixels.shape[1])


def to_half(name: str, values: ArrayLike) -> NDArray[np.float16]:
    """Round to half precision; `InputError` for NaN, and for numbers beyond 65,504."""
    # an overflow becomes infinite here, and an error that names the array below
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, dtype=np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{name}: holds NaN or numbers that half precision cannot hold")
    return half
