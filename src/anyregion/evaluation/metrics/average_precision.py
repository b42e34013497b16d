"""Average precision by COCO's and LVIS's rules, computed class by class by pycocotools.

Why pycocotools: it is COCO's own evaluator, it is alive, and the core has it already, so no extra
is needed. LVIS's own package is not kept (it fails with numpy 1.24 and later), but its rules can be
said in pycocotools' terms without changing a line of it (Gupta et al., LVIS, section 3; checked
against the `lvis` package to 1e-6):

- Federated: a prediction counts only in images that have the class or in which it was looked for
  (`neg_category_ids`). The others are taken out before.
- Not exhaustively annotated (`not_exhaustive_category_ids`): a prediction that matches nothing is
  ignored. pycocotools ignores unmatched predictions whose area is outside the range that is looked
  at, so these get an area outside every range.
- 300 predictions an image, over all classes; crowd is not known.

Classes do not touch each other, so each is evaluated alone, on the images where it occurs: memory
is that of one class, where evaluating at once takes a table of all images times all classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.errors import InputError
from anyregion.evaluation.metrics.ap_table import Kind, PrecisionTable, Style
from anyregion.evaluation.metrics.coco_eval import OUTSIDE_ALL, Rows, one_class
from anyregion.evaluation.regions.detections import Detections
from anyregion.masks import RLE, segmentation_to_rle
from anyregion.vocabulary import Progress

LVIS_DETECTIONS = 300
COCO_DETECTIONS = (1, 10, 100)


def style_of(annotations: Annotations) -> Style:
    """`lvis` where the annotations are federated and classes have frequencies, else `coco`."""
    federated = any(len(labels) for labels in annotations.negatives)
    return "lvis" if federated and any(annotations.categories.frequency) else "coco"


def true_masks(annotations: Annotations) -> tuple[RLE, ...]:
    """The mask of every annotated region, as run-length codes.

    Raises:
        InputError: a region without a mask, or with one that is malformed or of another size.
    """
    masks, count = annotations.segmentations, len(annotations.boxes)
    missing = count if masks is None else sum(1 for mask in masks if not mask)
    if masks is None or missing:
        raise InputError(
            f"mask AP needs the mask of every region; {missing} of {count} in the annotations "
            "have none"
        )
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.starts)).tolist()
    sizes = annotations.sizes.tolist()
    found: list[RLE] = []
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        try:
            found.append(segmentation_to_rle(mask, *sizes[image]))
        except InputError as error:
            name, region = annotations.file_names[image], annotations.region_ids[row]
            raise InputError(
                f"mask AP needs the mask of every region; {name}, region {region}: {error}"
            ) from None
    return tuple(found)


def average_precision(
    annotations: Annotations,
    found: Detections,
    *,
    style: Style = "coco",
    kind: Kind = "box",
    images: NDArray[np.int64] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> PrecisionTable:
    """Compare detections with annotations.

    Sizes are those of COCO (32^2 and 96^2 pixels), by the `area` that the annotations state; of
    detections by their box, or in mask AP by their mask.

    Args:
        annotations: with segmentations, for mask AP.
        found: detections, with masks for mask AP.
        style: whose rules.
        kind: `box` or `mask`.
        images: positions of the images that were looked at; all unless given.
        limit: detections an image, over all classes; in LVIS 300, in COCO all, unless given.
        progress: called with (done, total) classes.

    Raises:
        InputError: mask AP, and a region without a mask, or with a malformed one.
    """
    if limit is None and style == "lvis":
        limit = LVIS_DETECTIONS
    if limit is not None:
        found = found.best(limit)
    looked = np.arange(len(annotations)) if images is None else np.unique(images)
    truth = _truth(annotations, style, kind)
    truth = truth.take(np.flatnonzero(np.isin(truth.images, looked)))
    answer = Rows(
        found.images, found.labels, found.boxes, found.boxes[:, 2:].prod(axis=1),
        scores=found.scores, masks=found.masks if kind == "mask" else None,
    )  # fmt: skip
    if kind == "mask" and found.masks is None:
        raise InputError("mask AP needs detections with masks")
    answer = answer.take(np.flatnonzero(np.isin(answer.images, looked)))
    if style == "lvis":
        answer = _federated(annotations, truth, answer)
    # by id, as the references walk: it decides between equal scores of different images
    rank = _rank(annotations.image_ids)
    truth, answer = (replace(r, images=rank[r.images]) for r in (truth, answer))
    sizes = annotations.sizes[np.argsort(rank)]
    allowed = COCO_DETECTIONS if style == "coco" else (limit or LVIS_DETECTIONS,)
    count = len(annotations.categories)
    precision = np.full((10, count, 4), np.nan)
    recall = np.full((10, count, 4, len(allowed)), np.nan)
    pairs = zip(_by_class(truth, count), _by_class(answer, count), strict=True)
    if progress is not None:
        progress(0, count)
    for label, (right, mine) in enumerate(pairs):
        if len(right):
            precision[:, label], recall[:, label] = one_class(right, mine, sizes, kind, allowed)
        if progress is not None:
            progress(label + 1, count)
    return PrecisionTable(
        style, kind, precision, recall, allowed, tuple(annotations.categories.frequency)
    )


def _truth(annotations: Annotations, style: Style, kind: Kind) -> Rows:
    masks = true_masks(annotations) if kind == "mask" else None
    boxes = annotations.boxes
    return Rows(
        np.repeat(np.arange(len(annotations)), np.diff(annotations.starts)),
        annotations.labels,
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        annotations.areas,
        crowd=annotations.crowd if style == "coco" else np.zeros(len(boxes), dtype=bool),
        masks=masks,
    )


def _federated(annotations: Annotations, truth: Rows, answer: Rows) -> Rows:
    """LVIS's rules, as pycocotools understands them; see the module."""
    count = len(annotations.categories)

    def keys(listed: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
        parts = [image * count + labels for image, labels in enumerate(listed)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    own = answer.images * count + answer.labels
    known = np.concatenate([truth.images * count + truth.labels, keys(annotations.negatives)])
    partly = np.isin(own, keys(annotations.not_exhaustive))
    answer = replace(answer, areas=np.where(partly, OUTSIDE_ALL, answer.areas))
    return answer.take(np.flatnonzero(np.isin(own, known)))


def _rank(image_ids: tuple[str, ...]) -> NDArray[np.int64]:
    numbers = all(key.isdigit() for key in image_ids)
    order = sorted(
        range(len(image_ids)), key=lambda i: int(image_ids[i]) if numbers else image_ids[i]
    )
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _by_class(rows: Rows, count: int) -> Iterator[Rows]:
    order = np.argsort(rows.labels, kind="stable")
    bounds = np.searchsorted(rows.labels[order], np.arange(count + 1))
    for start, stop in itertools.pairwise(bounds):
        yield rows.take(order[start:stop])
