"""Reader of LabelMe: a JSON file of shapes for each image."""

from __future__ import annotations

import base64
import binascii
import filecmp
import io
import math
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from anyregion.data.annotations.builder import AnnotationRecords, ImageRecord
from anyregion.data.annotations.report import Kind
from anyregion.data.annotations.shape_rows import NO_REGION, ROTATED, ShapeRows, ellipse, number
from anyregion.errors import InputError
from anyregion.files import name_parts, read_json
from anyregion.images import MAX_PIXELS
from anyregion.masks import RLE, encode_crop

UNREADABLE_JSON = Kind("images whose JSON cannot be read", True, "mend or replace the file")
BESIDE = Kind(
    "images beside their JSON whose imagePath leads elsewhere",
    False,
    "nothing: the file there is the same, or there is none",
)
OTHER_BESIDE = Kind(
    "images of the same name beside a JSON whose imagePath leads to another",
    False,
    "where the one beside it is meant, correct imagePath",
)
_OUTLINES = ("polygon", "rotation")


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON is LabelMe's."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and bool({"imagePath", "imageHeight"} & content.keys())
    )


def read_labelme(path: Path, content: Any = None, *, masks: bool = False) -> AnnotationRecords:
    """Read one file, or all of a folder (at any depth). Classes are the labels by alphabet.

    A region is called by its place among the image's shapes. Polygons of one label and one
    `group_id` are one region, as the parts of a thing are drawn.

    Args:
        path: the file or folder.
        content: the file's JSON, where it was parsed already.
        masks: keep outlines and masks.
    """
    rows = ShapeRows()
    if content is not None or path.is_file():
        page = read_json(path) if content is None else content
        if not is_labelme(page):
            raise InputError(f"{path}: not a file of LabelMe (shapes and imagePath)")
        _read(rows, path, path.stem, page)
        return rows.records(path, masks=masks)
    first_error = ""
    for file in sorted(path.rglob("*.json")):
        parts = file.relative_to(path).parts
        if any(part.startswith(".") for part in parts):
            continue
        key = "/".join(parts).removesuffix(".json")
        try:
            page = read_json(file)
            if not is_labelme(page):
                raise InputError(f"{file}: not a file of LabelMe (shapes and imagePath)")
            _read(rows, file, key, page)
        except InputError as error:
            first_error = first_error or str(error)
            rows.findings.add(UNREADABLE_JSON, key, str(error))
    if not rows.images:
        raise InputError(first_error or f"{path}: no files of LabelMe here")
    return rows.records(path, masks=masks)


def _image_of(rows: ShapeRows, file: Path, key: str, content: dict[str, Any]) -> str:
    """The image's name: that of `imagePath`, in the folder of the file below the one that is read.

    `imagePath` is relative to the file, and mostly the image lies beside it. Where it leads
    elsewhere, a file of that name beside the JSON is the image all the same if it has the same
    content, or if nothing is where `imagePath` leads: photographs were copied, or moved.
    """
    stated = content.get("imagePath")
    parts = name_parts(stated) if isinstance(stated, str) else ()
    name = parts[-1] if parts else f"{PurePath(key).name}.jpg"
    beside = "/".join([*PurePath(key).parts[:-1], name])
    # a path that leads elsewhere says where by itself
    if not parts[:-1]:
        return beside
    copy, original = file.parent / name, file.parent / str(stated).replace("\\", "/")
    try:
        if not copy.is_file():
            kind = None
        elif not original.is_file() or filecmp.cmp(copy, original, shallow=False):
            kind = BESIDE
        else:
            kind = OTHER_BESIDE
    except (OSError, ValueError):  # no permission; no path at all
        kind = None
    if kind is not None:
        rows.findings.add(kind, beside, f"imagePath is {stated}")
    return beside if kind is BESIDE else "/".join(parts)


def _read(rows: ShapeRows, file: Path, key: str, content: dict[str, Any]) -> None:
    name = _image_of(rows, file, key, content)
    height, width = (
        side if type(side) is int and 0 < side < 2**31 else -1
        for side in (content.get("imageHeight"), content.get("imageWidth"))
    )
    rows.images.append(ImageRecord(key, name, (height, width)))
    groups: dict[tuple[str, Any], tuple[int, list[list[float]], Any]] = {}
    for place, shape in enumerate(content["shapes"]):
        item = f"{name}, shape {place}"
        with rows.reporting(item):
            if not isinstance(shape, dict):
                raise InputError(f"not an object: {shape!r:.40}")
            label = shape.get("label")
            if label is not None and not isinstance(label, str):
                raise InputError(f"its label {label!r:.40} is no text")
            kind = shape.get("shape_type") or "polygon"
            score = shape.get("score")
            if kind == "mask":
                rows.add(label or "", id=place, score=score, mask=_mask(shape, (height, width)))
                continue
            points = [[number(v, "a coordinate") for v in p] for p in shape["points"]]
            if any(len(point) != 2 for point in points):
                raise InputError("a point has no two coordinates")
            if kind == "rectangle":
                x, y = zip(*points, strict=True)
                rows.add(label or "", (min(x), min(y), max(x), max(y)), id=place, score=score)
            elif kind == "circle":
                (cx, cy), (ex, ey) = points
                radius = math.hypot(ex - cx, ey - cy)
                outline = ellipse(cx, cy, radius, radius)
                rows.findings.add(ROTATED, item, "circle")
                rows.add(label or "", id=place, score=score, polygons=[outline])
            elif kind in _OUTLINES:
                outline = [value for point in points for value in point]
                group = shape.get("group_id")
                if group is None or kind != "polygon":
                    rows.add(label or "", id=place, score=score, polygons=[outline])
                elif len(outline) < 6:
                    raise InputError("an outline needs three points or more")
                else:
                    _, outlines, _ = groups.setdefault((label or "", group), (place, [], score))
                    outlines.append(outline)
            else:
                rows.findings.add(NO_REGION, item, str(kind))
    for (label, _), (place, outlines, score) in groups.items():
        with rows.reporting(f"{name}, shape {place}"):
            rows.add(label, id=place, score=score, polygons=outlines)


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> RLE:
    """A mask: a PNG in base64, as large as its box; the box holds its last pixel."""
    if min(size) <= 0 or size[0] * size[1] > MAX_PIXELS:
        raise InputError("a mask in a file without imageHeight and imageWidth")
    (x0, y0), _ = ([number(v, "a coordinate") for v in p] for p in shape["points"])
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as image:
            if image.width > size[1] or image.height > size[0]:
                raise InputError(f"a mask of {image.width} x {image.height}: more than the image")
            crop = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise InputError(f"a mask that is no PNG in base64 ({error})") from None
    left, top = round(x0), round(y0)
    if left < 0 or top < 0 or left + crop.shape[1] > size[1] or top + crop.shape[0] > size[0]:
        raise InputError(f"a mask of {crop.shape[1]} x {crop.shape[0]} at {left}, {top}: outside")
    return encode_crop(crop, left, top, size=size)
