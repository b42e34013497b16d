"""Writers of COCO: annotations, and results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anyregion.files import write_json, writing
from anyregion.io.labels import (
    ClassNames,
    LabelledImage,
    LabelledRegion,
    image_ids,
)
from anyregion.io.writers.writing import Outlines, WriteOptions, WriteReport, rounded, use_mask
from anyregion.predictions import record_to_coco

_OPTIONAL = ("score", "labels", "scores")


def write_coco(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `annotations.json`. Ids of annotations are the regions' where every one has a whole
    number of its own, else 1, 2, ...; `region_id` is the region's in any case. Masks are
    run-length codes, or with `polygons` a polygon for each part.
    """
    report, listed = WriteReport(), list(images)
    write_annotations(listed, classes, out / "annotations.json", options, report)
    return report


def write_annotations(
    listed: list[LabelledImage],
    classes: ClassNames,
    path: Path,
    options: WriteOptions,
    report: WriteReport,
) -> None:
    """Write one COCO file of images and count them in the report."""
    outlines = Outlines(options, report)
    numbers = image_ids(listed)
    own = [r.id for image in listed for r in image.regions]
    keep_ids = len(set(own)) == len(own) and all(type(i) is int and i >= 0 for i in own)
    annotations: list[dict[str, Any]] = []
    for number, image in zip(numbers, listed, strict=True):
        for region in image.regions:
            place = int(region.id) if keep_ids else len(annotations) + 1
            annotations.append(
                _annotation(region, image, number, place, classes, options, outlines)
            )
        report.count(image)
    content = {
        "info": {"description": "regions named by anyregion"},
        "licenses": [],
        "images": _images(numbers, listed),
        "annotations": annotations,
        "categories": _categories(classes),
    }
    with writing(path):
        write_json(path, content)
    report.files.append(path)


def write_coco_results(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `results.json`, and `images.json`, the images and categories that its ids mean. A
    region without a score has 1.
    """
    report, listed = WriteReport(), list(images)
    outlines = Outlines(options, report)
    numbers = image_ids(listed)
    results: list[dict[str, Any]] = []
    for number, image in zip(numbers, listed, strict=True):
        for region in image.regions:
            result = _annotation(
                region, image, number, len(results) + 1, classes, options, outlines
            )
            if not result["segmentation"]:
                del result["segmentation"]
            for key in ("area", "iscrowd", "region_id"):
                del result[key]
            results.append({"score": 1.0, **result, "id": region.id})
        report.count(image)
    index = {
        "images": _images(numbers, listed),
        "annotations": [],
        "categories": _categories(classes),
    }
    for path, content in ((out / "results.json", results), (out / "images.json", index)):
        with writing(path):
            write_json(path, content)
        report.files.append(path)
    return report


def _annotation(
    region: LabelledRegion,
    image: LabelledImage,
    number: int,
    annotation_id: int,
    classes: ClassNames,
    options: WriteOptions,
    outlines: Outlines,
) -> dict[str, Any]:
    record = {
        "id": region.id,
        "box": rounded(region.box, 3),
        "score": region.score,
        "labels": list(region.labels),
        "scores": list(region.scores),
        "mask": region.mask if use_mask(region, options) else None,
    }
    category = classes.ids[classes.names.index(region.label)]
    annotation = record_to_coco(record, number, annotation_id, category)
    if record["mask"] is not None and options.shapes == "polygons":
        annotation["segmentation"] = outlines.parts(image, region)
    # of a file that states no scores and no further names, nothing is said of them
    return {key: v for key, v in annotation.items() if key not in _OPTIONAL or v not in (None, [])}


def _images(numbers: list[int], listed: list[LabelledImage]) -> list[dict[str, Any]]:
    return [
        {"id": number, "file_name": i.name, "height": i.size[0], "width": i.size[1]}
        for number, i in zip(numbers, listed, strict=True)
    ]


def _categories(classes: ClassNames) -> list[dict[str, Any]]:
    return [
        {"id": number, "name": name, "supercategory": ""}
        for name, number in zip(classes.names, classes.ids, strict=True)
    ]
