"""One class compared by pycocotools: columns in, precision and recall out."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anyregion.evaluation.metrics.ap_table import Kind
from anyregion.masks import RLE, mask_area

OUTSIDE_ALL = -1.0
"""An area that no range of sizes holds: unmatched detections of it are ignored."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Regions of either side as columns; boxes are xywh."""

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_] | None = None
    scores: NDArray[np.float64] | None = None
    masks: tuple[RLE, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        return Rows(
            self.images[rows],
            self.labels[rows],
            self.boxes[rows],
            self.areas[rows],
            None if self.crowd is None else self.crowd[rows],
            None if self.scores is None else self.scores[rows],
            None if self.masks is None else tuple(self.masks[i] for i in rows.tolist()),
        )


def one_class(
    truth: Rows,
    answer: Rows,
    sizes: NDArray[np.int64],
    kind: Kind,
    allowed: tuple[int, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision `(10, 4)` and recall `(10, 4, M)` of one class."""
    label = int(truth.labels[0])
    images = [
        {"id": int(i), "height": int(sizes[i, 0]), "width": int(sizes[i, 1])}
        for i in np.union1d(truth.images, answer.images)
    ]
    # pycocotools tells the world what it does
    with contextlib.redirect_stdout(io.StringIO()):
        right, mine = (_index(rows, images, label) for rows in (truth, answer))
        evaluator = COCOeval(right, mine, "bbox" if kind == "box" else "segm")
        evaluator.params.maxDets = list(allowed)
        evaluator.evaluate()
        evaluator.accumulate()
    curves = np.asarray(evaluator.eval["precision"])[:, :, 0, :, -1]
    recall = np.asarray(evaluator.eval["recall"])[:, 0]
    absent = recall < 0
    return (
        np.where(absent[..., -1], np.nan, curves.mean(axis=1)),
        np.where(absent, np.nan, recall),
    )


def _index(rows: Rows, images: list[dict[str, int]], label: int) -> COCO:
    listed: list[dict[str, Any]] = []
    for i in range(len(rows)):
        image = int(rows.images[i])
        row: dict[str, Any] = {
            "id": i + 1,  # 0 would mean "matches nothing"
            "image_id": image,
            "category_id": label,
            "bbox": rows.boxes[i].tolist(),
            "area": float(rows.areas[i]),
            "iscrowd": 0 if rows.crowd is None else int(rows.crowd[i]),
        }
        if rows.scores is not None:
            row["score"] = float(rows.scores[i])
        if rows.masks is not None:
            row["segmentation"] = rows.masks[i]
            if rows.scores is not None and row["area"] != OUTSIDE_ALL:
                row["area"] = mask_area(rows.masks[i])
        listed.append(row)
    index = COCO()
    index.dataset = {
        "images": images,
        "annotations": listed,
        "categories": [{"id": label, "name": ""}],
    }
    index.createIndex()
    return index
