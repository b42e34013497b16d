"""What was found in many images, as columns; from predictions, and from and to COCO results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from anyregion.data.annotations.annotations import Annotations
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.coco_eval import Detections
from anyregion.files import read_json
from anyregion.masks import RLE, mask_area, mask_box, segmentation_to_rle
from anyregion.predictions import Predictions
from anyregion.vocabulary import name_key

MALFORMED_SHOWN = 20


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
    found: list[RLE] | None = None
    if masks:
        own = answer.masks or tuple(answer.regions.masks[i] for i in answer.rows)
        there = [mask for mask in own if mask is not None]
        if len(there) < len(own):
            raise InputError(
                "mask AP needs masks, but this recogniser finds none and the regions bring none"
            )
        found = [there[row] for row in rows]
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

    Rows of images or categories that the annotations do not list, and malformed ones (a score or
    box that is not finite, a mask of another size), are set aside. A row without `bbox` has its
    mask's.

    Args:
        path: the JSON file. One that lists its own images and categories, as the
            `predictions.json` of `anyregion recognize` does, is matched by their names, not by ids.
        annotations: whose images and categories the ids mean.
        masks: also read masks.
        aside: grows by what is set aside.

    Raises:
        InputError: not JSON, not results, none of them of these annotations, or masks are wanted
            and some rows have none.
    """
    content = read_json(Path(path))
    images, labels = _places(content, annotations)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if not isinstance(content, list):
        raise InputError(f"{path}: not COCO results, which are a list of objects")
    unknown: Counter[str] = Counter()
    kept: list[tuple[int, int, float, list[float]]] = []
    coded: list[RLE | None] = []
    malformed: list[SetAside] = []
    sizes = annotations.sizes.tolist()
    for position, row in enumerate(content):
        try:
            image, label = _text(row["image_id"]), _text(row["category_id"])
            if image not in images:
                unknown[f"image {image}"] += 1
                continue
            if label not in labels:
                unknown[f"category {label}"] += 1
                continue
            given, box = row.get("segmentation"), row.get("bbox")
            rle = None
            if given and (masks or box is None):
                rle = segmentation_to_rle(given, *sizes[images[image]])
            kept.append((images[image], labels[label], _finite([row["score"]])[0], _box(box, rle)))
            coded.append(rle)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            said = str(error) if isinstance(error, InputError) else f"{error!r:.80}"
            malformed.append(SetAside(f"prediction #{position}", f"malformed ({said})"))
    aside += malformed[:MALFORMED_SHOWN]
    if (more := len(malformed) - MALFORMED_SHOWN) > 0:
        aside.append(SetAside(f"{more:,} more predictions", "malformed"))
    aside += [
        SetAside(what, f"{count:,} predictions, but the annotations do not list it")
        for what, count in unknown.items()
    ]
    if content and not kept:
        raise InputError(f"{path}: no prediction can be judged ({aside[-1]})")
    there = [rle for rle in coded if rle is not None]
    if masks and len(there) < len(coded):
        raise InputError(f"{path}: mask AP needs the mask of every prediction (`segmentation`)")
    return Detections(
        np.array([k[0] for k in kept], dtype=np.int64),
        np.array([k[1] for k in kept], dtype=np.int64),
        np.array([k[2] for k in kept], dtype=np.float64),
        np.array([k[3] for k in kept], dtype=np.float64).reshape(-1, 4),
        tuple(there) if masks else None,
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


def _places(content: Any, annotations: Annotations) -> tuple[dict[str, int], dict[str, int]]:
    """What the ids of images and categories mean in the annotations, as positions."""
    images = {key: i for i, key in enumerate(annotations.image_ids)}
    labels = {str(c): i for i, c in enumerate(annotations.categories.ids.tolist())}
    if not isinstance(content, dict):
        return images, labels
    # ids of another file are its own: 1 may be another photo, and another class
    files = {name: i for i, name in enumerate(annotations.file_names)}
    bare = Counter(PurePath(name).name for name in files)
    files |= {n: i for name, i in files.items() if bare[n := PurePath(name).name] == 1}
    names = {name_key(name): i for i, name in enumerate(annotations.categories.names)}
    return (
        _renamed(
            content.get("images"),
            "file_name",
            images,
            lambda n: files.get(n, files.get(PurePath(n).name)),
        ),
        _renamed(content.get("categories"), "name", labels, lambda n: names.get(name_key(n))),
    )


def _renamed(
    listed: Any, field: str, ids: dict[str, int], find: Callable[[str], int | None]
) -> dict[str, int]:
    """`{id: position}` by the name that each id has; the ids as they are where none is named."""
    if not isinstance(listed, list) or not listed:
        return ids
    named = [one for one in listed if isinstance(one, dict) and "id" in one]
    found = {_text(one["id"]): find(str(one.get(field))) for one in named}
    return {key: position for key, position in found.items() if position is not None}


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _box(given: Any, mask: RLE | None) -> list[float]:
    if given is None and mask is not None:
        if not mask_area(mask):
            raise InputError("the mask is empty")
        x0, y0, x1, y1 = mask_box(mask).tolist()
        return [x0, y0, x1 - x0, y1 - y0]
    x, y, width, height = _finite(given)
    if width < 0 or height < 0:
        raise InputError(f"a box of {width:g} x {height:g}; `bbox` is x, y, width, height")
    return [x, y, width, height]


def _finite(values: Any) -> list[float]:
    numbers = [float(v) for v in values]
    if not np.isfinite(numbers).all():
        raise InputError("a number that is not finite")
    return numbers
