"""Writer of Label Studio: tasks with predictions, and a labelling interface for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from anyregion.data.annotations.brush_rle import encode_brush
from anyregion.data.annotations.label_studio import label_key
from anyregion.files import write_json, writing
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.writers.writing import (
    Outlines,
    WriteOptions,
    WriteReport,
    add_element,
    use_mask,
    write_xml,
)
from anyregion.masks import decode_mask

# by the kind of shape: the tag of the interface, and what it is called there
_CONTROLS = {
    "rectanglelabels": ("RectangleLabels", "rectangles"),
    "polygonlabels": ("PolygonLabels", "polygons"),
    "brushlabels": ("BrushLabels", "brushes"),
}


def write_label_studio(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `tasks.json`, tasks with predictions to import, and `interface.xml`, the labelling
    interface that shows them. Masks are brushes, or with `polygons` one polygon a part.
    """
    report = WriteReport()
    outlines = Outlines(options, report)
    tasks: list[dict[str, Any]] = []
    used: set[str] = set()
    for image in images:
        results = [
            result
            for region in image.regions
            for result in region_results(image, region, options, outlines)
        ]
        used |= {result["type"] for result in results}
        task: dict[str, Any] = {
            "data": {"image": options.image_prefix + quote(image.name, errors="backslashreplace")},
            "predictions": [prediction(results)],
        }
        if image.key is not None and image.key.isascii() and image.key.isdecimal():
            task["id"] = int(image.key)
        tasks.append(task)
        report.count(image)
    path = out / "tasks.json"
    with writing(path):
        write_json(path, tasks)
    root = ElementTree.Element("View")
    add_element(root, "Image", name="image", value="$image", zoom="true")
    for kind in sorted(used or {"rectanglelabels"}):
        tag, name = _CONTROLS[kind]
        control = add_element(root, tag, name=name, toName="image")
        for label in classes.names:
            add_element(control, "Label", value=label)
    # Label Studio takes it as text, which may not state an encoding
    write_xml(out / "interface.xml", root, declaration=False)
    report.files += [path, out / "interface.xml"]
    return report


def prediction(results: list[dict[str, Any]]) -> dict[str, Any]:
    """A prediction of results; its score is their mean, where they have any."""
    scores = [r["score"] for r in results if r.get("score") is not None]
    more = {"score": round(float(np.mean(scores)), 6)} if scores else {}
    return {"model_version": "anyregion", **more, "result": results}


def named_results(
    shape: Mapping[str, Any], parts: Sequence[Any], labels: Sequence[str], score: float | None
) -> list[dict[str, Any]]:
    """The results of one region under a new name: one, or a shape and a label that it has.

    Args:
        shape: the result that says where it is.
        parts: all results of the region; one of another control may hold its label.
        labels: the name; none where it has none.
        score: of the name.
    """
    scored = {} if score is None else {"score": score}
    kind = str(shape["type"])
    if kind.endswith("labels"):
        value = {**shape["value"], kind: list(labels)}
        return [{**shape, "value": value, **scored}]
    # a shape whose label is a result of its own, of another control
    label = next((p for p in parts if isinstance(p, dict) and label_key(p.get("value") or {})), {})
    control = {"from_name": "label", "type": "labels", **label}
    value = {**shape["value"], str(control["type"]): list(labels)}
    bare = {**shape, **scored}
    return [bare, {**shape, **control, "value": value, **scored}] if labels else [bare]


def region_results(
    image: LabelledImage, region: LabelledRegion, options: WriteOptions, outlines: Outlines
) -> list[dict[str, Any]]:
    """The results of one region: a rectangle, a brush, or a polygon for each part of its mask."""
    height, width = image.size
    percent = 100 / np.array([width, height])
    values: list[tuple[str, dict[str, Any]]]
    if not use_mask(region, options):
        x0, y0, x1, y1 = region.box
        x, y = np.array([x0, y0]) * percent
        w, h = np.array([x1 - x0, y1 - y0]) * percent
        value = {"x": float(x), "y": float(y), "width": float(w), "height": float(h)}
        values = [("rectanglelabels", {**value, "rotation": 0})]
    elif options.shapes == "polygons":
        values = [
            (
                "polygonlabels",
                {"points": (np.array(p).reshape(-1, 2) * percent).tolist(), "closed": True},
            )
            for p in outlines.parts(image, region)
        ]
    else:
        assert region.mask is not None
        code = encode_brush(decode_mask(region.mask))
        values = [("brushlabels", {"format": "rle", "rle": code})]
    results: list[dict[str, Any]] = []
    for part, (kind, value) in enumerate(values):
        # ids are texts there; the parts of a mask are regions of their own
        result = {
            "id": str(region.id) if part == 0 else f"{region.id}.{part}",
            "type": kind,
            "from_name": _CONTROLS[kind][1],
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, kind: [region.label]},
        }
        if region.score is not None:
            result["score"] = region.score
        results.append(result)
    return results
