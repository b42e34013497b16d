"""What formats of annotation tools lose of masks, and what others' readers make of written files.

`outlines` writes every mask of some sets as polygons and fills them again (pycocotools): the IoU
with the mask, exact and simplified, and what is left where a format's writer keeps outer rings
alone, or the largest of them. `readers` writes a part of a set in each format and reads it with
whichever of these is installed: label-studio-sdk's converter, cvat-sdk, globox, supervision.

    python benchmarks/label_formats.py outlines --data DIR [--limit N] [--json FILE]
    python benchmarks/label_formats.py readers --data DIR [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np

from anyregion.data.annotations.brush_rle import decode_brush, encode_brush
from anyregion.io.labels import ClassNames, LabelledImage, labels_of_file
from anyregion.io.outlines import mask_parts, outline_polygons, single_outline
from anyregion.io.regions import load_regions
from anyregion.io.writers.cvat import row_runs
from anyregion.io.writers.formats import WRITERS
from anyregion.io.writers.writing import WriteOptions, crop_of
from anyregion.masks import RLE, decode_mask, mask_box, mask_iou, segmentation_to_rle

SETS = {
    "coco": "coco/annotations/instances_val_masks.json",
    "ccp": "ccp/annotations/instances_val.json",
    "camvid": "camvid/annotations/regions_val.json",
}
TOLERANCES = (0.0, 0.5, 0.75, 1.0, 2.0)


def read_masks(path: Path, limit: int) -> list[RLE]:
    file = load_regions(path, masks=True)
    masks = [m for entry in file.images.values() for m in entry.regions.masks if m is not None]
    # spread over the set, as images of one kind follow each other
    return [masks[i] for i in np.unique(np.linspace(0, len(masks) - 1, limit).astype(int))]


def filled(mask: RLE, polygons: list[list[float]]) -> float:
    return mask_iou(mask, segmentation_to_rle(polygons, *mask["size"]))


def measure_outlines(masks: list[RLE]) -> dict[str, Any]:
    report: dict[str, Any] = {"masks": len(masks)}
    parts = [mask_parts(mask) for mask in masks]
    holed = np.array([any(part.holes for part in listed) for listed in parts])
    report["with holes"] = float(holed.mean())
    report["of several parts"] = float(np.mean([len(listed) > 1 for listed in parts]))
    for tolerance in TOLERANCES:
        started = time.process_time()
        outlines = [single_outline(mask, tolerance=tolerance) for mask in masks]
        seconds = (time.process_time() - started) / len(masks)
        apart = [outline_polygons(mask, tolerance=tolerance) for mask in masks]
        ious = [filled(m, [o]) for m, o in zip(masks, outlines, strict=True)]
        report[f"one outline, {tolerance:g} pixels"] = {
            **summary(ious),
            "a polygon a part": float(
                np.mean([filled(*p) for p in zip(masks, apart, strict=True)])
            ),
            "corners": float(np.mean([len(o) // 2 for o in outlines])),
            "milliseconds": 1000 * seconds,
        }
    outer = [[part.outer.reshape(-1).tolist() for part in listed] for listed in parts]
    without = np.array([filled(m, rings) for m, rings in zip(masks, outer, strict=True)])
    report["outer rings alone"] = summary(without)
    report["outer rings alone, of masks with holes"] = summary(without[holed])
    largest = [filled(m, rings[:1]) for m, rings in zip(masks, outer, strict=True)]
    report["the largest outer ring alone"] = summary(largest)
    return report


def summary(ious: Any) -> dict[str, float]:
    values = np.array(ious)
    if not len(values):
        return {}
    return {"mean": float(values.mean()), "lowest": float(values.min())}


def measure_readers(path: Path, count: int) -> dict[str, Any]:
    file = load_regions(path, masks=True)
    images = [i for i in labels_of_file(file) if isinstance(i, LabelledImage) and i.regions][:count]
    classes = ClassNames(tuple(file.categories.values()), tuple(file.categories))
    report: dict[str, Any] = {
        "images": len(images), "regions": sum(len(i.regions) for i in images)
    }  # fmt: skip
    for module, check in (
        ("label_studio_sdk", with_label_studio),
        ("cvat_sdk", with_cvat),
        ("globox", with_globox),
    ):
        if find_spec(module) is not None:
            version = metadata.version(module.replace("_", "-"))
            with tempfile.TemporaryDirectory() as folder:
                report[f"{module} {version}"] = check(images, classes, Path(folder))
    return report


def box_errors(read: dict[str, list[Any]], images: list[LabelledImage]) -> dict[str, float]:
    """The largest difference of corners in pixels, by images' names; boxes in their order."""
    worst, boxes = 0.0, 0
    for image in images:
        expected = np.array([region.box for region in image.regions])
        corners = np.array(read.get(image.name, [])).reshape(-1, 4)
        if len(corners) != len(expected):
            return {"boxes lost": float(len(expected) - len(corners))}
        worst = max(worst, float(np.abs(corners - expected).max(initial=0)))
        boxes += len(corners)
    return {"boxes": boxes, "largest difference in pixels": worst}


