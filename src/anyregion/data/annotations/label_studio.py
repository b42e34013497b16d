"""Reader of Label Studio's JSON: tasks with annotations, or with predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from anyregion.data.annotations.brush_rle import decode_brush
from anyregion.data.annotations.builder import (
    IMAGE_WITHOUT_NAME,
    MALFORMED_ROWS,
    AnnotationRecords,
    ImageRecord,
)
from anyregion.data.annotations.report import Kind
from anyregion.data.annotations.shape_rows import (
    NO_REGION,
    ROTATED,
    ShapeRows,
    ellipse,
    number,
    rectangle,
    turned,
)
from anyregion.data.image_files import find_image
from anyregion.errors import InputError
from anyregion.files import name_parts
from anyregion.images import SUFFIXES
from anyregion.masks import encode_mask

OTHER_ANNOTATIONS = Kind(
    "annotations of tasks beside the newest",
    False,
    "nothing, where the newest is the right one; else delete the others in Label Studio",
)
# Label Studio puts eight digits before the name of a file that was uploaded
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_SHAPES = ("rectangle", "polygon", "brush", "ellipse")
_TURNING = ("rectangle", "ellipse")
# where tasks mostly have their image
_IMAGE_KEYS = ("image", "img", "photo", "picture", "url")


def read_label_studio(
    path: Path, content: Any, *, masks: bool = False, images: str | Path | None = None
) -> AnnotationRecords:
    """Read the tasks of an export. Of each the newest annotation that was not cancelled counts, and
    where there is none the newest prediction.

    Image ids are those of the tasks, region ids those of the results (in a task without an id, its
    place). Rectangles and ellipses that are turned become outlines.

    Args:
        path: what messages call the file.
        content: its JSON.
        masks: keep outlines and brush masks.
        images: the folder of the images: tells whether files have the digits that Label Studio puts
            before uploaded ones. Without it they are left out.
    """
    rows = ShapeRows()
    for place, task in enumerate(content if isinstance(content, list) else [content]):
        key = task.get("id") if isinstance(task, dict) else None
        key = str(key) if isinstance(key, (int, str)) else f"#{place}"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            rows.findings.add(MALFORMED_ROWS, f"task {key}", "no task with data")
            continue
        name = image_name(task["data"], None if images is None else Path(images))
        if name is None:
            reason = "no image: no value of its data is the name of a picture"
            rows.findings.add(IMAGE_WITHOUT_NAME, f"task {key}", reason)
            continue
        results = newest_results(task, rows, key)
        rows.images.append(ImageRecord(key, name, _size(results)))
        for region, parts in regions_of(results).items():
            with rows.reporting(f"{name}, region {region}"):
                _add(rows, region, parts, f"{name}, region {region}")
    return rows.records(path, masks=masks)


def image_name(data: Mapping[str, Any], folder: Path | None) -> str | None:
    """The image's file of a task's data; None where no value is the name of a picture.

    Of an uploaded file (`/data/upload/1/0a1b2c3d-dog.jpg`) the digits are dropped, unless the file
    lies in `folder` with them.
    """
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    first = [texts[key] for key in _IMAGE_KEYS if key in texts]
    for value in [*first, *texts.values()]:
        parts = name_parts(value)
        if not parts or PurePath(parts[-1]).suffix.lower() not in SUFFIXES:
            continue
        if "/data/upload/" in value and (short := _UPLOADED.sub("", parts[-1], count=1)):
            # the project's number above it is no folder of the images
            if folder is not None and find_image(folder, parts[-1]) is not None:
                return parts[-1]
            return short
        return "/".join(parts)
    return None


def newest_results(task: Mapping[str, Any], rows: ShapeRows, key: str) -> list[Any]:
    """The results of the annotation or prediction of a task that counts."""
    for kind in ("annotations", "predictions"):
        listed = task.get(kind)
        entries = [
            e
            for e in (listed if isinstance(listed, list) else ())
            if isinstance(e, dict) and not e.get("was_cancelled")
        ]
        if entries:
            order = [str(e.get("updated_at") or e.get("created_at") or "") for e in entries]
            newest = max(range(len(entries)), key=lambda i: (order[i], i))
            if kind == "annotations" and len(entries) > 1:
                reason = f"{len(entries)} annotations; the newest counts"
                rows.findings.add(OTHER_ANNOTATIONS, f"task {key}", reason)
            results = entries[newest].get("result")
            if isinstance(results, list):
                score = entries[newest].get("score") if kind == "predictions" else None
                return [
                    {"score": score, **r} if isinstance(r, dict) and score is not None else r
                    for r in results
                ]
            rows.findings.add(MALFORMED_ROWS, f"task {key}", "a result that is no list")
    return []


def regions_of(results: list[Any]) -> dict[int | str, list[Any]]:
    """The results by their id: a shape and its label may be two results with one id."""
    regions: dict[int | str, list[Any]] = {}
    for place, result in enumerate(results):
        identity = result.get("id") if isinstance(result, dict) else None
        # relations between regions have no id, and are none
        if isinstance(result, dict) and result.get("type") == "relation":
            continue
        region = identity if isinstance(identity, (str, int)) else f"#{place}"
        regions.setdefault(region, []).append(result)
    return regions


def _size(results: list[Any]) -> tuple[int, int]:
    for result in results:
        if isinstance(result, dict):
            sides = (result.get("original_height"), result.get("original_width"))
            if all(type(side) is int and 0 < side < 2**31 for side in sides):
                return sides  # type: ignore[return-value]
    return (-1, -1)


def shape_of(result: Mapping[str, Any]) -> str | None:
    """`rectangle`, `polygon`, `brush`, `ellipse`, or None for a result that is no region."""
    kind = str(result.get("type") or "").removesuffix("labels").removesuffix("_")
    value = result.get("value")
    if kind in _SHAPES and isinstance(value, dict):
        # `brushlabels` may stand without a mask, for a region that was erased
        return kind if value.keys() & {"x", "points", "rle", "radiusX"} else None
    return None


def label_key(value: Mapping[str, Any]) -> str | None:
    """The key under which a result's value holds its names, if it does: `rectanglelabels`, ..."""
    return next((k for k in value if k.endswith("labels") and isinstance(value[k], list)), None)


