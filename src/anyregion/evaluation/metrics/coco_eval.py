"""Detections as columns, and one class of them compared with the truth by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anyregion.masks import RLE

Kind: TypeAlias = Literal["box", "mask"]

OUTSIDE_ALL = -1.0
"""An area that no range of sizes holds: unmatched detections of it are ignored."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Regions as columns, with one class each: one that may be several things has several rows.

    Attributes:
        images: `(D,)` int64, positions in the annotations' images.
        labels: `(D,)` int64, positions in the annotations' categories.
        scores: `(D,)` float64.
        boxes: `(D, 4)` float64, xywh in pixels, as COCO's evaluators compute with them.
        masks: per row its mask, of its image's size; None without any.
        areas, crowd: `(D,)` float64 and bool. Annotated regions state them; of others the areas are
            added when they are compared.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    masks: tuple[RLE, ...] | None = None
    areas: NDArray[np.float64] | None = None
    crowd: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Detections:
        """The rows at these positions."""
        masks = self.masks and tuple(self.masks[i] for i in rows.tolist())
        columns = {name: v[rows] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, masks=masks, **columns)

    def best(self, limit: int) -> Detections:
        """No more than the `limit` best of each image; of equal scores the earlier row stays."""
        order = np.lexsort((-self.scores, self.images))
        images = self.images[order]
        # the position of a row among those of its image: images are sorted, so they are runs
        rank = np.arange(len(order)) - np.searchsorted(images, images)
        return self.take(np.sort(order[rank < limit]))

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
        """Detections of one image after the other; without masks if any part is."""
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


def evaluate_class(
    truth: Detections,
    detections: Detections,
    sizes: NDArray[np.int64],
    kind: Kind,
    max_detections: tuple[int, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision `(10, 4)` and recall `(10, 4, M)` of one class, which has a region in `truth`.

    Args:
        truth, detections: rows of this class alone.
        sizes: `(I, 2)` height and width of every image.
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
    # -1 is pycocotools' mark of a size without regions
    absent = recall < 0
    return (
        np.where(absent[..., -1], np.nan, curves.mean(axis=1)),
        np.where(absent, np.nan, recall),
    )


def _to_coco(rows: Detections, images: list[dict[str, int]], label: int) -> COCO:
    areas, crowd = (np.zeros(len(rows)) if c is None else c for c in (rows.areas, rows.crowd))
    annotations: list[dict[str, Any]] = []
    for i in range(len(rows)):
        # an id of 0 would mean "matches nothing" to pycocotools
        row: dict[str, Any] = {
            "id": i + 1,
            "image_id": int(rows.images[i]),
            "category_id": label,
            "bbox": rows.boxes[i].tolist(),
            "area": float(areas[i]),
            "iscrowd": int(crowd[i]),
            "score": float(rows.scores[i]),
        }
        if rows.masks is not None:
            row["segmentation"] = rows.masks[i]
        annotations.append(row)
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": ""}],
    }
    coco.createIndex()
    return coco
