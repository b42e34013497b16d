"""`check_data`: the checks of a data set, its annotations and its image files."""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.builder import (
    OTHER_CONVENTION,
    OUTSIDE,
    clip_boxes,
    without_area,
)
from anyregion.data.annotations.conventions import describe_beyond
from anyregion.data.annotations.report import Finding, Findings, Kind
from anyregion.data.image_files import find_image, image_path, in_threads
from anyregion.errors import InputError
from anyregion.images import ImageSize, read_image, read_size, size_of
from anyregion.masks import segmentation_to_rle
from anyregion.vocabulary import Progress

MISSING = Kind(
    "images that are not there", True, "is this the folder that the file names start from?"
)
BROKEN = Kind("images that cannot be read", True, "download or export them again")
OTHER_SIZE = Kind(
    "images of another size than stated",
    True,
    "the boxes belong to another version of the image: get that one, or scale the annotations",
)
TURNED = Kind(
    "images that EXIF turns, annotated as they are stored",
    True,
    "images are turned upright when read, and these boxes are not: write the images anew without "
    "EXIF's rotation (the pixels as they are stored)",
)
UNSURE = Kind(
    "images that EXIF turns, annotated before or after that: no size tells",
    False,
    "boxes count on the upright image: look at a few; where they do not fit, write the images anew "
    "without EXIF's rotation (the pixels as they are stored)",
)
SAME_FILE = Kind(
    "image entries that lead to a file of another entry",
    True,
    "join their regions under one entry: each alone lacks the other's",
)
SAME_CONTENT = Kind(
    "image files that repeat another's content",
    False,
    "keep one of each: the same picture must not be in training and test, or count twice",
)


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and what is wrong with it.

    Attributes:
        images: how many the annotations list.
        files_checked: how many of their files were looked at.
        regions: how many are usable, crowds apart.
        crowd: how many mark a crowd.
        by_size: regions by area, as the file states it, in pixels: `small` below 32^2, `medium`
            below 96^2, `large`.
        classes: every class, the most frequent first.
        findings: what is wrong, and after it what is only worth knowing.
        decoded: the files were decoded as a whole, so a truncated one would have been found.
        seconds: time spent on the check.
    """

    images: int
    files_checked: int
    regions: int
    crowd: int
    by_size: dict[str, int]
    classes: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    decoded: bool
    seconds: float

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return sum(finding.count for finding in self.findings if finding.wrong)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"wrong": self.wrong, **asdict(self)}


def check_data(
    annotations: Annotations,
    images_folder: str | Path,
    *,
    limit: int | None = None,
    decode: bool = True,
    threads: int = 8,
    progress: Progress | None = None,
) -> DataReport:
    """Check the annotations and their image files; masks where they were read.

    What was reported when the annotations were read is part of the report.

    Args:
        annotations: what `read_annotations` returned.
        images_folder: where file names start from; see `find_image`.
        limit: look at no more than the first so many image files.
        decode: decode each file, to find truncated ones; else only its header is read.
        threads: how many files are read at once.
        progress: called with (done, total) files.

    Raises:
        InputError: no such folder, or a limit below 1.
    """
    folder = Path(images_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
    started = time.perf_counter()
    findings = Findings(annotations.findings)
    checked = min(len(annotations), len(annotations) if limit is None else limit)
    sizes = _check_files(annotations, folder, checked, decode, threads, progress, findings)
    check_regions(annotations, sizes, findings)
    if annotations.segmentations is not None:
        check_masks(annotations, sizes, findings)
    classes = count_classes(annotations, findings)
    usable = ~annotations.crowd
    # COCO's bounds of small, medium and large
    of_size = np.digitize(annotations.areas[usable], [32.0**2, 96.0**2])
    return DataReport(
        images=len(annotations),
        files_checked=checked,
        regions=int(usable.sum()),
        crowd=int(annotations.crowd.sum()),
        by_size={
            name: int((of_size == i).sum()) for i, name in enumerate(("small", "medium", "large"))
        },
        classes=classes,
        findings=findings.list(),
        decoded=decode,
        seconds=time.perf_counter() - started,
    )


def _check_files(
    annotations: Annotations,
    folder: Path,
    count: int,
    decode: bool,
    threads: int,
    progress: Progress | None,
    findings: Findings,
) -> NDArray[np.int64]:
    """Report the first `count` files; `(I, 2)` heights and widths, the files' own where not stated,
    -1 where nobody states them."""
    sizes = annotations.sizes.copy()
    names = annotations.file_names[:count]
    owner: dict[Path, str] = {}  # the name that first led to a file
    by_length: dict[int, list[Path]] = defaultdict(list)
    inspect = partial(_inspect, folder, decode)
    for image, file in enumerate(in_threads(inspect, names, threads=threads)):
        name = names[image]
        if file.path is None:
            findings.add(MISSING, name, f"not in {folder}")
        elif file.path in owner:
            findings.add(SAME_FILE, name, f"its file is {owner[file.path]}'s too")
        else:
            owner[file.path] = name
            by_length[file.length].append(file.path)
        if file.size is None:
            if file.path is not None:
                findings.add(BROKEN, name, file.error)
        else:
            height, width = file.size.upright
            stated = None if (sizes[image] < 0).any() else tuple(sizes[image].tolist())
            if stated is None:
                sizes[image] = height, width
            if len(annotations.rows(image)) and file.size.hides_turn(stated):
                findings.add(UNSURE, name, f"turned by EXIF, {width} x {height} upright")
            if stated is not None and stated != (height, width):
                kind = TURNED if stated == file.size.stored else OTHER_SIZE
                text = f"{width} x {height}, but stated as {stated[1]} x {stated[0]}"
                findings.add(kind, name, text)
        if progress is not None:
            progress(image + 1, count)
    # only files of equal length can be equal, so few have to be read for their hash
    same_length = [path for paths in by_length.values() if len(paths) > 1 for path in paths]
    first: dict[bytes, str] = {}
    digests = in_threads(_digest, same_length, threads=threads)
    for path, digest in zip(same_length, digests, strict=True):
        if digest in first:
            findings.add(SAME_CONTENT, owner[path], f"the same picture as {first[digest]}")
        elif digest:
            first[digest] = owner[path]
    return sizes


@dataclass(frozen=True)
class _ImageFile:
    """An image's file, its size, its length in bytes; or why it cannot be used."""

    path: Path | None
    size: ImageSize | None = None
    length: int = 0
    error: str = ""


