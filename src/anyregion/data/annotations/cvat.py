"""Reader of CVAT for images 1.1: one XML of all images and their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anyregion.data.annotations.builder import AnnotationRecords, ImageRecord
from anyregion.data.annotations.layouts import describe_file
from anyregion.data.annotations.shape_rows import (
    NO_REGION,
    ROTATED,
    ShapeRows,
    ellipse,
    number,
    rectangle,
    turned,
)
from anyregion.data.annotations.xml_reading import parse_xml
from anyregion.errors import InputError
from anyregion.images import MAX_PIXELS
from anyregion.masks import RLE, encode_crop

SHAPES = ("box", "polygon", "mask", "ellipse")
"""Tags of an image's children that are regions; each is called `<image id>:<place among the
image's children>`, for CVAT's files have no ids of shapes."""
OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton", "tag")


def read_cvat(path: Path, *, masks: bool = False) -> AnnotationRecords:
    """Read `annotations.xml`. Classes are the labels in the file's order, ids from 1.

    Rotated boxes and ellipses become outlines. Files of CVAT for video are refused: their shapes
    are those of tracks.
    """
    rows = ShapeRows()
    names: list[str] = []
    tags: list[str] = []
    text: list[str] = []
    place = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal place
        if not tags and tag != "annotations":
            raise InputError(f"{path}: {describe_file(path) or f'XML of <{tag}>, not of CVAT'}")
        if tags[:1] == ["annotations"] and len(tags) == 1:
            if tag == "track":
                raise InputError(f"{path}: CVAT for video (tracks): export as CVAT for images 1.1")
            if tag == "image":
                rows.images.append(_image(attributes, len(rows.images)))
                place = 0
        if tags == ["annotations", "image"] and (tag in SHAPES or tag in OTHER_SHAPES):
            image = rows.images[-1]
            identity, item = f"{image.key}:{place}", f"{image.file_name}, shape {place}"
            place += 1
            if tag in OTHER_SHAPES:
                rows.findings.add(NO_REGION, item, tag)
            else:
                with rows.reporting(item):
                    _add(rows, tag, attributes, identity, item)
        tags.append(tag)
        text.clear()

    def end(_: str) -> None:
        # <meta><task|project|job><labels><label><name>; attributes of labels have names below it
        if tags[-3:] == ["labels", "label", "name"] and "meta" in tags:
            names.append("".join(text).strip())
        text.clear()
        tags.pop()

    parse_xml(path, start=start, end=end, text=text.append)
    if not rows.images:
        raise InputError(f"{path}: no images in it")
    return rows.records(path, list(dict.fromkeys(names)), masks=masks)


def _image(attributes: dict[str, str], place: int) -> ImageRecord:
    sides = [attributes.get(side, "") for side in ("height", "width")]
    height, width = (
        int(s) if s.isascii() and s.isdecimal() and 0 < len(s) < 10 and int(s) else -1
        for s in sides
    )
    return ImageRecord(
        attributes.get("id") or f"#{place}", attributes.get("name", ""), (height, width)
    )


def _add(rows: ShapeRows, tag: str, attributes: dict[str, str], identity: str, item: str) -> None:
    label = attributes.get("label", "")
    if tag == "polygon":
        points = [float(v) for p in attributes["points"].split(";") for v in _pair(p)]
        rows.add(label, id=identity, polygons=[points])
        return
    if tag == "mask":
        rows.add(label, id=identity, mask=_mask(attributes, rows.images[-1].size))
        return
    rotation = number(float(attributes.get("rotation") or 0), "rotation")
    if rotation or tag == "ellipse":
        rows.findings.add(ROTATED, item, f"{tag}, {rotation:g} degrees")
    if tag == "ellipse":
        cx, cy, rx, ry = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
        rows.add(label, id=identity, polygons=[ellipse(cx, cy, rx, ry, rotation)])
        return
    box = [float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr")]
    if rotation:
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        rows.add(label, id=identity, polygons=[turned(rectangle(box), rotation, centre)])
    else:
        rows.add(label, box, id=identity)


def _pair(text: str) -> list[str]:
    values = text.split(",")
    if len(values) != 2:
        raise InputError(f"the point {text!r:.40} is not x,y")
    return values


def _mask(attributes: dict[str, str], size: tuple[int, int]) -> RLE:
    left, top, width, height = (
        int(float(attributes[key])) for key in ("left", "top", "width", "height")
    )
    runs = [int(v) for v in attributes["rle"].split(",")]
    return mask_of_runs(runs, (left, top, width, height), size)


def mask_of_runs(
    runs: Sequence[int], place: tuple[int, int, int, int], size: tuple[int, int]
) -> RLE:
    """CVAT's mask: runs row by row within its box, the first of them outside.

    Args:
        runs: the lengths.
        place: left, top, width and height of the box.
        size: `(height, width)` of the image.

    Raises:
        InputError: a box that does not lie in the image, or runs that do not fill it.
    """
    (left, top, width, height), (rows, columns) = place, size
    if min(size) <= 0:
        raise InputError("a mask in an image without width and height")
    inside = 0 <= left <= left + width <= columns and 0 <= top <= top + height <= rows
    if not (width > 0 and height > 0 and inside and rows * columns <= MAX_PIXELS):
        raise InputError(
            f"a mask of {width} x {height} at {left}, {top} in an image of {columns} x {rows}"
        )
    lengths = np.array(runs, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise InputError(f"the runs of a mask do not fill its {width} x {height} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    crop = np.repeat(values, lengths).reshape(height, width)
    return encode_crop(crop, left, top, size=(rows, columns))
