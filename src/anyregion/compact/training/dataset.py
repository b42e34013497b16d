"""The data sets of `compact`'s trainings: annotations, stored maps, and the regions of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.data.features import FeatureReader
from anyregion.data.image_files import find_image
from anyregion.data.mirror import mirror_boxes, mirror_pixels
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.evaluation.regions.seen_unseen import unseen_categories
from anyregion.images import Pixels, read_image
from anyregion.masks import RLE, segmentation_to_rle
from anyregion.regions import Boxes
from anyregion.training.seeds import generator
from anyregion.vocabulary import Floats, Vocabulary, encode_vocabulary


@dataclass(frozen=True, eq=False)
class CompactDataset:
    """Annotations with the stored maps of their images, and where the images are.

    Attributes:
        reader: gives `stride8`, `stride16`, `stride32`, `last` and `span` (see `CompactExtractor`).
        folder: of the image files; None where pixels are not needed.
    """

    reader: FeatureReader
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.reader.annotations)

    def pyramid(self, image: int, *, flipped: bool = False) -> FeaturePyramid:
        """The stored maps of an image or of its mirror image, float32 again, without a frame."""
        features = self.reader.read(image, flipped=flipped)
        height, width = (float(v) for v in np.asarray(features["span"]).reshape(-1))
        maps = {name: np.asarray(features[name], dtype=np.float32) for name in CHANNELS}
        return FeaturePyramid(maps, (height, width), self.size(image))

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
        height, width = self.reader.annotations.sizes[image].tolist()
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
        masks = self.reader.annotations.segmentations
        return segmentation_to_rle(None if masks is None else masks[row], *self.size(image))

    def rows(self, image: int, *, with_mask: bool | None = None) -> NDArray[np.int64]:
        """Rows of the image's regions, without crowds; only those with a mask, or without one."""
        annotations = self.reader.annotations
        rows = annotations.rows(image)
        if with_mask is None:
            return rows
        masks = annotations.segmentations
        has_mask = np.array([bool(masks is not None and masks[row]) for row in rows], dtype=bool)
        matching: NDArray[np.int64] = rows[has_mask == with_mask]
        return matching

    def describe(self, image: int, flipped: bool) -> str:
        """The image in words, for messages."""
        return self.reader.annotations.file_names[image] + (" (mirrored)" if flipped else "")


@dataclass(frozen=True, eq=False)
class NamedDataset:
    """A data set whose classes have text embeddings.

    Attributes:
        data: annotations and maps.
        images: positions of the images that have features and regions of a class that takes part.
        names: `C` classes that take part.
        matrix: `(C, 384)` their text embeddings, rows of length 1.
        row_of_label: `(classes,)` from a label to its row of the matrix; -1 where it takes no part.
        weights: `(C,)` of the classes; 1 on average over the regions.
    """

    data: CompactDataset
    images: NDArray[np.int64]
    names: tuple[str, ...]
    matrix: Floats
    row_of_label: NDArray[np.int64]
    weights: Floats

    def labelled(self, image: int, *, flipped: bool = False) -> tuple[Boxes, NDArray[np.int64]]:
        """Boxes of one image (or its mirror image) that take part, and their rows of the matrix."""
        annotations = self.data.reader.annotations
        rows = annotations.rows(image)
        labels = self.row_of_label[annotations.labels[rows]]
        boxes = annotations.boxes[rows[labels >= 0]]
        if flipped:
            boxes = mirror_boxes(boxes, int(annotations.sizes[image, 1]))
        return boxes, labels[labels >= 0]


