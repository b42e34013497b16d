"""Reader of OpenImages' CSV: boxes as fractions of the image, classes by machine id."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from anyregion.data.annotations.builder import (
    MALFORMED_ROWS,
    AnnotationRecords,
    CategoryRecord,
    ImageRecord,
    RegionColumns,
)
from anyregion.data.annotations.layouts import READABLE, describe_file
from anyregion.data.annotations.report import Findings, Kind
from anyregion.data.image_files import image_path, in_threads
from anyregion.errors import InputError
from anyregion.files import reading
from anyregion.images import SUFFIXES, read_size

WITHOUT_SIZE = Kind(
    "images whose size is not known", True, "their boxes are fractions of it: is the file there?"
)
NOT_DESCRIBED = Kind(
    "classes without a description", True, "give the class descriptions of this version"
)

_EDGES = ("XMin", "YMin", "XMax", "YMax")


def read_openimages(
    path: Path,
    *,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    sizes: str | Path | None = None,
) -> AnnotationRecords:
    """Read a CSV of boxes; see `read_annotations`. Category ids count from 1 in the order of the
    class descriptions; a box of a group of things (`IsGroupOf`) is crowd. Region ids are the rows
    of the file, from 1.
    """
    if images is None and sizes is None:
        raise InputError(
            f"{path}: OpenImages' boxes are fractions of the image: give the folder of the images, "
            "or a CSV ImageID,Width,Height as sizes"
        )
    class_names = _descriptions(Path(classes) if classes else _find_descriptions(path))
    findings = Findings()
    # columns of numbers: OpenImages has 15 million boxes
    owners, labels, rows = array("q"), array("q"), array("q")
    fractions, groups = array("d"), array("b")
    image_codes: dict[str, int] = {}
    label_codes: dict[str, int] = {}
    for number, row in _rows(path, ("ImageID", "LabelName", *_EDGES), ("IsGroupOf",)):
        try:
            image, label, x0, y0, x1, y1, group = row
            box = (float(x0), float(y0), float(x1), float(y1))
            is_group = int(group or 0) == 1  # -1 is "not known"
        except ValueError as error:
            findings.add(MALFORMED_ROWS, f"row {number}", f"malformed ({error})")
            continue
        fractions.extend(box)
        owners.append(image_codes.setdefault(image, len(image_codes)))
        labels.append(label_codes.setdefault(label, len(label_codes)))
        groups.append(is_group)
        rows.append(number)
    # reported once a class, not once a region
    for label in label_codes:
        if label not in class_names:
            findings.add(NOT_DESCRIBED, label, "its regions are left out")
    # ids are names without a suffix; some converters write it
    names = [
        key if PurePath(key).suffix.lower() in SUFFIXES else f"{key}.jpg" for key in image_codes
    ]
    boxes = np.array(fractions, dtype=np.float64).reshape(-1, 4)  # (R, 4) fractions
    pixels = int((boxes > 2).any(axis=1).sum())
    if 2 * pixels > len(boxes):
        raise InputError(
            f"{path}: {pixels} of its {len(boxes)} boxes are no fractions of the image, as "
            "OpenImages' are: XMin, XMax, YMin, YMax lie within 0 to 1. Divide pixels by the "
            "image's width and height"
        )
    if images is not None and sizes is None:
        heights_widths = list(in_threads(partial(_read_size, Path(images)), names))
    else:
        listed = _sizes(Path(sizes)) if sizes is not None else {}
        heights_widths = [listed.get(key, (-1, -1)) for key in image_codes]
    records: list[ImageRecord] = []
    scale = np.full((len(image_codes), 2), np.nan)  # (I, 2) width, height
    for position, (key, size) in enumerate(zip(image_codes, heights_widths, strict=True)):
        if size[0] < 0:
            findings.add(WITHOUT_SIZE, f"image {key}", "no size, so its boxes are left out")
            records.append(ImageRecord(key, names[position], left_out=True))
        else:
            scale[position] = size[::-1]
            records.append(ImageRecord(key, names[position], size))
    owner = np.array(owners, dtype=np.int64)  # (R,) positions of images
    count = len(owner)
    return AnnotationRecords(
        records,
        [
            CategoryRecord(key=key, id=i, name=name)
            for i, (key, name) in enumerate(class_names.items(), start=1)
        ],
        RegionColumns(
            image_keys=list(image_codes),
            category_keys=list(label_codes),
            images=owner,
            categories=np.array(labels, dtype=np.int64),
            boxes=boxes * np.tile(scale[owner], 2),
            crowd=np.array(groups, dtype=bool),
            areas=np.full(count, np.nan),
            ids=np.array(rows, dtype=np.int64),
            has_id=np.ones(count, dtype=bool),
        ),
        findings,
    )


def _rows(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and columns of every row, in order; an optional one that is absent is ''."""
    rows = _read_csv(path)
    header = [name.strip() for name in next(rows, [])]
    if missing := [name for name in columns if name not in header]:
        known = f": {words}" if (words := describe_file(path)) else ""
        raise InputError(
            f"{path}: no column {', '.join(missing)} in its first line{known}; {READABLE}"
        )
    at = [header.index(name) if name in header else -1 for name in (*columns, *optional)]
    for number, row in enumerate(rows, start=1):
        if row:
            # a row that is too short is handed on empty, for the caller to report
            yield number, [row[i] if i >= 0 else "" for i in at] if len(row) > max(at) else []


def _read_csv(path: Path) -> Iterator[list[str]]:
    """Every line's cells; errors name the file and the place."""
    with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            yield from reader
        except csv.Error as error:
            raise InputError(f"{path}: malformed CSV at line {reader.line_num}: {error}") from None


def _find_descriptions(path: Path) -> Path:
    files = sorted(path.parent.glob("*class-descriptions*.csv"))
    if not files:
        raise InputError(
            f"{path}: no class descriptions beside it (*class-descriptions*.csv): give them"
        )
    # OpenImages has descriptions of all its labels, and of those that boxes have
    boxable = [file for file in files if "boxable" in file.name]
    return (boxable or files)[0]


def _descriptions(path: Path) -> dict[str, str]:
    """`{machine id: name}`; older versions have no first line of column names."""
    rows = [row for row in _read_csv(path) if len(row) >= 2]
    names = {row[0]: row[1] for row in rows if row[0] != "LabelName"}
    if not names:
        raise InputError(f"{path}: no class descriptions in it (lines of LabelName,DisplayName)")
    return names


def _sizes(path: Path) -> dict[str, tuple[int, int]]:
    """`{image id: (height, width)}`; images of impossible sizes are left out."""
    sizes: dict[str, tuple[int, int]] = {}
    for number, row in _rows(path, ("ImageID", "Height", "Width")):
        try:
            key, height, width = row[0], int(row[1]), int(row[2])
        except (ValueError, IndexError):
            raise InputError(f"{path}: row {number} is not ImageID, Width, Height") from None
        if 0 < height < 2**31 and 0 < width < 2**31:
            sizes[key] = (height, width)
    return sizes


def _read_size(folder: Path, name: str) -> tuple[int, int]:
    try:
        return read_size(image_path(folder, name)).upright
    except InputError:
        return (-1, -1)  # the caller reports it: an image without a size
