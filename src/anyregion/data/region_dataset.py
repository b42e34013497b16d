"""A data set that a training draws from: annotated regions with frozen features and their names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import FeatureReader
from anyregion.data.image_files import find_image
from anyregion.data.mirror import mirror_boxes, mirror_pixels
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image
from anyregion.masks import RLE, segmentation_to_rle
from anyregion.regions import Boxes
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, name_key


@dataclass(frozen=True, eq=False)
class RegionDataset:
    """Regions of images, each with a row of a vocabulary. Made by `region_dataset`.

    A row is a region's place in the columns of `reader.annotations`. Everything can be had of an
    image or of its mirror image (`flipped`), in the same order.

    Attributes:
        name: for messages.
        reader: the annotations and their frozen features, of mirror images too where these are
            trained on.
        vocabulary: `C` names and their text embeddings; None where classes play no part.
        labels: `(R,)` per region its place in the vocabulary; -1 where it has none (its class is
            left out of the training), and for crowds. Without a vocabulary 0.
        images: `(I,)` the images that can be drawn: with features, and with a region to learn from.
        folder: of the image files; None where pixels are not needed.
        ratio: its share of the steps, against other data sets' ratios.
        repeat_threshold: of repeat-factor sampling; 0 draws all images alike.
        terms: licence or terms of use, for the card.
        mirrored: whether the reader has mirror images too.
    """

    name: str
    reader: FeatureReader
    vocabulary: EncodedVocabulary | None
    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    folder: Path | None = None
    ratio: int = 1
    repeat_threshold: float = 0.0
    terms: str = "not stated"
    mirrored: bool = True

    @property
    def annotations(self) -> Annotations:
        """The reader's."""
        return self.reader.annotations

    def labels_of(self, image: int) -> NDArray[np.int64]:
        """Labels of the image's regions without crowds, in the order of its `tokens`."""
        return self.labels[self.annotations.rows(image)]

    def labelled(self, image: int, *, flipped: bool = False) -> tuple[Boxes, NDArray[np.int64]]:
        """Boxes `(n, 4)` and labels `(n,)` of the image's regions that have a label."""
        rows = self.annotations.rows(image)
        rows = rows[self.labels[rows] >= 0]
        return self.boxes(image, rows, flipped=flipped), self.labels[rows]

    def boxes(self, image: int, rows: NDArray[np.int64], *, flipped: bool = False) -> Boxes:
        """Boxes of some of the image's regions, `(n, 4)`."""
        boxes = self.annotations.boxes[rows]
        return mirror_boxes(boxes, self.size(image)[1]) if flipped else boxes

    def rows(self, image: int, *, with_mask: bool) -> NDArray[np.int64]:
        """Rows of the image's regions that have a mask, or of those that have none; no crowds."""
        rows, masks = self.annotations.rows(image), self.annotations.segmentations
        has_mask = [masks is not None and bool(masks[row]) for row in rows.tolist()]
        matching: NDArray[np.int64] = rows[np.array(has_mask, dtype=bool) == with_mask]
        return matching

    def rle(self, image: int, row: int) -> RLE:
        """The mask of one region, not mirrored; `InputError` where it has none."""
        masks = self.annotations.segmentations
        return segmentation_to_rle(None if masks is None else masks[row], *self.size(image))

    def size(self, image: int) -> tuple[int, int]:
        """Height and width; `InputError` where the annotations do not state them."""
        height, width = self.annotations.sizes[image].tolist()
        if height < 1 or width < 1:
            name = self.annotations.file_names[image]
            raise InputError(f"{self.name}: the annotations do not state the size of {name}")
        return height, width

    def pixels(self, image: int, *, flipped: bool = False) -> Pixels:
        """The image `(height, width, 3)`; `InputError` where its file cannot be read."""
        name = self.annotations.file_names[image]
        path = None if self.folder is None else find_image(self.folder, name)
        if path is None:
            raise InputError(f"{name}: not found in {self.folder}")
        pixels = read_image(path)
        return mirror_pixels(pixels) if flipped else pixels

    def describe(self, image: int, *, flipped: bool = False) -> str:
        """The image in words, for messages."""
        mirrored = " (mirrored)" if flipped else ""
        return f"{self.annotations.file_names[image]}{mirrored} of {self.name}"


def region_dataset(
    name: str,
    reader: FeatureReader,
    vocabulary: EncodedVocabulary | None = None,
    *,
    excluded: Collection[int] = (),
    images: NDArray[np.int64] | None = None,
    folder: Path | None = None,
    ratio: int = 1,
    repeat_threshold: float = 0.0,
    terms: str = "not stated",
    mirrored: bool = True,
) -> RegionDataset:
    """Put a reader and a vocabulary together.

    Args:
        name, reader, vocabulary, folder, ratio, repeat_threshold, terms, mirrored: see
            `RegionDataset`.
        excluded: ids of categories whose regions have no label, whatever the vocabulary holds.
        images: those that have features; None for all.

    Raises:
        InputError: no region of any image has a label.
    """
    annotations = reader.annotations
    if vocabulary is None:
        label_of_category = np.zeros(len(annotations.categories), dtype=np.int64)
    else:
        label_of_category = vocabulary_labels(annotations, vocabulary.vocabulary)
    # by id, not by name: two classes may have one name
    label_of_category[np.isin(annotations.categories.ids, list(excluded))] = -1
    # a crowd's box is around many things: it shows none of them
    labels = np.where(annotations.crowd, -1, label_of_category[annotations.labels])  # (R,)
    usable = np.unique(annotations.image_of[labels >= 0])
    if images is not None:
        usable = np.intersect1d(usable, images)
    if not len(usable):
        what = "of some use" if vocabulary is None else "with a name of the vocabulary"
        raise InputError(f"{name}: no image has a region {what}: there is nothing to learn from")
    return RegionDataset(
        name, reader, vocabulary, labels, usable, folder, ratio, repeat_threshold, terms, mirrored
    )


def share_of_images(images: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Some of the images `(I,)`, in their order: `share` of them, rounded up.

    They are drawn by a fixed seed, so that a smaller share of the same images lies in a larger one:
    the more a training sees, the more of the same.
    """
    count = int(np.ceil(share * len(images)))
    drawn: NDArray[np.int64] = images[
        np.sort(np.random.default_rng(0).permutation(len(images))[:count])
    ]
    return drawn


def check_share(share: float) -> None:
    """Refuse a share of images that is none: `InputError`."""
    if not 0 < share <= 1:
        raise InputError(f"share must lie above 0, and be at most 1: {share}")


def vocabulary_labels(annotations: Annotations, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Per category its place in the vocabulary, by name whatever the case; -1 where it is not."""
    places: dict[str, int] = {}
    for place, name in enumerate(vocabulary.names):
        places.setdefault(name_key(name, vocabulary.cleaning), place)
    names = annotations.categories.names
    labels = [places.get(name_key(name, vocabulary.cleaning), -1) for name in names]
    return np.array(labels, dtype=np.int64)
