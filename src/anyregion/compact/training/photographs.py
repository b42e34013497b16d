"""Images with their frozen maps, in one geometry: what the heads' trainings read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.extractor import stored_maps
from anyregion.compact.image_encoder import FeaturePyramid
from anyregion.data.features import FeatureReader
from anyregion.data.image_files import find_image
from anyregion.data.mirror import mirror_boxes, mirror_pixels
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image
from anyregion.masks import RLE, segmentation_to_rle
from anyregion.regions import Boxes


@dataclass(frozen=True, eq=False)
class Photographs:
    """One data set: its annotations with the frozen maps, and where its images are.

    Attributes:
        reader: gives `stride8`, `stride16`, `stride32`, `last` and `span`.
        folder: of the image files; None where pixels are not needed.
    """

    reader: FeatureReader
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.reader.annotations)

    def maps(self, image: int, *, flipped: bool = False) -> FeaturePyramid:
        """The frozen maps of an image or of its mirror image."""
        return stored_maps(self.reader.read(image, flipped=flipped))

    def pixels(self, image: int, *, flipped: bool = False) -> Pixels:
        """The image or its mirror image.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """
        name = self.reader.annotations.file_names[image]
        path = None if self.folder is None else find_image(self.folder, name)
        if path is None:
            raise InputError(f"{name}: not found in {self.folder}")
        pixels = read_image(path)
        return mirror_pixels(pixels) if flipped else pixels

    def size(self, image: int) -> tuple[int, int]:
        """Height and width, as the annotations state them.

        Raises:
            InputError: they do not.
        """
        height, width = (int(v) for v in self.reader.annotations.sizes[image])
        if height < 1 or width < 1:
            name = self.reader.annotations.file_names[image]
            raise InputError(f"{name}: the annotations do not state its size")
        return height, width

    def boxes(self, image: int, rows: NDArray[np.int64], *, flipped: bool = False) -> Boxes:
        """Boxes of some regions, `(n, 4)`."""
        boxes = self.reader.annotations.boxes[rows]
        return mirror_boxes(boxes, self.size(image)[1]) if flipped else boxes

    def rle(self, image: int, row: int) -> RLE:
        """The mask of one region, not mirrored."""
        found = self.reader.annotations.segmentations
        return segmentation_to_rle(None if found is None else found[row], *self.size(image))

    def rows(self, image: int, *, with_mask: bool | None = None) -> NDArray[np.int64]:
        """Rows of the image's regions, without crowds; only those with a mask, or without one."""
        annotations = self.reader.annotations
        rows = annotations.rows(image)
        if with_mask is None:
            return rows
        masks = annotations.segmentations
        has = [bool(masks is not None and masks[row]) for row in rows.tolist()]
        chosen: NDArray[np.int64] = rows[np.equal(np.array(has, dtype=bool), with_mask)]
        return chosen

    def describe(self, image: int, flipped: bool) -> str:
        """The image in words, for messages."""
        return self.reader.annotations.file_names[image] + (" (mirrored)" if flipped else "")
