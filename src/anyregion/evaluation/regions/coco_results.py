"""COCO results: detections made of predictions, read from JSON, and written as JSON."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.builder import (
    MALFORMED_ROWS,
    AnnotationRecords,
    RegionColumns,
)
from anyregion.data.annotations.coco import read_coco
from anyregion.data.annotations.report import skipped_items
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.coco_eval import Detections
from anyregion.files import name_parts, shared_tail
from anyregion.masks import RLE, segmentation_to_rle
from anyregion.predictions import Predictions
from anyregion.vocabulary import name_key


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
    """Detections of a file, as `load_regions` reads COCO results, their like and a detector's file.

    Rows of images or categories that the annotations do not list, and malformed ones (a score or
    box that is not finite, a mask of another size), are set aside. A row without `bbox` has its
    mask's. Scores only rank, so they may have any size; a box may be without area.

    Args:
        path: the JSON file. One that lists its own images and categories, as the
            `predictions.json` of `anyregion recognize` does, is matched by their names, not by ids.
        set_aside: grows by what cannot be used.

    Raises:
        InputError: not JSON, not results, none of them of these annotations, or masks are needed
            and some rows have none.
    """
    records = read_coco(Path(path), masks=masks, prompts=True)
    rows, findings = records.regions, records.findings
    image_of, label_of = _positions(records, annotations)
    # (R,) positions in the annotations, -1 where they do not list it
    images = _look_up(rows.image_keys, image_of)[rows.images]
    labels = _look_up(rows.category_keys, label_of)[rows.categories]
    sides = rows.boxes[:, 2:] - rows.boxes[:, :2] if rows.sides is None else rows.sides
    unknown: Counter[str] = Counter()
    usable: list[int] = []
    rles: list[RLE] = []
    without_mask = False
    for row in range(len(rows.boxes)):
        if images[row] < 0:
            unknown[f"image {rows.image_keys[rows.images[row]]}"] += 1
            continue
        if labels[row] < 0:
            unknown[f"category {rows.category_keys[rows.categories[row]]}"] += 1
            continue
        size = tuple(annotations.sizes[images[row]].tolist())
        segmentation = None if rows.segmentations is None else rows.segmentations[row]
        try:
            _check_row(rows, row, sides[row], size)
            # masks are checked only where they are needed
            rle = segmentation_to_rle(segmentation, *size) if segmentation else None
        except (TypeError, ValueError, OverflowError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{error!r:.80}"
            findings.add(MALFORMED_ROWS, f"prediction {(rows.stated_ids or ())[row]}", reason)
            continue
        usable.append(row)
        rles += [] if rle is None else [rle]
        without_mask |= rle is None
    set_aside += skipped_items(findings.list())
    set_aside += [
        SetAside(item, f"{count:,} predictions, but the annotations do not list it")
        for item, count in unknown.items()
    ]
    if not usable and set_aside and (len(rows.boxes) or len(findings.list())):
        raise InputError(f"{path}: no prediction can be judged ({set_aside[-1]})")
    if masks and without_mask:
        raise InputError(f"{path}: mask AP needs the mask of every prediction (`segmentation`)")
    return Detections(
        images[usable],
        labels[usable],
        np.array([float((rows.scores or ())[row]) for row in usable], dtype=np.float64),
        np.concatenate([rows.boxes[usable, :2], sides[usable]], axis=1).reshape(-1, 4),
        tuple(rles) if masks else None,
    )


def _check_row(
    rows: RegionColumns, row: int, sides: NDArray[np.float64], size: tuple[int, ...]
) -> None:
    score = (rows.scores or ())[row]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise InputError(f"score {score!r:.40} is not a finite number")
    box = [*rows.boxes[row, :2].tolist(), *sides.tolist()]
    if not all(map(math.isfinite, box)):
        raise InputError(f"bbox {box} is not finite")
    if min(box[2:]) < 0:
        raise InputError(f"a box of {box[2]:g} x {box[3]:g}; `bbox` is x, y, width, height")
    stated = rows.mask_sizes.get(row)
    if stated is not None and min(size) >= 0 and tuple(stated) != size:
        raise InputError(f"mask of size {list(stated)}, but the image is {list(size)}")


def _look_up(keys: Sequence[str], positions: Mapping[str, int]) -> NDArray[np.int64]:
    """`(len(keys),)` the position of each key, -1 where it has none."""
    return np.array([positions.get(key, -1) for key in keys], dtype=np.int64)


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


def _positions(
    records: AnnotationRecords, annotations: Annotations
) -> tuple[dict[str, int], dict[str, int]]:
    """Positions in the annotations by the ids of images, and by the ids of categories."""
    image_of = {key: i for i, key in enumerate(annotations.image_ids)}
    label_of = {str(c): i for i, c in enumerate(annotations.categories.ids.tolist())}
    # ids of another file are its own: 1 may be another photograph, and another class
    named = [image for image in records.images if image.file_name]
    if named:
        annotated = [name_parts(name, alike=True) for name in annotations.file_names]
        predicted = [name_parts(str(image.file_name), alike=True) for image in named]
        by_name: dict[str, list[int]] = defaultdict(list)
        for i, parts in enumerate(annotated):
            if parts:
                by_name[parts[-1]].append(i)
        matches = {
            image.key: _best(parts, annotated, by_name.get(parts[-1], ()) if parts else ())
            # of two images of one id the first stands
            for image, parts in reversed(list(zip(named, predicted, strict=True)))
        }
        image_of = {key: i for key, i in matches.items() if i is not None}
    if records.categories:
        names = {name_key(name): i for i, name in enumerate(annotations.categories.names)}
        keys = {category.key: name_key(category.name) for category in records.categories}
        label_of = {key: names[name] for key, name in keys.items() if name in names}
    return image_of, label_of


def _best(
    parts: tuple[str, ...], names: Sequence[tuple[str, ...]], candidates: Sequence[int]
) -> int | None:
    """The one image whose name shares most with another, from the end; None where several do."""
    shared = {i: shared_tail(parts, names[i]) for i in candidates}
    best = [i for i, count in shared.items() if count == max(shared.values())]
    return best[0] if len(best) == 1 else None