def _inspect(folder: Path, decode: bool, name: str) -> _ImageFile:
    path = find_image(folder, name)
    if path is None:
        return _ImageFile(None)
    length = 0
    try:
        length = path.stat().st_size
        size = read_size(path)  # of the header, where a rotation by EXIF stands
        if decode:
            size = replace(size, upright=size_of(read_image(path)))
    except InputError as error:
        return _ImageFile(path, length=length, error=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return _ImageFile(path, length=length, error=f"cannot be read ({error.strerror})")
    return _ImageFile(path, size, length)


def _digest(path: Path) -> bytes:
    """A hash of the file's content; empty where it cannot be read (it was reported as broken)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""


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
    """Report odd boxes, and images without any; `sizes` `(I, 2)`, -1 where nobody states them."""
    counts = np.diff(annotations.starts)
    image = annotations.image_of
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
    _check_beyond(annotations, sizes, findings)
    usable = ~annotations.crowd
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    findings.add_rows(TINY_BOX, np.flatnonzero(usable & (sides < TINY)), describe)
    findings.add_rows(REPEATED, _repeated(image, labels, boxes), describe)
    empty = np.flatnonzero(counts == 0)
    findings.add_rows(NO_REGIONS, empty, lambda i: (annotations.file_names[i], "no regions"))


def check_unstated_sizes(annotations: Annotations, folder: Path, findings: Findings) -> None:
    """Report boxes that reach beyond images whose size only their files tell, by their headers."""
    sizes = annotations.sizes.copy()
    unstated = np.flatnonzero(sizes.min(axis=1, initial=0) < 0).tolist()

    def read(image: int) -> tuple[int, int]:
        try:
            return read_size(image_path(folder, annotations.file_names[image])).upright
        except InputError:
            return (-1, -1)  # whoever reads the image says why

    for image, size in zip(unstated, in_threads(read, unstated), strict=True):
        sizes[image] = size
    _check_beyond(annotations, sizes, findings)


def _check_beyond(annotations: Annotations, sizes: NDArray[np.int64], findings: Findings) -> None:
    # where the annotations state a size, their reader has looked
    image = annotations.image_of
    rows = np.flatnonzero((annotations.sizes.min(axis=1, initial=0) < 0)[image])
    limits = sizes[image[rows]][:, ::-1].astype(np.float64)  # (N, 2) width, height
    if reason := describe_beyond(annotations.boxes[rows], limits):
        findings.add(OTHER_CONVENTION, "the boxes of images without a stated size", reason)


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
    image = annotations.image_of[usable]
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
