"""How right the labels of `anyregion dataset` are, by the score from which on they count as sure.

Reads a run over annotated photographs (`anyregion dataset`, or `recognize --regions auto`) and
matches its regions to the annotated ones, the surest first, at an IoU of 0.5 or more. For several
cuts: labels an image, the share of them that lie on an annotated region (`placed`), and are named
as it is (`right`), and the share of annotated regions that have a right label (`covered`). Crowds
are no annotated regions.

    anyregion dataset PHOTOS --vocabulary coco --to coco --out DIR
    python benchmarks/dataset_cut.py --run DIR/run --annotations FILE.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from anyregion.io.labels import LabelledImage, labels_of_file
from anyregion.io.regions import load_regions
from anyregion.io.writers.writing import WriteOptions
from anyregion.runs.export_labels import LabelSource
from anyregion.vocabulary import name_key

CUTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def xywh(image: LabelledImage) -> np.ndarray[Any, np.dtype[np.float64]]:
    boxes = np.array([region.box for region in image.regions]).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def match(image: LabelledImage, truth: LabelledImage) -> list[tuple[float, bool, bool]]:
    """Of each region its score, whether it lies on a true region of its own, and is named so."""
    crowd = np.zeros(len(truth.regions), dtype=np.uint8)
    overlap = coco_mask.iou(xywh(image), xywh(truth), crowd)
    free = np.ones(len(truth.regions), dtype=bool)
    rows: list[tuple[float, bool, bool]] = []
    order = np.argsort([-(region.score or 0) for region in image.regions], kind="stable")
    for row in order.tolist():
        region = image.regions[row]
        placed = right = False
        candidates = np.flatnonzero(free & (np.asarray(overlap).reshape(-1, len(free))[row] >= 0.5))
        if len(candidates):
            names = [name_key(truth.regions[i].label) for i in candidates]
            same = [
                i for i, n in zip(candidates, names, strict=True) if n == name_key(region.label)
            ]
            best = max(same or candidates.tolist(), key=lambda i: overlap[row][i])
            free[best] = False
            placed, right = True, bool(same)
        rows.append((region.score or 0.0, placed, right))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, metavar="DIR")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    file = load_regions(args.annotations)
    truths = {
        Path(image.name).name: image
        for image in labels_of_file(file)
        if isinstance(image, LabelledImage)
    }
    images = list(LabelSource(args.run, WriteOptions(), keep_refused=True))
    pairs = [(i, truths[Path(i.name).name]) for i in images if Path(i.name).name in truths]
    table: dict[str, dict[str, float]] = {}
    for cut in CUTS:
        rows: list[tuple[float, bool, bool]] = []
        for image, truth in pairs:
            sure = tuple(r for r in image.regions if (r.score or 0) >= cut)
            rows += match(LabelledImage(image.name, image.size, sure), truth)
        total = sum(len(truth.regions) for _, truth in pairs)
        right = sum(row[2] for row in rows)
        table[f"{cut:g}"] = {
            "labels an image": len(rows) / len(pairs),
            "placed": sum(row[1] for row in rows) / max(len(rows), 1),
            "right": right / max(len(rows), 1),
            "covered": right / total,
        }
    report = {"images": len(pairs), "annotated regions an image": total / len(pairs), **table}
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
