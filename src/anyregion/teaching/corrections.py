"""`Corrections`: regions whose right name somebody said, with the features they were seen by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from anyregion.regions import Boxes, Regions
from anyregion.teaching.features import Layout

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Labels = NDArray[np.int64]

NONE_OF_THESE = "none of these"
"""The name that a region which has none of the names is given in files of corrections."""


@dataclass(frozen=True)
class CorrectedImage:
    """An image that corrections are of.

    Attributes:
        name: what its file is called, as the corrections say; or its digest.
        digest: SHA-256 of its file's bytes, or of its pixels where it has no file.
        size: `(height, width)`.
    """

    name: str
    digest: str
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Corrections:
    """Corrected regions, in the order in which they were corrected first.

    Attributes:
        layout: of the rows of features.
        rows: `(n, F)` float16, features (see `feature_rows`).
        embeddings: `(n, E)` float16, in the space of the words.
        labels: `(n,)`, positions of the right names; -1: none of these.
        images: the images, by their first correction.
        image_of: `(n,)`, positions in `images`.
        boxes: `(n, 4)`, xyxy in pixels.
        ids: the callers' ids of the regions.
        keys: what tells regions of an image apart: a hash of the prompt.
    """

    layout: Layout
    rows: Halves
    embeddings: Halves
    labels: Labels
    images: tuple[CorrectedImage, ...] = ()
    image_of: Labels = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4)))
    ids: tuple[int | str, ...] = ()
    keys: tuple[str, ...] = ()

    @classmethod
    def empty(cls, layout: Layout, width: int) -> Corrections:
        """None yet; of rows of that layout, and embeddings so wide."""
        features = sum(w for _, w in layout)
        return cls(
            layout,
            np.zeros((0, features), dtype=np.float16),
            np.zeros((0, width), dtype=np.float16),
            np.zeros(0, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def positions(self, digest: str) -> dict[str, int]:
        """By key, where each corrected region of the image with that digest is."""
        image = next((i for i, m in enumerate(self.images) if m.digest == digest), None)
        return {self.keys[i]: int(i) for i in np.flatnonzero(self.image_of == image)}

    def relabel(self, positions: Sequence[int], labels: Labels) -> Corrections:
        """Other names for regions that are there."""
        changed = self.labels.copy()
        changed[list(positions)] = labels
        return replace(self, labels=changed)

    def append(
        self,
        image: CorrectedImage,
        regions: Regions,
        labels: Labels,
        rows: Floats,
        embeddings: Floats,
        boxes: Boxes,
    ) -> Corrections:
        """With regions of one image, none of which is there."""
        digests = [m.digest for m in self.images]
        images = self.images
        if image.digest not in digests:
            images, digests = (*images, image), [*digests, image.digest]
        place = np.full(len(labels), digests.index(image.digest), dtype=np.int64)
        return replace(
            self,
            rows=np.concatenate([self.rows, rows.astype(np.float16)]),
            embeddings=np.concatenate([self.embeddings, embeddings.astype(np.float16)]),
            labels=np.concatenate([self.labels, labels]),
            images=images,
            image_of=np.concatenate([self.image_of, place]),
            boxes=np.concatenate([self.boxes, boxes]),
            ids=(*self.ids, *regions.ids),
            keys=(*self.keys, *region_keys(regions)),
        )

    def without(self, positions: Sequence[int]) -> Corrections:
        """Without some regions, and without images that have none any more."""
        kept = np.setdiff1d(np.arange(len(self)), np.asarray(positions, dtype=np.int64))
        used, image_of = np.unique(self.image_of[kept], return_inverse=True)
        return replace(
            self,
            rows=self.rows[kept],
            embeddings=self.embeddings[kept],
            labels=self.labels[kept],
            images=tuple(self.images[i] for i in used),
            image_of=image_of.astype(np.int64),
            boxes=self.boxes[kept],
            ids=tuple(self.ids[i] for i in kept),
            keys=tuple(self.keys[i] for i in kept),
        )


def region_keys(regions: Regions) -> tuple[str, ...]:
    """Per region a hash of its prompt: its box to a hundredth of a pixel, its points, its mask."""
    keys: list[str] = []
    for i, box in enumerate(np.round(regions.boxes, 2)):
        points = regions.points[i].round(2).tolist(), regions.point_labels[i].tolist()
        content = repr(((box + 0.0).tolist(), points, regions.masks[i]))
        keys.append(hashlib.sha256(content.encode()).hexdigest()[:32])
    return tuple(keys)
