"""Writer of CVAT for images 1.1: one XML of all images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.writers.writing import (
    Outlines,
    WriteOptions,
    WriteReport,
    add_element,
    crop_of,
    rounded,
    use_mask,
    write_xml,
)
from anyregion.masks import decode_mask, mask_box


def write_cvat(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `annotations.xml`, to upload to a task or job whose images have these names. Masks are
    masks, or with `polygons` a polygon for each part, the parts of a region in one group.
    """
    report = WriteReport()
    outlines = Outlines(options, report)
    root = ElementTree.Element("annotations")
    add_element(root, "version", "1.1")
    labels = add_element(add_element(add_element(root, "meta"), "task"), "labels")
    for name in classes.names:
        label = add_element(labels, "label")
        add_element(label, "name", name)
        add_element(label, "attributes")
    group = 0
    for position, image in enumerate(images):
        key = image.key if image.key is not None and image.key.isdecimal() else position
        node = add_element(
            root, "image", id=key, name=image.name, width=image.size[1], height=image.size[0]
        )
        for region in image.regions:
            shapes = _shapes(image, region, options, outlines)
            group += len(shapes) > 1
            for tag, attributes in shapes:
                more = {"group_id": group} if len(shapes) > 1 else {}
                add_element(
                    node, tag, "", label=region.label, source="auto", occluded=0,
                    **attributes, z_order=0, **more,
                )  # fmt: skip
        report.count(image)
    path = out / "annotations.xml"
    write_xml(path, root)
    report.files.append(path)
    return report


def _shapes(
    image: LabelledImage, region: LabelledRegion, options: WriteOptions, outlines: Outlines
) -> list[tuple[str, dict[str, Any]]]:
    if not use_mask(region, options):
        corners = zip(("xtl", "ytl", "xbr", "ybr"), rounded(region.box), strict=True)
        return [("box", dict(corners))]
    assert region.mask is not None
    if options.shapes == "polygons":
        return [
            ("polygon", {"points": ";".join(f"{x:g},{y:g}" for x, y in np.reshape(p, (-1, 2)))})
            for p in outlines.parts(image, region)
        ]
    x0, y0, x1, y1 = (int(v) for v in mask_box(region.mask))
    crop = crop_of(decode_mask(region.mask), (x0, y0, x1, y1))
    runs = ", ".join(map(str, row_runs(crop)))
    return [("mask", {"rle": runs, "left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0})]


def row_runs(crop: NDArray[np.bool_]) -> list[int]:
    """The lengths of runs, row by row, the first of them outside."""
    flat = np.concatenate([[False], crop.reshape(-1)])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs: list[int] = np.diff(edges, prepend=0, append=crop.size).tolist()
    return runs
