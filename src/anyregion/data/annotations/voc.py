"""Reader of Pascal VOC: an XML file an image, boxes from 1 up to and with their last pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from anyregion.data.annotations.builder import (
    MALFORMED_ROWS,
    AnnotationRecords,
    CategoryRecord,
    ImageRecord,
    RegionColumns,
)
from anyregion.data.annotations.conventions import check_boxes, refuse_fractions
from anyregion.data.annotations.layouts import READABLE, describe_file, describe_folder
from anyregion.data.annotations.report import Findings, Kind
from anyregion.data.annotations.xml_reading import parse_xml
from anyregion.errors import InputError
from anyregion.files import read_text
from anyregion.images import SUFFIXES

# the 20 classes of Pascal VOC; ids count from 1 in this order
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

UNREADABLE_XML = Kind("images whose XML cannot be read", True, "mend or replace the file")

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# what the file says of each object, by its path below <annotation>; a <part> has a box of its own
_TEXTS = {
    ("filename",), ("size", "width"), ("size", "height"), ("object", "name"),
    ("object", "difficult"), *(("object", "bndbox", corner) for corner in _CORNERS),
}  # fmt: skip


@dataclass
class _File:
    """The texts of one XML file."""

    image: dict[str, str] = field(default_factory=dict)
    objects: list[dict[str, str]] = field(default_factory=list)


def read_voc(path: Path) -> AnnotationRecords:
    """Read a VOC folder, its `Annotations` folder, or a list `ImageSets/Main/<split>.txt`.

    Classes are VOC's 20 in their order, if all names are among them; else the names that occur, by
    alphabet. Ids count from 1. `difficult` objects are crowd: VOC leaves them out of the score.
    """
    findings = Findings()
    images: list[ImageRecord] = []
    names: dict[str, int] = {}
    owners: list[int] = []
    labels: list[int] = []
    boxes: list[tuple[float, ...]] = []
    difficult: list[bool] = []
    first_error = ""
    for file, key in _xml_files(path):
        try:
            content = _parse(file)
        except InputError as error:
            first_error = first_error or str(error)
            findings.add(UNREADABLE_XML, key, str(error))
            continue
        for position, item in enumerate(content.objects):
            try:
                x0, y0, x1, y1 = (float(item[corner]) for corner in _CORNERS)
                name = item["name"]
                hard = bool(int(item.get("difficult") or 0))
            except (KeyError, ValueError) as error:
                reason = f"malformed ({type(error).__name__}: {error})"
                findings.add(MALFORMED_ROWS, f"{key}, object {position}", reason)
                continue
            owners.append(len(images))
            labels.append(names.setdefault(name, len(names)))
            # pixel 1 is the first one, and xmax is the last one inside
            boxes.append((x0 - 1, y0 - 1, x1, y1))
            difficult.append(hard)
        images.append(_image(key, content))
    if not images:
        known = describe_folder(path) if path.is_dir() and not first_error else None
        if known is not None:
            raise InputError(f"{path}: {known}; {READABLE}")
        raise InputError(first_error or f"{path}: no XML files of Pascal VOC here")
    pixels = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    refuse_fractions(path, pixels + np.array([1, 1, 0, 0]), corners=True)
    order = VOC_NAMES if set(names) <= set(VOC_NAMES) else sorted(names)
    count = len(owners)
    regions = RegionColumns(
        image_keys=[image.key for image in images],
        category_keys=list(names),
        images=np.array(owners, dtype=np.int64),
        categories=np.array(labels, dtype=np.int64),
        boxes=pixels,
        crowd=np.array(difficult, dtype=bool),
        areas=np.full(count, np.nan),
        ids=np.arange(1, count + 1),
        has_id=np.ones(count, dtype=bool),
        corners=True,
    )
    check_boxes(path, regions, images, findings=findings)
    return AnnotationRecords(
        images,
        [CategoryRecord(key=name, id=i, name=name) for i, name in enumerate(order, start=1)],
        regions,
        findings,
    )


def _xml_files(path: Path) -> Iterator[tuple[Path, str]]:
    """The files, and what each one's image is called: its path below `Annotations`."""
    if path.is_file():
        # ImageSets/Main/<split>.txt; a class's own list has 1, 0 or -1 behind each image
        folder = next(
            (p / "Annotations" for p in path.parents if (p / "Annotations").is_dir()), None
        )
        if folder is None:
            if known := describe_file(path):
                raise InputError(f"{path}: {known}; {READABLE}")
            raise InputError(f"{path}: no folder Annotations above this list of images")
        lines = read_text(path).splitlines()
        # an image that is listed twice is one image, whose regions count once
        stems = dict.fromkeys(line.split()[0] for line in lines if line.strip())
        yield from ((folder / f"{stem}.xml", stem) for stem in stems)
    else:
        folder = path / "Annotations" if (path / "Annotations").is_dir() else path
        for file in sorted(folder.rglob("*.xml")):
            yield file, file.relative_to(folder).with_suffix("").as_posix()


def _image(key: str, content: _File) -> ImageRecord:
    name = content.image.get("filename", "")
    if PurePath(name).suffix.lower() not in SUFFIXES:
        name = f"{key}.jpg"
    return ImageRecord(
        key=key,
        file_name=name,
        size=(_side(content.image.get("height")), _side(content.image.get("width"))),
    )


def _side(text: str | None) -> int:
    """A height or width; -1 where there is none."""
    # some writers state 0 where they did not know
    is_number = text and text.isascii() and text.isdigit() and len(text) < 10
    return (int(text) if text and is_number else 0) or -1


def _parse(file: Path) -> _File:
    """Read one file; a document type is refused."""
    content = _File()
    tags: list[str] = []  # from <annotation> down to the open one
    text: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        if not tags and tag != "annotation":
            raise InputError(
                f"{file}: {describe_file(file) or f'XML of <{tag}>, not of Pascal VOC'}"
            )
        tags.append(tag)
        text.clear()
        if tags[1:] == ["object"]:
            content.objects.append({})

    def end(_: str) -> None:
        path = tuple(tags[1:])
        if path in _TEXTS:
            owner = content.objects[-1] if path[0] == "object" else content.image
            owner[path[-1]] = "".join(text).strip()
        text.clear()
        tags.pop()

    parse_xml(file, start=start, end=end, text=text.append)
    return content
