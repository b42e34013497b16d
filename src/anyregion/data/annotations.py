"""Annotated images as columns: a million regions are a few arrays, not a million objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import SetAside
from anyregion.regions import Boxes, Regions


@dataclass(frozen=True, eq=False)
class Categories:
    """The classes of a data set, in the file's order. Labels are positions in these columns.

    Attributes:
        ids: `(C,)` int64, as the file states them; holes are allowed.
        names: what they are called.
        synonyms: per class other names (LVIS, OpenImages), often none.
        frequency: per class `r`, `c` or `f` (LVIS), or an empty text.
    """

    ids: NDArray[np.int64]
    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    frequency: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotated images of one data set. The regions of image `i` are rows
    `starts[i]:starts[i + 1]` of every column of regions.

    Attributes:
        categories: the classes.
        image_ids: per image its id, as text.
        file_names: per image, below the images' folder.
        sizes: `(I, 2)` int64, height and width; -1 where the file does not state them.
        starts: `(I + 1,)` int64.
        boxes: `(R, 4)` float64, xyxy in pixels.
        labels: `(R,)` int64, positions in `categories`.
        crowd: `(R,)` bool: a box around many things; evaluators ignore it, training leaves it out.
        areas: `(R,)` float64, in pixels, as the file states them (of the mask, where it has one).
        region_ids: `(R,)` int64.
        segmentations: per region COCO polygons or RLE as they are in the file, or None; the whole
            column is None where masks were not read.
        negatives, not_exhaustive: per image the labels that were looked for and are absent, and
            those of which only some regions are annotated (LVIS); empty elsewhere.
        set_aside: images, regions and categories that cannot be used, and why.
    """

    categories: Categories
    image_ids: tuple[str, ...]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: Boxes
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    region_ids: NDArray[np.int64]
    segmentations: tuple[Any, ...] | None = None
    negatives: tuple[NDArray[np.int64], ...] = ()
    not_exhaustive: tuple[NDArray[np.int64], ...] = ()
    set_aside: tuple[SetAside, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, image: int, *, crowd: bool = False) -> NDArray[np.int64]:
        """Rows of the regions of one image; those of crowds only if asked for."""
        rows = np.arange(self.starts[image], self.starts[image + 1], dtype=np.int64)
        return rows if crowd else rows[~self.crowd[rows]]

    def regions(self, image: int) -> Regions:
        """The regions of one image that are no crowd, as box prompts, with their category ids."""
        rows = self.rows(image)
        return Regions.from_boxes(
            self.boxes[rows],
            ids=self.region_ids[rows].tolist(),
            categories=self.categories.ids[self.labels[rows]],
        )
