"""The builder of `Annotations` from what the readers of files hand over; checks it on the way.

Works on columns of all regions: a million take about a second, and no object each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.annotations.report import Findings, Kind, skipped_items
from anyregion.files import valid_text
from anyregion.vocabulary import name_key

MALFORMED_ROWS = Kind("malformed entries", True, "mend or remove them in the annotation file")
IMAGE_ID_TWICE = Kind(
    "images whose id is listed twice", True, "give every image an id of its own; the first is kept"
)
IMAGE_WITHOUT_NAME = Kind(
    "images without a file name", True, "state file_name (or LVIS's coco_url) for each"
)
CATEGORY_ID_TWICE = Kind(
    "categories whose id is listed twice", True, "give every class an id of its own"
)
NAME_TWICE = Kind(
    "categories of the same name",
    True,
    "they were merged into the first: one name can stand for one class only. Where two things are "
    "meant, tell them apart: 'bat (animal)', 'bat (sport)'",
)
NAME_EMPTY = Kind("categories without a name", True, "name them; their regions are left out")
GROUP_OF_CLASSES = Kind(
    "entries that name the group of classes and have no regions",
    False,
    "nothing: exporters add one in place of a background; it is left out",
)
UNKNOWN_LISTED = Kind(
    "unknown categories among neg_category_ids or not_exhaustive_category_ids",
    True,
    "list those classes",
)
UNKNOWN_IMAGE = Kind(
    "regions of unknown images", True, "list those images, or remove the regions of a wrong split"
)
LOST_IMAGE = Kind(
    "regions of images that were left out", True, "they come back once the images are mended"
)
UNKNOWN_CATEGORY = Kind("regions of unknown categories", True, "list the classes they are of")
NO_LABEL = "(no label)"
"""What a region that nobody named is called among category keys; no category is."""
UNNAMED = Kind(
    "regions that nobody named",
    True,
    "name them in the tool that drew them, or with `anyregion recognize --regions`",
)
NOT_FINITE = Kind("boxes that are not finite", True, "remove them, or write numbers")
NO_AREA = Kind(
    "boxes that are empty or inverted",
    True,
    "COCO boxes are x, y, width, height: corners in their place look like this",
)
OUTSIDE = Kind(
    "boxes wholly outside the image",
    True,
    "was the image cropped or resized after it was annotated?",
)
FAR_OUTSIDE = Kind(
    "boxes that reach farther outside the image than twice its size",
    True,
    "were they drawn on another size of the image? Scale them, or state that size",
)
OVER_BORDER = Kind(
    "boxes that reach over the border by more than a pixel", False, "nothing: they are clipped"
)
OTHER_CONVENTION = Kind(
    "files whose boxes look like another convention's",
    True,
    "COCO boxes are x, y, width, height; a detector's {image: {boxes: ...}} are x0, y0, x1, y1",
)
REGION_ID_TWICE = Kind(
    "regions whose id is listed twice", True, "the later ones got new ids; give each its own"
)
WITHOUT_ID = Kind("regions without a whole number as id", False, "nothing: they were numbered")
# new ids count up from the largest, and must fit into 64 bits
_LARGEST_ID = 2**62


@dataclass(frozen=True)
class CategoryRecord:
    """A class as a file lists it; `key` is what its regions call it."""

    key: str
    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    frequency: str = ""


@dataclass(frozen=True)
class ImageRecord:
    """An image as a file lists it; `key` is what its regions call it.

    `file_name` is None where the layout has no names of images, and empty where one is missing. An
    image that is `left_out` was reported by the reader: its regions go with it.
    """

    key: str
    file_name: str | None
    size: tuple[int, int] = (-1, -1)
    negatives: Sequence[str] = ()
    not_exhaustive: Sequence[str] = ()
    left_out: bool = False


@dataclass(frozen=True, eq=False)
class RegionColumns:
    """The regions of a file, in its order.

    Attributes:
        image_keys, category_keys: the distinct keys that regions state.
        images, categories: `(R,)` int64, positions in those.
        boxes: `(R, 4)` float64, xyxy in pixels, unchecked.
        crowd: `(R,)` bool.
        areas: `(R,)` float64; NaN where not stated.
        ids: `(R,)` int64, where `has_id`.
        has_id: `(R,)` bool.
        segmentations: per region, or None where masks are not read.
        stated_ids: per region the id as the file states it, or its place (`#3`); None where
            nobody needs it.
        scores: per region what the file states, unchecked, or None.
        corners: the file states x0, y0, x1, y1; else x, y, width, height.
        ids_by_image: the stated ids are each image's own, and repeat in others.
        sides: `(R, 2)` width and height as a file of prompts states them, or None: what evaluators
            compute with, for the difference of two corners may be another in its last digit.
        mask_sizes: by row the height and width that the mask states from which the box is.
    """

    image_keys: Sequence[str]
    category_keys: Sequence[str]
    images: NDArray[np.int64]
    categories: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    ids: NDArray[np.int64]
    has_id: NDArray[np.bool_]
    segmentations: Sequence[Any] | None = None
    stated_ids: Sequence[Any] | None = None
    scores: Sequence[Any] | None = None
    corners: bool = False
    ids_by_image: bool = False
    sides: NDArray[np.float64] | None = None
    mask_sizes: Mapping[int, tuple[Any, Any]] = field(default_factory=dict)

    def select(self, rows: NDArray[np.int64]) -> RegionColumns:
        """The regions at these positions, in that order."""

        def pick(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[row] for row in rows.tolist()]

        sizes = self.mask_sizes
        return replace(
            self,
            images=self.images[rows],
            categories=self.categories[rows],
            boxes=self.boxes[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            ids=self.ids[rows],
            has_id=self.has_id[rows],
            segmentations=pick(self.segmentations),
            stated_ids=pick(self.stated_ids),
            scores=pick(self.scores),
            sides=None if self.sides is None else self.sides[rows],
            mask_sizes={i: sizes[row] for i, row in enumerate(rows.tolist()) if row in sizes},
        )


@dataclass(frozen=True, eq=False)
class AnnotationRecords:
    """What a file of annotations lists, read and not yet checked as a whole.

    Attributes:
        images, categories, regions: in the file's order.
        findings: what the reader could not read.
    """

    images: Sequence[ImageRecord]
    categories: Sequence[CategoryRecord]
    regions: RegionColumns
    findings: Findings


def build_annotations(records: AnnotationRecords, *, clip: bool = True) -> Annotations:
    """Check everything, leave out what cannot be used, and sort the regions by image.

    What is wrong is added to the records' findings. With `clip`, boxes that reach over the border
    are clipped, and those that reach too far are left out.
    """
    regions, findings = records.regions, records.findings
    merged_categories, label_of = _merge_categories(records.categories, findings)
    merged_images, position, left_out = _merge_images(records.images, findings)
    names = [record.file_name or "" for record in merged_images]
    sizes = np.array([record.size for record in merged_images], dtype=np.int64).reshape(-1, 2)

    # (R,) each: position of the image and label; -1 where the file lists no such image or class
    image = _lookup(regions.image_keys, position)[regions.images]
    label = _lookup(regions.category_keys, label_of)[regions.categories]
    without_name = np.array([key == NO_LABEL for key in regions.category_keys], dtype=bool)
    unnamed = (label < 0) & without_name[regions.categories]
    image_left_out = np.array([key in left_out for key in regions.image_keys], dtype=bool)

    def describe(row: int) -> str:
        region = f"region {regions.ids[row]}" if regions.has_id[row] else f"region #{row}"
        return f"{names[image[row]]}, {region}" if image[row] >= 0 else region

    def box(row: int) -> str:
        return ", ".join(f"{value:.6g}" for value in regions.boxes[row])

    def image_key(row: int) -> str:
        return regions.image_keys[int(regions.images[row])]

    def category_key(row: int) -> str:
        return regions.category_keys[int(regions.categories[row])]

    boxes = regions.boxes  # (R, 4)
    clipped = clip_boxes(boxes, sizes, image)
    # infinite boxes are reported below, not warned of by numpy
    with np.errstate(over="ignore", invalid="ignore"):
        infinite = ~np.isfinite(boxes.sum(axis=1))
        beyond = np.abs(clipped - boxes)  # (R, 4) pixels outside the image
        over = beyond.max(axis=1, initial=0) > 1
        # (R,) by more than twice the image's own side, where that is known
        far = np.any(beyond > 2 * np.tile(_limits(sizes, image), 2), axis=1)
    # in this order: a region is reported for the first thing that is wrong with it
    faults: list[tuple[Kind, NDArray[np.bool_], str, Callable[[int], str]]] = [
        (LOST_IMAGE, image_left_out[regions.images], "its image {} was left out", image_key),
        (UNKNOWN_IMAGE, image < 0, "unknown image id {}", image_key),
        (UNNAMED, unnamed, "no name", category_key),
        (UNKNOWN_CATEGORY, label < 0, "unknown category id {}", category_key),
        (NOT_FINITE, infinite, "box {} (xyxy) is not finite", box),
        (NO_AREA, without_area(boxes), "box {} (xyxy) has no area", box),
        (OUTSIDE, without_area(clipped), "box {} (xyxy) is wholly outside the image", box),
        (
            FAR_OUTSIDE,
            far & clip,
            "box {} (xyxy) reaches farther outside than twice the image",
            box,
        ),
    ]
    usable = np.ones(len(image), dtype=bool)
    for kind, faulty, reason, detail in faults:
        findings.add_rows(kind, np.flatnonzero(usable & faulty), _explain(describe, reason, detail))
        usable &= ~faulty
    explain_clip = _explain(describe, "box {} (xyxy) was clipped", box)
    findings.add_rows(OVER_BORDER, np.flatnonzero(usable & over), explain_clip)

    rows = np.flatnonzero(usable)  # (U,) in the file's order, in which ids are made unique
    ids = _unique_ids(regions, rows, findings, describe)
    order = np.argsort(image[rows], kind="stable")
    rows = rows[order]
    final_boxes = (clipped if clip else boxes)[rows]  # (U, 4)
    areas = regions.areas[rows]
    with np.errstate(invalid="ignore"):
        has_area = np.isfinite(areas) & (areas >= 0)
    box_areas = (final_boxes[:, 2:] - final_boxes[:, :2]).prod(axis=1)
    masks = regions.segmentations
    counts = np.bincount(image[rows], minlength=len(merged_images))
    # before `findings.list`: both may add to it
    negatives, not_exhaustive = (
        _labels_of([getattr(record, name) for record in merged_images], label_of, names, findings)
        for name in ("negatives", "not_exhaustive")
    )
    all_findings = findings.list()
    return Annotations(
        categories=merged_categories,
        image_ids=tuple(record.key for record in merged_images),
        file_names=tuple(names),
        sizes=sizes,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=final_boxes,
        labels=label[rows],
        crowd=regions.crowd[rows],
        areas=np.where(has_area, areas, box_areas),
        region_ids=ids[order],
        segmentations=None if masks is None else tuple(masks[row] or None for row in rows.tolist()),
        negatives=negatives,
        not_exhaustive=not_exhaustive,
        set_aside=skipped_items(all_findings),
        findings=all_findings,
    )


def clip_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.int64], images: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Boxes `(R, 4)` xyxy within their images' sizes; untouched where a size is not known (-1)."""
    if not len(boxes) or not len(sizes):
        return boxes
    limit = _limits(sizes, images)
    has_size = ~np.isnan(limit).any(axis=1)
    clipped = boxes.copy()
    bounds = np.tile(limit[has_size], 2)  # (R', 4) width, height, width, height
    clipped[has_size] = np.minimum(np.maximum(boxes[has_size], 0.0), bounds)
    return clipped


