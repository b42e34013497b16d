"""Features computed when they are asked for, and features from several readers together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import FeatureExtractor, FeatureReader, Features
from anyregion.data.image_files import image_path, read_file
from anyregion.data.load_sample import decode_sample, mirror_sample
from anyregion.errors import InputError


class OnTheFly:
    """The same arrays as from a store of this extractor, at the price of running it every time.

    Attributes:
        annotations, fingerprint: see `FeatureReader`.

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
        """See `FeatureReader`.

        Raises:
            InputError: the image cannot be used; says which, and why. `fill` sets the same aside.
        """
        path = image_path(self._folder, self.annotations.file_names[image])
        pixels, regions = decode_sample(read_file(path), path, self.annotations, image)
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
            ours, theirs = self.annotations, reader.annotations
            if ours.file_names != theirs.file_names or (
                ours.region_ids.tolist() != theirs.region_ids.tolist()
            ):
                raise InputError("the readers' images or regions differ")

    def read(self, image: int, *, flipped: bool = False) -> Features:
        """See `FeatureReader`."""
        found = [reader.read(image, flipped=flipped) for reader in self._readers]
        return {name: values for features in found for name, values in features.items()}