def _add(rows: ShapeRows, region: int | str, parts: list[Any], item: str) -> None:
    """One region of all results that have its id."""
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"not an object: {parts[0]!r:.40}")
    shape = next((part for part in parts if shape_of(part)), None)
    if shape is None:
        kinds = ", ".join(str(part.get("type")) for part in parts)
        # choices and texts of the whole image have a region's form, and are none
        if any(key in part for part in parts for key in ("original_width", "original_height")):
            rows.findings.add(NO_REGION, item, kinds)
        return
    height, width = _size([shape])
    if height < 0:
        raise InputError("no original_width and original_height: its percent are of no size")
    kind, rotation = shape_of(shape), _rotation(shape)
    if rotation or kind == "ellipse":
        rows.findings.add(ROTATED, item, f"{kind}, {rotation:g} degrees")
    names = (part["value"] for part in parts if isinstance(part.get("value"), dict))
    labels = (value[key][0] for value in names if (key := label_key(value)) and value[key])
    rows.add(
        str(next(labels, "")),
        id=region,
        score=shape.get("score"),
        **shape_geometry(shape, (height, width)),
    )


def _rotation(shape: Mapping[str, Any]) -> float:
    """Degrees by which a rectangle or an ellipse is turned, clockwise."""
    turns = shape_of(shape) in _TURNING
    return number(shape["value"].get("rotation") or 0, "rotation") if turns else 0.0


def shape_geometry(shape: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Where a shape is: its `box` (xyxy), its `polygons` or its `mask`, in pixels.

    A rectangle that is turned is the polygon of its corners: Label Studio turns it clockwise around
    its first one; an ellipse is turned around its centre.

    Args:
        shape: a result for which `shape_of` names a kind.
        size: `(height, width)` of the image that its percent are of.

    Raises:
        InputError: a shape that cannot be placed.
    """
    if shape.get("image_rotation"):
        raise InputError(f"drawn on the image turned by {shape['image_rotation']} degrees")
    value, kind, rotation = shape["value"], shape_of(shape), _rotation(shape)
    if kind == "brush":
        if value.get("format") != "rle":
            raise InputError(f"a brush mask of format {value.get('format')!r:.20}, not rle")
        return {"mask": encode_mask(decode_brush(value["rle"], *size))}
    scale = np.array(size[::-1]) / 100  # percent to pixels

    def pair(first: str, second: str) -> Any:
        return np.array([number(value[first], first), number(value[second], second)]) * scale

    if kind == "polygon":
        points = [[number(v, "a coordinate") for v in point] for point in value["points"]]
        if any(len(point) != 2 for point in points):
            raise InputError("a point of the outline has no two coordinates")
        return {"polygons": [(np.array(points).reshape(-1, 2) * scale).reshape(-1).tolist()]}
    corner = pair("x", "y")
    if kind == "ellipse":
        (cx, cy), (rx, ry) = corner, pair("radiusX", "radiusY")
        return {"polygons": [ellipse(cx, cy, rx, ry, rotation)]}
    # percent of many digits are pixels of few
    box = np.round(np.concatenate([corner, corner + pair("width", "height")]), 4).tolist()
    if rotation:
        # around its first corner
        return {"polygons": [turned(rectangle(box), rotation, corner)]}
    return {"box": box}
