"""Detections as columns, and one class of them compared with the truth by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anyregion.masks import RLE, mask_area

Kind: TypeAlias = Literal["box", "mask"]

OUTSIDE_ALL = -1.0
"""An area that no range of sizes holds: unmatched detections of it are ignored."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Regions with one class each; a region that may be several things has several rows.

    Attributes:
        images: `(D,)` int64, positions in the annotations' images.
        labels: `(D,)` int64, positions in the annotations' categories.
        scores: `(D,)` float64.
        boxes: `(D, 4)` float64, xywh in pixels, as COCO's evaluators compute with them.
        masks: per row its mask, of its image's size; None without any.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    masks: tuple[RLE, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Detections:
        """The rows at these positions."""
        return Detections(
            self.images[rows],
            self.labels[rows],
            self.scores[rows],
            self.boxes[rows],
            None if self.masks is None else tuple(self.masks[i] for i in rows.tolist()),
        )

    def best(self, limit: int) -> Detections:
        """No more than the `limit` best of each image; of equal scores the earlier row stays."""
        order = np.lexsort((-self.scores, self.images))
        images = self.images[order]
        # the position of a row among those of its image: images are sorted, so they are runs
        rank = np.arange(len(order)) - np.searchsorted(images, images)
        return self.take(np.sort(order[rank < limit]))

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
        """One after the other; without masks if any part is."""
        if not parts:
            return cls.empty()
        masks = [part.masks for part in parts]
        return cls(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            None if None in masks else tuple(m for column in masks for m in column or ()),
        )

    @classmethod
    def empty(cls) -> Detections:
        """No detections at all."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, np.zeros(0), np.zeros((0, 4)), ())


@dataclass(frozen=True, eq=False)
class Rows:
    """Regions of either side, annotated or detected, as columns; boxes are xywh."""

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
        """The rows at these positions."""
        return Rows(
            self.images[rows],
            self.labels[rows],
            self.boxes[rows],
            self.areas[rows],
            None if self.crowd is None else self.crowd[rows],
            None if self.scores is None else self.scores[rows],
            None if self.masks is None else tuple(self.masks[i] for i in rows.tolist()),
        )


def evaluate_class(
    truth: Rows,
    detections: Rows,
    sizes: NDArray[np.int64],
    kind: Kind,
    max_detections: tuple[int, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision `(10, 4)` and recall `(10, 4, M)` of one class, which has a region in `truth`.

    Args:
        truth, detections: rows of this class alone.
        sizes: `(I, 2)` height and width of every image.
        kind: compare boxes or masks.
        max_detections: the `M` numbers of detections an image that recall is computed for.
    """
    label = int(truth.labels[0])
    images = [
        {"id": int(i), "height": int(sizes[i, 0]), "width": int(sizes[i, 1])}
        for i in np.union1d(truth.images, detections.images)
    ]
    # pycocotools prints what it does
    with contextlib.redirect_stdout(io.StringIO()):
        indexes = (_to_coco(rows, images, label) for rows in (truth, detections))
        evaluator = COCOeval(*indexes, "bbox" if kind == "box" else "segm")
        evaluator.params.maxDets = list(max_detections)
        evaluator.evaluate()
        evaluator.accumulate()
    # (10 IoUs, 101 recalls, 1 class, 4 sizes, M) -> (10, 101, 4)
    curves = np.asarray(evaluator.eval["precision"])[:, :, 0, :, -1]
    recall = np.asarray(evaluator.eval["recall"])[:, 0]  # (10, 4, M)
    absent = recall < 0  # pycocotools' mark of a size without regions
    return (
        np.where(absent[..., -1], np.nan, curves.mean(axis=1)),
        np.where(absent, np.nan, recall),
    )


def _to_coco(rows: Rows, images: list[dict[str, int]], label: int) -> COCO:
    annotations: list[dict[str, Any]] = []
    for i in range(len(rows)):
        row: dict[str, Any] = {
            "id": i + 1,  # 0 would mean "matches nothing"
            "image_id": int(rows.images[i]),
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
        annotations.append(row)
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": ""}],
    }
    coco.createIndex()
    return coco