def _limits(sizes: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(R, 2)` width and height of each region's image; NaN where they are not known."""
    if not len(sizes):
        return np.full((len(images), 2), np.nan)
    limit = sizes[images][:, ::-1].astype(np.float64)
    limit[(limit < 0) | (images < 0)[:, None]] = np.nan
    return limit


def without_area(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes `(R, 4)` xyxy are empty or inverted."""
    return np.asarray((boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1]), dtype=bool)


def _explain(
    describe: Callable[[int], str], reason: str, detail: Callable[[int], str]
) -> Callable[[int], tuple[str, str]]:
    return lambda row: (describe(row), reason.format(detail(row)))


def _lookup(keys: Sequence[str], position: dict[str, int]) -> NDArray[np.int64]:
    return np.array([position.get(key, -1) for key in keys], dtype=np.int64)


def _unique_ids(
    regions: RegionColumns,
    rows: NDArray[np.int64],
    findings: Findings,
    describe: Callable[[int], str],
) -> NDArray[np.int64]:
    """Ids of the rows; the second of two equal ones, and one that is missing, gets a new number."""
    ids = regions.ids[rows]
    has_id = regions.has_id[rows] & (np.abs(ids) < _LARGEST_ID)
    with_id = np.flatnonzero(has_id)
    _, first = np.unique(ids[with_id], return_index=True)
    repeats = np.ones(len(with_id), dtype=bool)
    repeats[first] = False
    repeated = with_id[repeats]
    findings.add_rows(
        REGION_ID_TWICE,
        rows[repeated],
        lambda row: (describe(row), "its id is taken; numbered anew"),
    )
    missing = np.flatnonzero(~has_id)
    findings.add_rows(
        WITHOUT_ID, rows[missing], lambda row: (describe(row), "no id that is a whole number")
    )
    # numbered above all ids of the file, in its order
    renumbered = np.sort(np.concatenate([repeated, missing]))
    start = max(int(ids[with_id].max(initial=0)), 0) + 1
    unique = ids.copy()
    unique[renumbered] = start + np.arange(len(renumbered))
    return unique


def _merge_categories(
    records: Iterable[CategoryRecord], findings: Findings
) -> tuple[Categories, dict[str, int]]:
    """The classes, and which label a key stands for."""
    merged: list[CategoryRecord] = []
    label_of: dict[str, int] = {}
    by_name: dict[str, int] = {}
    for record in records:
        name, item = record.name, f"category {record.key}"
        key = name_key(name)
        if record.key in label_of:
            first = merged[label_of[record.key]].name
            reason = f"its id is {first!r}'s; the first is kept"
            findings.add(CATEGORY_ID_TWICE, f"{item} {name!r}", reason)
        elif not key:
            findings.add(NAME_EMPTY, item, f"its name is {name!r}")
        elif key in by_name:
            # one name can stand for one class only: the vocabulary encodes it once
            label_of[record.key] = by_name[key]
            same = merged[by_name[key]]
            reason = f"{name!r} repeats {same.name!r} of {same.key}, into which it is merged"
            findings.add(NAME_TWICE, item, reason)
        else:
            label_of[record.key] = by_name[key] = len(merged)
            merged.append(record)
    categories = Categories(
        ids=np.array([record.id for record in merged], dtype=np.int64),
        names=tuple(_clean_name(record.name) for record in merged),
        synonyms=tuple(_synonyms(record) for record in merged),
        frequency=tuple(record.frequency for record in merged),
    )
    return categories, label_of


def _clean_name(name: str) -> str:
    """One space between words; halves of characters become U+FFFD."""
    # JSON can write half a surrogate pair, and no UTF-8 file or tokenizer takes it
    return " ".join(valid_text(name).split())


def _synonyms(record: CategoryRecord) -> tuple[str, ...]:
    """Other words only: LVIS lists the name itself among its synonyms."""
    # reversed twice: of two spellings of one word the first stays, in the file's order
    by_key = {name_key(word): word for word in reversed(record.synonyms)}
    by_key.pop(name_key(record.name), None)
    return tuple(_clean_name(word) for key, word in reversed(by_key.items()) if key)


def _merge_images(
    records: Iterable[ImageRecord], findings: Findings
) -> tuple[list[ImageRecord], dict[str, int], set[str]]:
    """The images, the position of each key, and the keys of those left out."""
    images: list[ImageRecord] = []
    position: dict[str, int] = {}
    left_out: set[str] = set()
    for record in records:
        if record.key in position:
            name = images[position[record.key]].file_name
            reason = f"its id {record.key} is {name}'s, which is kept"
            findings.add(IMAGE_ID_TWICE, f"image {record.file_name}", reason)
        elif record.left_out:
            left_out.add(record.key)
        elif not record.file_name:
            left_out.add(record.key)
            findings.add(IMAGE_WITHOUT_NAME, f"image {record.key}", "no file name")
        else:
            position[record.key] = len(images)
            images.append(record)
    return images, position, left_out - position.keys()


def _labels_of(
    columns: Sequence[Sequence[str]],
    label_of: dict[str, int],
    names: Sequence[str],
    findings: Findings,
) -> tuple[NDArray[np.int64], ...]:
    """Per image the labels of the categories that it lists by key; empty where no image does."""
    if not any(len(keys) for keys in columns):
        return ()
    labels: list[NDArray[np.int64]] = []
    for name, keys in zip(names, columns, strict=True):
        for key in keys:
            if key not in label_of:
                findings.add(UNKNOWN_LISTED, name, f"unknown category id {key}")
        listed = [label_of[key] for key in keys if key in label_of]
        labels.append(np.unique(np.array(listed, dtype=np.int64)))
    return tuple(labels)
