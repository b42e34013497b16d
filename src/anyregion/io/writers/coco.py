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
from anyregion.masks import mask_area


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
            annotation = _annotation(region, image, number, classes, options, outlines)
            annotation_id = region.id if keep_ids else len(annotations) + 1
            annotations.append({"id": annotation_id, **annotation, "region_id": region.id})
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
            result = _annotation(region, image, number, classes, options, outlines)
            if not result["segmentation"]:
                del result["segmentation"]
            for key in ("area", "iscrowd"):
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
    classes: ClassNames,
    options: WriteOptions,
    outlines: Outlines,
) -> dict[str, Any]:
    x0, y0, x1, y1 = region.box
    segmentation: Any = []
    area = (x1 - x0) * (y1 - y0)
    if use_mask(region, options):
        assert region.mask is not None
        area = mask_area(region.mask)
        polygons = options.shapes == "polygons"
        segmentation = outlines.parts(image, region) if polygons else region.mask
    annotation: dict[str, Any] = {
        "image_id": number,
        "category_id": classes.ids[classes.names.index(region.label)],
        "bbox": rounded((x0, y0, x1 - x0, y1 - y0), 3),
        "area": round(area, 3),
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    if region.score is not None:
        annotation["score"] = region.score
    if region.labels:
        annotation |= {"labels": list(region.labels), "scores": list(region.scores)}
    return annotation


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
