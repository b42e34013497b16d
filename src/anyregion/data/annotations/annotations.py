"""Annotated images as columns: a million regions are a few arrays, not a million objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.report import Finding
from anyregion.errors import InputError, SetAside
from anyregion.regions import Boxes, Regions
from anyregion.vocabulary import name_key


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

    def take(self, labels: Sequence[int] | NDArray[np.int64]) -> Categories:
        """The classes at `labels`, in that order."""
        at = [int(i) for i in labels]
        return Categories(
            ids=self.ids[at],
            names=tuple(self.names[i] for i in at),
            synonyms=tuple(self.synonyms[i] for i in at),
            frequency=tuple(self.frequency[i] for i in at),
        )

    def find(self, which: Iterable[int | str]) -> NDArray[np.int64]:
        """Labels of category ids (whole numbers) or names (case and underscores do not matter).

        Returns:
            `(K,)` int64, ascending, each once.

        Raises:
            InputError: an id or a name that no class has.
        """
        if isinstance(which, str):
            raise InputError(f"categories must be a list of ids or names, not the text {which!r}")
        label_of: dict[int | str, int] = {int(value): i for i, value in enumerate(self.ids)}
        label_of |= {name_key(name): i for i, name in enumerate(self.names)}
        categories = list(which)
        keys = [name_key(c) if isinstance(c, str) else int(c) for c in categories]
        if missing := [str(c) for c, k in zip(categories, keys, strict=True) if k not in label_of]:
            listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InputError(f"no such category: {listed}")
        return np.unique(np.array([label_of[key] for key in keys], dtype=np.int64))


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
        set_aside: images, regions and categories that cannot be used, and why; of very many of a
            kind the first 100, and how many others.
        findings: the same and what was mended (clipped boxes, say), counted by kind.
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
    set_aside: tuple[SetAside, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image_of(self) -> NDArray[np.int64]:
        """`(R,)` the position of each region's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def rows(self, image: int, *, crowd: bool = False) -> NDArray[np.int64]:
        """Rows of the regions of one image; those of crowds only with `crowd`."""
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

    def select(self, images: Sequence[int] | NDArray[np.int64]) -> Annotations:
        """The images at these positions, in that order, with their regions; all classes stay.

        `InputError` for a position that is not there, or is there twice.
        """
        at = np.array(images, dtype=np.int64).reshape(-1)
        if len(at) and not (at.min() >= 0 and at.max() < len(self)):
            raise InputError(f"images must be positions from 0 to {len(self) - 1}")
        if len(np.unique(at)) != len(at):
            raise InputError("an image is selected twice")
        counts = (self.starts[1:] - self.starts[:-1])[at]  # (K,) regions of each image
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # (K + 1,)
        # row k of the result is the k-th of its image, wherever that image began before
        rows = np.arange(starts[-1]) + np.repeat(self.starts[at] - starts[:-1], counts)
        return replace(
            self._take_rows(rows),
            image_ids=tuple(self.image_ids[i] for i in at),
            file_names=tuple(self.file_names[i] for i in at),
            sizes=self.sizes[at],
            starts=starts,
            negatives=tuple(self.negatives[i] for i in at) if self.negatives else (),
            not_exhaustive=tuple(self.not_exhaustive[i] for i in at) if self.not_exhaustive else (),
        )

    def keep_categories(
        self, which: Iterable[int | str], *, drop: bool = False, renumber: bool = False
    ) -> Annotations:
        """Only the regions of some classes (seen and unseen splits); every image stays.

        Args:
            which: category ids (whole numbers) or names.
            drop: leave out the regions of these classes instead, and keep all others.
            renumber: also leave the other classes out of `categories`; labels are numbered anew.

        Raises:
            InputError: an id or a name that no class has.
        """
        labels = self.categories.find(which)
        if drop:
            labels = np.setdiff1d(np.arange(len(self.categories)), labels)
        # (C,) from labels before to labels after, -1 for those left out
        new = np.full(len(self.categories), -1, dtype=np.int64)
        new[labels] = np.arange(len(labels)) if renumber else labels
        rows = np.flatnonzero(new[self.labels] >= 0)
        part = self._take_rows(rows)
        return replace(
            part,
            categories=self.categories.take(labels) if renumber else self.categories,
            # image i starts where its first row before would be inserted among the rows that stay
            starts=np.searchsorted(rows, self.starts).astype(np.int64),
            labels=new[part.labels],
            negatives=tuple(_drop_missing(new[before]) for before in self.negatives),
            not_exhaustive=tuple(_drop_missing(new[before]) for before in self.not_exhaustive),
        )

    def _take_rows(self, rows: NDArray[np.int64]) -> Annotations:
        """Some rows of the columns of regions; `starts` still has to be set."""
        masks = self.segmentations
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            region_ids=self.region_ids[rows],
            segmentations=None if masks is None else tuple(masks[i] for i in rows),
        )


def _drop_missing(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return labels[labels >= 0]