def open_named_dataset(
    store: Store, text_encoder: CompactTextEncoder, *, unseen: str = "", class_power: float = 0.0
) -> NamedDataset:
    """A store as a data set whose classes are named.

    Args:
        store: its features, with mirror images where these are to be used.
        text_encoder: for the names.
        unseen: classes that take no part; see `RegionTaskConfig`.
        class_power: see `RegionObjective`.

    Raises:
        InputError: images of unknown size, names that repeat, or nothing to learn from.
    """
    annotations = store.annotations
    if len(annotations) and annotations.sizes.min() < 1:
        raise InputError(f"{store.folder}: images of unknown size; state them in the annotations")
    ids, names = annotations.categories.ids.tolist(), annotations.categories.names
    excluded = unseen_categories(unseen, dict(zip(ids, names, strict=True))) if unseen else ()
    labels = [label for label, category in enumerate(ids) if category not in excluded]
    vocabulary = Vocabulary.from_names([names[label] for label in labels])
    if len(vocabulary) != len(labels):
        raise InputError(f"{store.folder}: {vocabulary.set_aside[0]}")
    row_of_label = np.full(len(names), -1, dtype=np.int64)
    row_of_label[labels] = np.arange(len(labels))
    usable = (row_of_label[annotations.labels] >= 0) & ~annotations.crowd  # (R,)
    image_of = np.repeat(np.arange(len(annotations)), np.diff(annotations.starts))  # (R,)
    images = np.intersect1d(store.usable(), image_of[usable])
    if not len(images):
        raise InputError(f"{store.folder}: no image has a region to learn from")
    counts = np.bincount(row_of_label[annotations.labels[usable]], minlength=len(labels))
    weights = np.maximum(counts, 1.0) ** -class_power  # (C,)
    weights *= counts.sum() / (weights * counts).sum()
    return NamedDataset(
        data=CompactDataset(store),
        images=images,
        names=tuple(names[label] for label in labels),
        matrix=encode_vocabulary(vocabulary, text_encoder, cache=None).matrix,
        row_of_label=row_of_label,
        weights=weights.astype(np.float32),
    )


def check_features(stores: Sequence[Store], like: Store) -> None:
    """Refuse stores whose features are not of compact's image encoder, or not of that of `like`.

    Raises:
        InputError: naming the store.
    """
    for store in stores:
        # `eyes` is what `CompactExtractor.describe` calls the image encoder
        if store.fingerprint != like.fingerprint or "eyes" not in store.info.extractor:
            raise InputError(
                f"{store.folder}: not the features that compact is trained on; make the store with "
                "`anyregion cache --model compact`"
            )


@dataclass(frozen=True)
class SampledRegions:
    """Some regions of one image, at one place of a training.

    Attributes:
        kind: the name of its sampler.
        position: how many items of the kind came before it; what is random about it follows from
            both.
        image: of the data set.
        flipped: whether it is the mirror image.
        rows: of the annotations.
    """

    kind: str
    position: int
    image: int
    flipped: bool
    rows: tuple[int, ...]


class RegionSampler:
    """Every region once an epoch, in an order of its own, the image mirrored in every other epoch.

    It has no state: an item follows from the seed and its position alone.

    Args:
        rows: per image the rows to train on; images without any are left out.
        at_most: regions of an image in one item; None for all.
        seed: of everything random.
        kind: a name, so that two of them in one training differ.

    Raises:
        InputError: no image has a row.
    """

    def __init__(
        self,
        rows: Sequence[NDArray[np.int64]],
        *,
        at_most: int | None,
        seed: int,
        kind: str = "rows",
    ) -> None:
        self._rows = rows
        self._at_most = at_most
        self._seed = seed
        self._kind = kind
        self._images = [i for i, of_image in enumerate(rows) if len(of_image)]
        self.items = sum(-(-len(rows[i]) // (at_most or len(rows[i]))) for i in self._images)
        if not self.items:
            raise InputError("no image has a region to train on")
        # reader threads are at most one epoch apart
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def item(self, position: int) -> SampledRegions:
        """The item that comes after `position` others."""
        epoch, place = divmod(position, self.items)
        image, rows = self._epoch(epoch)[place]
        flipped = bool((epoch + image + self._seed) % 2)
        return SampledRegions(self._kind, position, image, flipped, rows)

    def _shuffled(self, epoch: int) -> list[tuple[int, tuple[int, ...]]]:
        random = generator(self._seed, self._kind, epoch)
        items = []
        for image in self._images:
            rows = random.permutation(self._rows[image]).tolist()
            step = self._at_most or len(rows)
            items += [(image, tuple(rows[s : s + step])) for s in range(0, len(rows), step)]
        return [items[i] for i in random.permutation(len(items))]
