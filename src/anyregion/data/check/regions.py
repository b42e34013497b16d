"""Checks of the regions and classes of a data set: odd boxes, bad masks, rare and odd names."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.builder import OUTSIDE, clip_boxes, without_area
from anyregion.data.annotations.report import Findings, Kind
from anyregion.errors import InputError
from anyregion.masks import segmentation_to_rle

# boxes with a side shorter than so many pixels are reported as tiny
TINY = 2.0
# classes with fewer regions are rare
FEW = 10

NO_REGIONS = Kind("images without regions", False, "nothing, if there is nothing in them")
UNUSED = Kind("classes without regions", False, "nothing; they are only names that are never right")
ODD_NAME = Kind(
    "names that say little",
    False,
    "names are what the model reads: write words (`car`, not `n02958343` or `class_3`)",
)
TINY_BOX = Kind(
    f"boxes with a side under {TINY:g} pixels", False, "look at a few: slips of the mouse?"
)
REPEATED = Kind(
    "regions that repeat another's box and class",
    False,
    "remove the copies, or count them as annotated twice",
)
FEW_REGIONS = Kind(
    f"classes with 1 to {FEW - 1} regions",
    False,
    "sample images with rare classes more often (repeat-factor sampling)",
)
BAD_MASK = Kind("masks that are malformed", True, "mend them, or use the boxes only")

# WordNet and OpenImages ids, numbered classes, and what a wrong encoding leaves behind
_ODD = re.compile(
    r"n\d{8}|/[a-z]/\w+|(class|cls|label|category|cat|object|id)?[ _-]*\d+|.*[\ufffd\x00-\x1f].*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class ClassCount:
    """How often one class occurs; crowd regions do not count."""

    id: int
    name: str
    regions: int
    images: int
    frequency: str


def check_regions(annotations: Annotations, sizes: NDArray[np.int64], findings: Findings) -> None:
    """Report odd boxes, and images without any.

    Args:
        annotations: what to look at.
        sizes: `(I, 2)` heights and widths, -1 where nobody states them.
        findings: where to report.
    """
    counts = np.diff(annotations.starts)
    image = np.repeat(np.arange(len(annotations)), counts)
    boxes, labels = annotations.boxes, annotations.labels
    names = annotations.categories.names

    def describe(row: int) -> tuple[str, str]:
        box = ", ".join(f"{value:.6g}" for value in boxes[row])
        item = f"{annotations.file_names[image[row]]}, region {annotations.region_ids[row]}"
        return item, f"{names[labels[row]]}, box {box} (xyxy)"

    # where the annotations state no size, the builder could not tell; the image file can
    unstated = (annotations.sizes.min(axis=1) < 0)[image]
    outside = unstated & without_area(clip_boxes(boxes, sizes, image))
    findings.add_rows(OUTSIDE, np.flatnonzero(outside), describe)
    usable = ~annotations.crowd
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    findings.add_rows(TINY_BOX, np.flatnonzero(usable & (sides < TINY)), describe)
    findings.add_rows(REPEATED, _repeated(image, labels, boxes), describe)
    empty = np.flatnonzero(counts == 0)
    findings.add_rows(NO_REGIONS, empty, lambda i: (annotations.file_names[i], "no regions"))


def _repeated(
    image: NDArray[np.int64], labels: NDArray[np.int64], boxes: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Rows whose image, label and box an earlier row has."""
    # equal rows are neighbours once sorted, in the order of the file: the sort is stable
    order = np.lexsort((*boxes.T, labels, image))  # (R,)
    same: NDArray[np.bool_] = (image[order][1:] == image[order][:-1]) & (
        labels[order][1:] == labels[order][:-1]
    )
    same &= np.abs(boxes[order][1:] - boxes[order][:-1]).max(axis=1, initial=0) == 0
    return np.sort(order[1:][same])


def check_masks(annotations: Annotations, sizes: NDArray[np.int64], findings: Findings) -> None:
    """Report masks that are malformed or of another size than their image."""
    for image, name in enumerate(annotations.file_names):
        for row in annotations.rows(image, crowd=True).tolist():
            segmentation = (annotations.segmentations or ())[row]
            # without a size nothing says how polygons are to be drawn
            if segmentation is None or sizes[image].min() < 0:
                continue
            try:
                segmentation_to_rle(segmentation, int(sizes[image, 0]), int(sizes[image, 1]))
            except InputError as error:
                where = f"{name}, region {annotations.region_ids[row]}"
                findings.add(BAD_MASK, where, str(error))


def count_classes(annotations: Annotations, findings: Findings) -> tuple[ClassCount, ...]:
    """Every class, the most frequent first; rare, unused and oddly named ones are reported."""
    categories = annotations.categories
    count = len(categories)
    usable = ~annotations.crowd
    labels = annotations.labels[usable]
    image = np.repeat(np.arange(len(annotations)), np.diff(annotations.starts))[usable]
    regions = np.bincount(labels, minlength=count)
    # (P,) one number for each image and class in it; numpy's unique is ten times slower here
    pairs = np.sort(image * max(count, 1) + labels)
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    images = np.bincount(pairs % max(count, 1), minlength=count)
    for label, name in enumerate(categories.names):
        item = f"category {categories.ids[label]} {name!r}"
        if not regions[label]:
            findings.add(UNUSED, item, "no regions")
        elif regions[label] < FEW:
            findings.add(FEW_REGIONS, item, f"regions: {regions[label]}")
        if _ODD.fullmatch(name) or not any(letter.isalpha() for letter in name):
            findings.add(ODD_NAME, item, "no word that a text model could know")
    order = np.argsort(-regions, kind="stable")
    return tuple(
        ClassCount(
            id=int(categories.ids[label]),
            name=categories.names[label],
            regions=int(regions[label]),
            images=int(images[label]),
            frequency=categories.frequency[label],
        )
        for label in order.tolist()
    )
