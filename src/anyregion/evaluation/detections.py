"""What was found in many images, as columns; from predictions, and from and to COCO results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations import Annotations
from anyregion.errors import InputError, SetAside
from anyregion.files import read_json
from anyregion.masks import mask_area, mask_box
from anyregion.predictions import Predictions

MALFORMED_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Detections:
    """Regions with one class each; a region that may be several things has several rows.

    Attributes:
        images: `(D,)` int64, positions in the annotations' images.
        labels: `(D,)` int64, positions in the annotations' categories.
        scores: `(D,)` float64.
        boxes: `(D, 4)` float64, xywh in pixels, as COCO's evaluators compute with them.
        masks: per row COCO RLE or polygons, or None; the whole column is None without any.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    masks: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Detections:
        """The rows at `rows` (positions or a boolean choice)."""
        at = np.arange(len(self))[rows]
        return Detections(
            self.images[at],
            self.labels[at],
            self.scores[at],
            self.boxes[at],
            None if self.masks is None else tuple(self.masks[i] for i in at.tolist()),
        )

    def best(self, limit: int) -> Detections:
        """No more than the `limit` best of each image; of equal scores the earlier row stays."""
        order = np.lexsort((-self.scores, self.images))
        images = self.images[order]
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
        """Nothing found."""
        whole = np.zeros(0, dtype=np.int64)
        return cls(whole, whole, np.zeros(0), np.zeros((0, 4)), ())


def from_predictions(
    image: int,
    answer: Predictions,
    labels_of: Sequence[Sequence[int]],
    *,
    pairs: int,
    masks: bool,
) -> Detections:
    """The `pairs` best (region, name) of one image, as LVIS is scored (RegionSpot, section 4).

    Args:
        image: position in the annotations.
        answer: with at least `min(pairs, C)` names a region.
        labels_of: per name of the vocabulary the categories that it stands for; often one. Names
            that stand for none take their place among the pairs, and then go.
        masks: also keep each region's mask.

    Raises:
        InputError: masks are wanted, and neither the method nor the regions have any.
    """
    rows: list[int] = []
    labels: list[int] = []
    scores: list[float] = []
    for row, name, score in answer.top_pairs(pairs):
        for label in labels_of[name]:
            rows.append(row)
            labels.append(label)
            scores.append(score)
    corners = answer.boxes[rows].reshape(-1, 4)
    found: list[Any] | None = None
    if masks:
        own = answer.masks or tuple(answer.regions.masks[i] for i in answer.rows)
        if any(mask is None for mask in own):
            raise InputError(
                "mask AP needs masks, but this recogniser finds none and the regions bring none"
            )
        found = [own[row] for row in rows]
    return Detections(
        np.full(len(rows), image, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        None if found is None else tuple(found),
    )


def read_results(
    path: str | Path, annotations: Annotations, *, masks: bool, aside: list[SetAside]
) -> Detections:
    """COCO results: `[{"image_id", "category_id", "score", "bbox" (xywh), "segmentation"}, ...]`.

    Rows of images or categories that the annotations do not list, and malformed ones, are set
    aside. A row without `bbox` has its mask's.

    Args:
        path: the JSON file; the `predictions.json` of `anyregion recognize` is read too.
        annotations: whose images and categories the ids mean.
        masks: also read masks.
        aside: grows by what is set aside.

    Raises:
        InputError: not JSON, not results, or masks are wanted and some rows have none.
    """
    content = read_json(Path(path))
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if not isinstance(content, list):
        raise InputError(f"{path}: not COCO results, which are a list of objects")
    images = {key: i for i, key in enumerate(annotations.image_ids)}
    labels = {int(c): i for i, c in enumerate(annotations.categories.ids)}
    unknown: Counter[str] = Counter()
    kept: list[tuple[int, int, float, list[float]]] = []
    coded: list[Any] = []
    malformed: list[SetAside] = []
    for position, row in enumerate(content):
        try:
            image, label = _text(row["image_id"]), int(row["category_id"])
            mask = row.get("segmentation") or None
            read = (float(row["score"]), _box(row, mask))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            malformed.append(SetAside(f"prediction #{position}", f"malformed ({error!r:.80})"))
            continue
        if image not in images:
            unknown[f"image {image}"] += 1
        elif label not in labels:
            unknown[f"category {label}"] += 1
        else:
            kept.append((images[image], labels[label], *read))
            coded.append(mask)
    aside += malformed[:MALFORMED_SHOWN]
    if (more := len(malformed) - MALFORMED_SHOWN) > 0:
        aside.append(SetAside(f"{more:,} more predictions", "malformed"))
    aside += [
        SetAside(what, f"{count:,} predictions, but the annotations do not list it")
        for what, count in unknown.items()
    ]
    if masks and any(mask is None for mask in coded):
        raise InputError(f"{path}: mask AP needs the mask of every prediction (`segmentation`)")
    return Detections(
        np.array([k[0] for k in kept], dtype=np.int64),
        np.array([k[1] for k in kept], dtype=np.int64),
        np.array([k[2] for k in kept], dtype=np.float64),
        np.array([k[3] for k in kept], dtype=np.float64).reshape(-1, 4),
        tuple(coded) if masks else None,
    )


def to_results(found: Detections, annotations: Annotations) -> list[dict[str, Any]]:
    """COCO results, JSON-ready; `read_results` reads them, and so do other evaluators."""
    results: list[dict[str, Any]] = []
    for i in range(len(found)):
        key = annotations.image_ids[found.images[i]]
        row: dict[str, Any] = {
            "image_id": int(key) if key.isdigit() and str(int(key)) == key else key,
            "category_id": int(annotations.categories.ids[found.labels[i]]),
            "bbox": [round(v, 3) for v in found.boxes[i].tolist()],
            "score": float(f"{found.scores[i]:.6g}"),
        }
        if found.masks is not None:
            row["segmentation"] = found.masks[i]
        results.append(row)
    return results


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _box(row: dict[str, Any], mask: Any) -> list[float]:
    given = row.get("bbox")
    if given is None and isinstance(mask, dict):
        if not mask_area(mask):  # type: ignore[arg-type]
            raise ValueError("the mask is empty")
        x0, y0, x1, y1 = mask_box(mask).tolist()  # type: ignore[arg-type]
        return [x0, y0, x1 - x0, y1 - y0]
    x, y, width, height = (float(v) for v in given)  # type: ignore[union-attr]
    if not np.isfinite([x, y, width, height]).all():
        raise ValueError("a box that is not finite")
    return [x, y, width, height]