def with_label_studio(
    images: list[LabelledImage], classes: ClassNames, folder: Path
) -> dict[str, Any]:
    from label_studio_sdk.converter import Converter, brush

    report: dict[str, Any] = {}
    WRITERS["label-studio"](images, classes, folder, WriteOptions(shapes="boxes"))
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        # the converter exports annotations, as a person's who took over the predictions
        task |= {"id": number, "annotations": task.pop("predictions")}
    (folder / "export.json").write_text(json.dumps(tasks))
    converter = Converter((folder / "interface.xml").read_text(), str(folder))
    converter.convert_to_coco(str(folder / "export.json"), str(folder / "coco"), is_dir=False)
    result = json.loads((folder / "coco" / "result.json").read_text())
    names = {i["id"]: image.name for i, image in zip(result["images"], images, strict=True)}
    boxes: dict[str, list[Any]] = {}
    for row in result["annotations"]:
        x, y, w, h = row["bbox"]
        boxes.setdefault(names[row["image_id"]], []).append([x, y, x + w, y + h])
    report["convert_to_coco"] = box_errors(boxes, images)
    masks = [m for i in images for r in i.regions if (m := r.mask) is not None]
    same = read = 0
    for mask in masks:
        pixels = decode_mask(mask)
        decoded = brush.decode_rle(encode_brush(pixels)).reshape(*pixels.shape, 4)
        same += int(np.array_equal(decoded[:, :, 3] > 0, pixels))
        coded = brush.mask2rle(pixels.astype(np.uint8) * 255)
        read += int(np.array_equal(decode_brush(coded, *pixels.shape), pixels))
    report["brush masks"] = len(masks)
    report["equal in decode_rle"] = same
    report["equal from mask2rle"] = read
    pixels = decode_mask(max(masks, key=lambda m: m["size"][0] * m["size"][1]))
    code = encode_brush(pixels)
    timings: dict[str, float] = {}
    for name, call in (
        ("encode_brush", lambda: encode_brush(pixels)),
        ("mask2rle", lambda: brush.mask2rle(pixels.astype(np.uint8) * 255)),
        ("decode_brush", lambda: decode_brush(code, *pixels.shape)),
        ("decode_rle", lambda: brush.decode_rle(code)),
    ):
        started = time.process_time()
        call()
        timings[name] = 1000 * (time.process_time() - started)
    report["milliseconds, {} x {} pixels".format(*pixels.shape)] = timings
    return report


def with_cvat(images: list[LabelledImage], classes: ClassNames, folder: Path) -> dict[str, Any]:
    from cvat_sdk.masks import encode_mask

    masks = [m for i in images for r in i.regions if (m := r.mask) is not None]
    same = 0
    for mask in masks:
        x0, y0, x1, y1 = (int(v) for v in mask_box(mask))
        pixels = decode_mask(mask)
        runs = row_runs(crop_of(pixels, (x0, y0, x1, y1)))
        same += encode_mask(pixels) == [*runs, x0, y0, x1 - 1, y1 - 1]
    return {"masks": len(masks), "equal to masks.encode_mask": same}


def with_globox(images: list[LabelledImage], classes: ClassNames, folder: Path) -> dict[str, Any]:
    from globox import AnnotationSet

    report: dict[str, Any] = {}
    readers = {
        "coco": lambda out: AnnotationSet.from_coco(out / "annotations.json"),
        "voc": lambda out: AnnotationSet.from_pascal_voc(out / "Annotations"),
        "labelme": lambda out: AnnotationSet.from_labelme(out),
        "cvat": lambda out: AnnotationSet.from_cvat(out / "annotations.xml"),
    }
    for to, read in readers.items():
        out = folder / to
        WRITERS[to](images, classes, out, WriteOptions(shapes="boxes"))
        boxes = {
            Path(str(a.image_id)).name: [[b.xmin, b.ymin, b.xmax, b.ymax] for b in a.boxes]
            for a in read(out)
        }
        report[to] = box_errors(boxes, images)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["outlines", "readers"])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=int, default=300, metavar="N", help="masks of each set")
    parser.add_argument("--images", type=int, default=40, metavar="N", help="images for readers")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.what == "outlines":
        report: Any = {
            name: measure_outlines(read_masks(args.data / path, args.limit))
            for name, path in SETS.items()
        }
    else:
        report = measure_readers(args.data / SETS["coco"], args.images)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
