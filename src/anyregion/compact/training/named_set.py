"""A data set as `compact`'s module sees it: boxes, labels, words, stored maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.extractor import stored_maps
from anyregion.compact.image_encoder import FeaturePyramid
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.data.features import FeatureReader
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.evaluation.regions.seen_unseen import unseen_categories
from anyregion.regions import Boxes
from anyregion.vocabulary import Floats, Vocabulary, encode_vocabulary

_SMALLEST_RANDOM = 16.0  # pixels; a smaller box shows nothing that could be kept


@dataclass(frozen=True, eq=False)
class NamedSet:
    """A data set and its words.

    Attributes:
        reader: its frozen features.
        names: of all its classes.
        images: positions of the images that have features and regions of some use.
        matrix: `(C, 384)` words of the classes that take part, rows of length 1.
        row: `(classes,)` from a label to its row of the matrix; -1 where it takes no part.
        weights: `(C,)` of the classes; 1 on average over the regions.
    """

    reader: FeatureReader
    names: tuple[str, ...]
    images: NDArray[np.int64]
    matrix: Floats
    row: NDArray[np.int64]
    weights: Floats

    @property
    def taking_part(self) -> list[str]:
        """The names of the matrix' rows."""
        return [self.names[i] for i in np.argsort(self.row, kind="stable") if self.row[i] >= 0]

    def labelled(self, image: int) -> tuple[Boxes, NDArray[np.int64], tuple[int, int]]:
        """Boxes of one image that take part, their rows of the matrix, `(height, width)`."""
        annotations = self.reader.annotations
        rows = annotations.rows(image)
        labels = self.row[annotations.labels[rows]]
        rows, labels = rows[labels >= 0], labels[labels >= 0]
        height, width = annotations.sizes[image].tolist()
        return annotations.boxes[rows].copy(), labels, (height, width)

    def maps(self, image: int, *, flipped: bool = False) -> FeaturePyramid:
        """The stored maps of one image, or of its mirror image."""
        return stored_maps(self.reader.read(image, flipped=flipped))


def named_set(
    store: Store, words: CompactTextEncoder, *, unseen: str = "", class_power: float = 0.0
) -> NamedSet:
    """Open a data set.

    Args:
        store: its features, with mirror images where these are to be used.
        words: the text side.
        unseen: classes that take no part; see `RegionTaskConfig`.
        class_power: see `RegionObjective`.

    Raises:
        InputError: images of unknown size, names that repeat, or nothing to learn from.
    """
    annotations = store.annotations
    if len(annotations) and annotations.sizes.min() < 1:
        raise InputError(f"{store.folder}: images of unknown size; state them in the annotations")
    names = annotations.categories.names
    by_id = dict(zip(annotations.categories.ids.tolist(), names, strict=True))
    left_out = unseen_categories(unseen, by_id) if unseen else frozenset()
    kept = [i for i, c in enumerate(annotations.categories.ids.tolist()) if c not in left_out]
    vocabulary = Vocabulary.from_names([names[i] for i in kept])
    if len(vocabulary) != len(kept):
        raise InputError(f"{store.folder}: {vocabulary.set_aside[0]}")
    row = np.full(len(names), -1, dtype=np.int64)
    row[kept] = np.arange(len(kept))
    regions = row[annotations.labels[~annotations.crowd]]
    counts = np.bincount(regions[regions >= 0], minlength=len(kept))
    owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.starts))
    useful = owners[(row[annotations.labels] >= 0) & ~annotations.crowd]
    images = np.intersect1d(store.usable(), useful)
    if not len(images):
        raise InputError(f"{store.folder}: no image has a region to learn from")
    weights = np.maximum(counts, 1.0) ** -class_power
    weights *= counts.sum() / (weights * counts).sum()
    return NamedSet(
        reader=store,
        names=names,
        images=images,
        matrix=encode_vocabulary(vocabulary, words, cache=None).matrix,
        row=row,
        weights=weights.astype(np.float32),
    )


def check_features(stores: Sequence[Store], like: Store) -> None:
    """Refuse stores whose features are not of compact's eyes, or not of those of `like`.

    Raises:
        InputError: naming the store.
    """
    for store in stores:
        if store.fingerprint != like.fingerprint or "eyes" not in store.info.extractor:
            raise InputError(
                f"{store.folder}: not the features that compact is trained on; make the store with "
                "`anyregion cache --model compact`"
            )


def jittered(boxes: Boxes, size: tuple[int, int], most: float, draw: np.random.Generator) -> Boxes:
    """Boxes whose sides each moved by up to `most` of the box; those left too thin stay."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + draw.uniform(-most, most, boxes.shape) * sides
    height, width = size
    moved = moved.clip(0, [width, height, width, height])
    thin = (moved[:, 2:] - moved[:, :2] < 1).any(axis=1)
    moved[thin] = boxes[thin]
    return moved


def random_boxes(count: int, size: tuple[int, int], draw: np.random.Generator) -> Boxes:
    """Boxes between two random points each, at least 16 pixels wide and high."""
    height, width = size
    smallest = np.minimum(_SMALLEST_RANDOM, [width, height])
    corners = np.sort(draw.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    low = np.minimum(corners[:, 0], [width, height] - smallest)
    high = np.maximum(corners[:, 1], low + smallest)
    boxes: Boxes = np.concatenate([low, high], axis=1)
    return boxes
