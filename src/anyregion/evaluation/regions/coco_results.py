"""COCO results: detections made of predictions, read from JSON, and written as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.coco import id_text, read_content
from anyregion.data.annotations.conventions import refuse_fractions
from anyregion.data.annotations.layouts import describe_json
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.coco_eval import Detections
from anyregion.masks import RLE, mask_area, mask_box, segmentation_to_rle
from anyregion.predictions import Predictions
from anyregion.vocabulary import name_key

MALFORMED_SHOWN = 20
"""Malformed rows that are listed one by one; of a broken file of millions the rest is a number."""


def from_predictions(
    image: int,
    predictions: Predictions,
    labels_of: Sequence[Sequence[int]],
    *,
    pairs: int,
    masks: bool,
) -> Detections:
    """The `pairs` best (region, name) of one image, as LVIS is scored (RegionSpot, section 4).

    Args:
        image: position in the annotations.
        predictions: with at least `min(pairs, C)` names a region.
        labels_of: per name of the vocabulary the categories that it stands for; often one. Names
            that stand for none take their place among the pairs, and then go.

    Raises:
        InputError: masks are needed, and neither the method nor the regions have any.
    """
    rows: list[int] = []
    labels: list[int] = []
    scores: list[float] = []
    for row, name, score in predictions.top_pairs(pairs):
        for label in labels_of[name]:
            rows.append(row)
            labels.append(label)
            scores.append(score)
    corners = predictions.boxes[rows].reshape(-1, 4)  # xyxy
    row_masks: tuple[RLE, ...] | None = None
    if masks:
        every = predictions.masks or tuple(predictions.regions.masks[i] for i in predictions.rows)
        present = [mask for mask in every if mask is not None]
        if len(present) < len(every):
            raise InputError(
                "mask AP needs masks, but this recogniser finds none and the regions bring none"
            )
        row_masks = tuple(present[row] for row in rows)
    return Detections(
        np.full(len(rows), image, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),  # xywh
        row_masks,
    )


def read_results(
    path: str | Path, annotations: Annotations, *, masks: bool, set_aside: list[SetAside]
) -> Detections:
    """COCO results: `[{"image_id", "category_id", "score", "bbox" (xywh), "segmentation"}, ...]`.

    Rows of images or categories that the annotations do not list, and malformed ones (a score or
    box that is not finite, a mask of another size), are set aside. A row without `bbox` has its
    mask's.

    Args:
        path: the JSON file. One that lists its own images and categories, as the
            `predictions.json` of `anyregion recognize` does, is matched by their names, not by ids.
        set_aside: grows by what cannot be used.

    Raises:
        InputError: not JSON, not results, none of them of these annotations, or masks are needed
            and some rows have none.
    """
    content = read_content(Path(path))
    image_of, label_of = _positions(content, annotations)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if not isinstance(content, list):
        known = describe_json(content) or "not COCO results, which are a list of objects"
        raise InputError(f"{path}: {known}")
    unknown: Counter[str] = Counter()
    malformed: list[SetAside] = []
    images: list[int] = []
    labels: list[int] = []
    scores: list[float] = []
    boxes: list[list[float]] = []
    rles: list[RLE | None] = []
    sizes = annotations.sizes.tolist()
    for position, row in enumerate(content):
        try:
            image, label = id_text(row["image_id"]), id_text(row["category_id"])
            if image not in image_of:
                unknown[f"image {image}"] += 1
                continue
            if label not in label_of:
                unknown[f"category {label}"] += 1
                continue
            # masks are checked only where they are needed
            segmentation, bbox = row.get("segmentation"), row.get("bbox")
            rle = None
            if segmentation and (masks or bbox is None):
                rle = segmentation_to_rle(segmentation, *sizes[image_of[image]])
            score, box = _finite([row["score"]])[0], _xywh(bbox, rle)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{error!r:.80}"
            malformed.append(SetAside(f"prediction #{position}", f"malformed ({reason})"))
            continue
        images.append(image_of[image])
        labels.append(label_of[label])
        scores.append(score)
        boxes.append(box)
        rles.append(rle)
    set_aside += malformed[:MALFORMED_SHOWN]
    if (others := len(malformed) - MALFORMED_SHOWN) > 0:
        set_aside.append(SetAside(f"{others:,} more predictions", "malformed"))
    set_aside += [
        SetAside(item, f"{count:,} predictions, but the annotations do not list it")
        for item, count in unknown.items()
    ]
    if content and not images:
        raise InputError(f"{path}: no prediction can be judged ({set_aside[-1]})")
    stated = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    stated[:, 2:] -= stated[:, :2]
    refuse_fractions(Path(path), stated, corners=False)
    codes = tuple(rle for rle in rles if rle is not None)
    if masks and len(codes) < len(rles):
        raise InputError(f"{path}: mask AP needs the mask of every prediction (`segmentation`)")
    return Detections(
        np.array(images, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        codes if masks else None,
    )


def to_results(detections: Detections, annotations: Annotations) -> list[dict[str, Any]]:
    """COCO results, JSON-ready; `read_results` reads them, and so do other evaluators."""
    results: list[dict[str, Any]] = []
    for i in range(len(detections)):
        key = annotations.image_ids[detections.images[i]]
        row: dict[str, Any] = {
            # an id that was a number in the annotations is one again
            "image_id": int(key) if key.isdigit() and str(int(key)) == key else key,
            "category_id": int(annotations.categories.ids[detections.labels[i]]),
            # rounded: further digits would be noise, and most of the file
            "bbox": [round(v, 3) for v in detections.boxes[i].tolist()],
            "score": float(f"{detections.scores[i]:.6g}"),
        }
        if detections.masks is not None:
            row["segmentation"] = detections.masks[i]
        results.append(row)
    return results


def _positions(content: Any, annotations: Annotations) -> tuple[dict[str, int], dict[str, int]]:
    """Positions in the annotations by the ids of images, and by the ids of categories."""
    image_of = {key: i for i, key in enumerate(annotations.image_ids)}
    label_of = {str(c): i for i, c in enumerate(annotations.categories.ids.tolist())}
    if not isinstance(content, dict):
        return image_of, label_of
    # ids of another file are its own: 1 may be another photograph, and another class
    if listed := _listed(content.get("images")):
        files = {name: i for i, name in enumerate(annotations.file_names)}
        bare = Counter(PurePath(name).name for name in files)
        # a bare file name counts where only one image has it
        files |= {n: i for name, i in files.items() if bare[n := PurePath(name).name] == 1}
        image_of = {}
        for row in listed:
            name = str(row.get("file_name"))
            position = files.get(name, files.get(PurePath(name).name))
            if position is not None:
                image_of[id_text(row["id"])] = position
    if listed := _listed(content.get("categories")):
        names = {name_key(name): i for i, name in enumerate(annotations.categories.names)}
        keys = {id_text(row["id"]): name_key(str(row.get("name"))) for row in listed}
        label_of = {id_: names[key] for id_, key in keys.items() if key in names}
    return image_of, label_of


def _listed(rows: Any) -> list[dict[str, Any]]:
    """The objects with an id of a file's own list of images or categories."""
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and "id" in row]


def _xywh(bbox: Any, mask: RLE | None) -> list[float]:
    if bbox is None and mask is not None:
        if not mask_area(mask):
            raise InputError("the mask is empty")
        x0, y0, x1, y1 = mask_box(mask).tolist()
        return [x0, y0, x1 - x0, y1 - y0]
    x, y, width, height = _finite(bbox)
    if width < 0 or height < 0:
        raise InputError(f"a box of {width:g} x {height:g}; `bbox` is x, y, width, height")
    return [x, y, width, height]


def _finite(values: Any) -> list[float]:
    numbers = [float(v) for v in values]
    if not np.isfinite(numbers).all():
        raise InputError("a number that is not finite")
    return numbers
