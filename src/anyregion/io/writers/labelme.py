"""Writer of LabelMe: a JSON file of shapes an image."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from anyregion.data.image_files import find_image
from anyregion.files import write_json, writing
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.writers.writing import (
    Outlines,
    Stems,
    WriteOptions,
    WriteReport,
    crop_of,
    rounded,
    use_mask,
)
from anyregion.masks import decode_mask, mask_box


def write_labelme(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `<name>.json` for each image. Masks are `mask` shapes (LabelMe 5.2 and later), or with
    `polygons` a polygon for each part, the parts of a region under one `group_id`. The paths of
    images lead to the files where their folder is known.
    """
    report = WriteReport()
    stems, outlines = Stems(report), Outlines(options, report)
    for image in images:
        stem = stems.of(image)
        if stem is None:
            continue
        path = out / f"{stem}.json"
        source = None if options.images is None else find_image(options.images, image.name)
        place = image.name.rpartition("/")[2]
        if source is not None:
            place = Path(os.path.relpath(source, path.parent)).as_posix()
        shapes = [
            shape
            for row, region in enumerate(image.regions)
            for shape in _shapes(image, region, row, options, outlines)
        ]
        page: dict[str, Any] = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": place,
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        with writing(path):
            write_json(path, page, indent=2)
        report.count(image)
    report.files.append(out)
    return report


def _shapes(
    image: LabelledImage,
    region: LabelledRegion,
    row: int,
    options: WriteOptions,
    outlines: Outlines,
) -> list[dict[str, Any]]:
    """The shapes of one region: several only for the parts of a mask."""
    base: dict[str, Any] = {
        "label": region.label,
        "group_id": None,
        # LabelMe shows it beside the shape, and keeps keys that it does not know
        "description": f"region {region.id}",
        "flags": {},
    }
    if region.score is not None:
        base["score"] = region.score
    if not use_mask(region, options):
        x0, y0, x1, y1 = rounded(region.box)
        return [{**base, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}]
    assert region.mask is not None
    if options.shapes == "polygons":
        polygons = outlines.parts(image, region)
        group = row if len(polygons) > 1 else None
        return [
            {
                **base,
                "group_id": group,
                "points": [[x, y] for x, y in zip(polygon[::2], polygon[1::2], strict=True)],
                "shape_type": "polygon",
            }
            for polygon in polygons
        ]
    x0, y0, x1, y1 = (int(v) for v in mask_box(region.mask))
    crop = crop_of(decode_mask(region.mask), (x0, y0, x1, y1))
    png = io.BytesIO()
    Image.fromarray(crop).save(png, "PNG")
    # its box holds the last pixel
    points = [[x0, y0], [x1 - 1, y1 - 1]]
    code = base64.b64encode(png.getvalue()).decode()
    return [{**base, "points": points, "shape_type": "mask", "mask": code}]
