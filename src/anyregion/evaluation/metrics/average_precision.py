"""Average precision (AP) by COCO's and LVIS's rules, computed class by class by pycocotools.

pycocotools is COCO's own evaluator. LVIS's own package is not kept (it fails with numpy 1.24 and
later), but its rules can be said in pycocotools' terms (Gupta et al., LVIS, section 3; checked
against the `lvis` package to 1e-6):

- Federated: a prediction counts only in images that have the class or in which it was looked for
  (`neg_category_ids`). The others are taken out before.
- Not exhaustively annotated (`not_exhaustive_category_ids`): a prediction that matches nothing is
  ignored. pycocotools ignores unmatched predictions whose area is outside the range that is looked
  at, so these get an area outside every range.
- 300 predictions an image, over all classes; crowd is not known.

Each class is evaluated alone, on the images where it occurs: all at once take a table of all images
times all classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.errors import InputError
from anyregion.evaluation.metrics.coco_eval import OUTSIDE_ALL, Detections, Kind, evaluate_class
from anyregion.masks import RLE, mask_area, segmentation_to_rle
from anyregion.regions import Boxes
from anyregion.vocabulary import Progress

Style: TypeAlias = Literal["coco", "lvis"]

LVIS_DETECTIONS = 300
COCO_DETECTIONS = (1, 10, 100)
FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True, eq=False)
class PrecisionTable:
    """Precision and recall of every class, which all figures are means of.

    NaN where a class has no region (of that size).

    Attributes:
        style, kind: by whose rules, and of what.
        precision: `(10, C, 4)`: IoU thresholds 0.50 to 0.95, classes, sizes (all, small, medium,
            large); mean over 101 recalls.
        recall: `(10, C, 4, M)`: the last axis is the number of detections allowed.
        detections: the `M` numbers: of a class and an image in COCO, of an image in LVIS.
        frequency: per class `r`, `c` or `f`, or an empty text.
    """

    style: Style
    kind: Kind
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    detections: tuple[int, ...]
    frequency: tuple[str, ...]

    def metrics(self) -> dict[str, float | None]:
        """AP, AP50, AP75, APs, APm, APl, in LVIS APr, APc, APf; AR@n, ARs, ARm, ARl.

        Fractions from 0 to 1; None where there is nothing to average.
        """
        precision, recall = self.precision, self.recall
        figures = {
            "AP": _mean(precision[:, :, 0]),
            "AP50": _mean(precision[0, :, 0]),
            "AP75": _mean(precision[5, :, 0]),
            **{f"AP{s}": _mean(precision[:, :, i]) for i, s in enumerate("sml", 1)},
        }
        if self.style == "lvis":
            frequency = np.array(self.frequency)
            figures |= {f"AP{f}": _mean(precision[:, frequency == f, 0]) for f in FREQUENCIES}
        figures |= {f"AR@{n}": _mean(recall[..., 0, i]) for i, n in enumerate(self.detections)}
        return figures | {f"AR{s}": _mean(recall[:, :, i, -1]) for i, s in enumerate("sml", 1)}

    def by_class(self) -> NDArray[np.float64]:
        """`(C,)` AP of each class; NaN where it has no region."""
        ap: NDArray[np.float64] = self.precision[:, :, 0].mean(axis=0)
        return ap

    def mean_over(self, labels: list[int]) -> float | None:
        """AP over some classes."""
        return _mean(self.precision[:, labels, 0])


def style_of(annotations: Annotations) -> Style:
    """`lvis` where the annotations are federated and classes have frequencies, else `coco`."""
    federated = any(len(labels) for labels in annotations.negatives)
    return "lvis" if federated and any(annotations.categories.frequency) else "coco"


def true_masks(annotations: Annotations) -> tuple[RLE, ...]:
    """The mask of every annotated region, as run-length codes.

    Raises:
        InputError: a region without a mask, or with one that is malformed or of another size.
    """
    segmentations, count = annotations.segmentations, len(annotations.boxes)
    missing = count if segmentations is None else sum(1 for s in segmentations if not s)
    if segmentations is None or missing:
        raise InputError(
            f"mask AP needs the mask of every region; {missing} of {count} in the annotations "
            "have none"
        )
    sizes = annotations.sizes.tolist()
    masks: list[RLE] = []
    for row, (image, mask) in enumerate(zip(annotations.image_of, segmentations, strict=True)):
        try:
            masks.append(segmentation_to_rle(mask, *sizes[image]))
        except InputError as error:
            name, region = annotations.file_names[image], annotations.region_ids[row]
            raise InputError(
                f"mask AP needs the mask of every region; {name}, region {region}: {error}"
            ) from None
    return tuple(masks)


def average_precision(
    annotations: Annotations,
    detections: Detections,
    *,
    style: Style = "coco",
    kind: Kind = "box",
    images: NDArray[np.int64] | None = None,
    limit: int | None = None,
    recalls: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> PrecisionTable:
    """Compare detections with annotations.

    Sizes are those of COCO (32^2 and 96^2 pixels), by the `area` that the annotations state; of
    detections by their box, or in mask AP by their mask.

    Args:
        images: positions of the images that count; all unless given.
        limit: detections an image, over all classes; in LVIS 300, in COCO all, unless given.
        recalls: the numbers of detections that recall is computed for, ascending; AP is at the
            last. Unless given, COCO's or LVIS's.
        progress: called with (done, total) classes.

    Raises:
        InputError: mask AP, and a region without a mask, or with a malformed one.
    """
    if limit is None and style == "lvis":
        limit = LVIS_DETECTIONS
    if limit is not None:
        detections = detections.best(limit)
    counted = np.arange(len(annotations)) if images is None else np.unique(images)
    # (R,) rows of regions and (D,) rows of detections, of the images that count
    truth = _truth(annotations, style, kind)
    truth = truth.take(np.flatnonzero(np.isin(truth.images, counted)))
    if kind == "box":
        detections = replace(detections, masks=None, areas=detections.boxes[:, 2:].prod(axis=1))
    elif detections.masks is None:
        raise InputError("mask AP needs detections with masks")
    else:
        # the sizes of detections are those of their masks; the annotations state their own
        areas = np.array([mask_area(mask) for mask in detections.masks], dtype=np.float64)
        detections = replace(detections, areas=areas)
    answers = detections.take(np.flatnonzero(np.isin(detections.images, counted)))
    if style == "lvis":
        answers = _federated(annotations, truth, answers)
    # by id, as the references walk: it decides between equal scores of different images
    rank = _rank(annotations.image_ids)
    truth, answers = (replace(rows, images=rank[rows.images]) for rows in (truth, answers))
    sizes = annotations.sizes[np.argsort(rank)]
    allowed = recalls or (COCO_DETECTIONS if style == "coco" else (limit or LVIS_DETECTIONS,))
    count = len(annotations.categories)
    precision = np.full((10, count, 4), np.nan)
    recall = np.full((10, count, 4, len(allowed)), np.nan)
    pairs = zip(_by_class(truth, count), _by_class(answers, count), strict=True)
    if progress is not None:
        progress(0, count)
    for label, (true_rows, answer_rows) in enumerate(pairs):
        # a class without a region stays NaN: it counts for nothing
        if len(true_rows):
            precision[:, label], recall[:, label] = evaluate_class(
                true_rows, answer_rows, sizes, kind, allowed
            )
        if progress is not None:
            progress(label + 1, count)
    return PrecisionTable(
        style, kind, precision, recall, allowed, tuple(annotations.categories.frequency)
    )


def proposal_recall(
    annotations: Annotations,
    images: Sequence[int],
    boxes: Sequence[Boxes],
    scores: Sequence[NDArray[np.float64]],
    limits: tuple[int, ...],
    *,
    masks: Sequence[Sequence[RLE]] | None = None,
) -> PrecisionTable:
    """Precision and recall of proposals, all regions being of one class.

    Args:
        annotations: the regions; no others count as wrong than those that lie on none.
        images: positions of the images that count, each once.
        boxes, scores: of each of these, `(n, 4)` xyxy and `(n,)`.
        limits: the numbers of proposals that recall is computed for, ascending.
        masks: of each of these images the proposals' masks, to compare in place of boxes.

    Raises:
        InputError: masks are to be compared, and a region has none, or a malformed one.
    """
    truth = replace(
        annotations,
        categories=annotations.categories.take([0]),
        labels=np.zeros_like(annotations.labels),
        negatives=(),
        not_exhaustive=(),
    )
    detections = Detections.join(
        [
            Detections(
                np.full(len(b), image, dtype=np.int64),
                np.zeros(len(b), dtype=np.int64),
                np.asarray(s, dtype=np.float64),
                np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1),  # xywh
                None if masks is None else tuple(masks[i]),
            )
            for i, (image, b, s) in enumerate(zip(images, boxes, scores, strict=True))
        ]
    )
    return average_precision(
        truth,
        detections,
        kind="box" if masks is None else "mask",
        images=np.array(images),
        recalls=limits,
    )


def _truth(annotations: Annotations, style: Style, kind: Kind) -> Detections:
    boxes = annotations.boxes
    return Detections(
        annotations.image_of,
        annotations.labels,
        np.ones(len(boxes)),
        # (R, 4) xyxy to xywh
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        true_masks(annotations) if kind == "mask" else None,
        annotations.areas,
        annotations.crowd if style == "coco" else None,
    )


def _federated(annotations: Annotations, truth: Detections, answers: Detections) -> Detections:
    """The detections that LVIS's rules count, in pycocotools' terms; see the module."""
    count = len(annotations.categories)

    def keys(listed: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
        """One number for each (image, class) that is listed."""
        parts = [image * count + labels for image, labels in enumerate(listed)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    pairs = answers.images * count + answers.labels
    judged = np.concatenate([truth.images * count + truth.labels, keys(annotations.negatives)])
    partly = np.isin(pairs, keys(annotations.not_exhaustive))
    answers = replace(answers, areas=np.where(partly, OUTSIDE_ALL, np.asarray(answers.areas)))
    return answers.take(np.flatnonzero(np.isin(pairs, judged)))


def _rank(image_ids: tuple[str, ...]) -> NDArray[np.int64]:
    """The position of each image in the order of their ids."""
    numbers = all(key.isdigit() for key in image_ids)
    order = sorted(
        range(len(image_ids)), key=lambda i: int(image_ids[i]) if numbers else image_ids[i]
    )
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _by_class(rows: Detections, count: int) -> Iterator[Detections]:
    # sorted once: a selection for each of C classes would walk all rows C times
    order = np.argsort(rows.labels, kind="stable")
    bounds = np.searchsorted(rows.labels[order], np.arange(count + 1))
    for start, stop in itertools.pairwise(bounds):
        yield rows.take(order[start:stop])


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
