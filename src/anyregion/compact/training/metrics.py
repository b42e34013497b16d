"""How well the heads find and cut things out on images not trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.grid_boxes import overlaps
from anyregion.compact.mask_head import MaskHead
from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.training.photographs import Photographs
from anyregion.evaluation.metrics.calibration import auroc
from anyregion.evaluation.metrics.overlap import AR_THRESHOLDS, count_matched
from anyregion.masks import RLE, decode_mask, mask_iou
from anyregion.training.task import Metric

LIMITS = (10, 100, 300)
MASK_METRICS = {
    "mean_iou": Metric("intersection over union of masks grown from boxes, mean over regions"),
    "auroc": Metric("how well the predicted quality tells masks above IoU 0.75 from the others"),
}
PROPOSAL_METRICS = {
    **{f"ar_{k}": Metric(f"average recall of {k} proposals, IoU 0.5 to 0.95") for k in LIMITS},
    **{f"recall50_{k}": Metric(f"recall of {k} proposals at IoU 0.5") for k in LIMITS},
}
POINT_METRICS = {
    "point_box_iou": Metric("intersection over union of boxes grown from one point, mean"),
    "point_auroc": Metric("how well their score tells boxes above IoU 0.5 from the others"),
}


def mask_figures(head: MaskHead, photographs: Photographs) -> dict[str, float]:
    """Masks of the annotated boxes against the annotated masks, at the image's resolution.

    Returns:
        The values of `MASK_METRICS`.
    """
    reached: list[float] = []
    scores: list[float] = []
    for image in range(len(photographs)):
        rows = photographs.rows(image, with_mask=True)
        if not len(rows):
            continue
        boxes = photographs.boxes(image, rows)
        found, said = head.masks_from_boxes(
            photographs.maps(image), photographs.pixels(image), boxes
        )
        meant = [photographs.rle(image, row) for row in rows.tolist()]
        reached += [mask_iou(a, b) for a, b in zip(found, meant, strict=True)]
        scores += said.tolist()
    good = np.array(reached) > 0.75
    return {
        "mean_iou": float(np.mean(reached)),
        "auroc": _told_apart(scores, good),
    }


def proposal_figures(finder: ProposalHead, photographs: Photographs) -> dict[str, float]:
    """Average recall of the annotated boxes, of any class, that COCO's evaluation defines.

    Returns:
        The values of `PROPOSAL_METRICS`.
    """
    matched = np.zeros((len(LIMITS), len(AR_THRESHOLDS)))
    total = 0
    for image in range(len(photographs)):
        rows = photographs.rows(image)
        if not len(rows):
            continue
        boxes, _ = finder.propose(
            photographs.maps(image), photographs.size(image), limit=max(LIMITS)
        )
        meant = photographs.boxes(image, rows)
        total += len(meant)
        for i, limit in enumerate(LIMITS):
            matched[i] += [count_matched(boxes[:limit], meant, t) for t in AR_THRESHOLDS]
    recall = matched / max(total, 1)
    named = {f"ar_{limit}": float(recall[i].mean()) for i, limit in enumerate(LIMITS)}
    return named | {f"recall50_{limit}": float(recall[i, 0]) for i, limit in enumerate(LIMITS)}


def point_figures(
    finder: ProposalHead, head: MaskHead | None, photographs: Photographs, *, seed: int = 0
) -> dict[str, float]:
    """Regions grown from one point, drawn evenly from the pixels of each annotated mask.

    Returns:
        `point_box_iou`; `point_mask_iou` if there is a head; `point_auroc`, how well the finder's
        score tells boxes above 0.5 from those below.
    """
    draw = np.random.default_rng(seed)
    box_reached: list[float] = []
    mask_reached: list[float] = []
    scores: list[float] = []
    for image in range(len(photographs)):
        rows = photographs.rows(image, with_mask=True)
        if not len(rows):
            continue
        meant = [photographs.rle(image, row) for row in rows.tolist()]
        points = [_any_pixel(rle, draw) for rle in meant]
        maps, size = photographs.maps(image), photographs.size(image)
        ones = [np.ones(1, dtype=np.int64)] * len(rows)
        boxes, said = finder.boxes_from_points(maps, size, points, ones)
        targets = photographs.boxes(image, rows)
        box_reached += [float(overlaps(a, b[None])[0]) for a, b in zip(boxes, targets, strict=True)]
        scores += said.tolist()
        if head is not None:
            found, _ = head.masks_from_boxes(maps, photographs.pixels(image), boxes)
            mask_reached += [mask_iou(a, b) for a, b in zip(found, meant, strict=True)]
    good = np.array(box_reached) > 0.5
    figures = {
        "point_box_iou": float(np.mean(box_reached)),
        "point_auroc": _told_apart(scores, good),
    }
    return figures | ({"point_mask_iou": float(np.mean(mask_reached))} if head else {})


def _any_pixel(rle: RLE, draw: np.random.Generator) -> NDArray[np.float64]:
    y, x = np.nonzero(decode_mask(rle))
    chosen = draw.integers(len(y))
    return np.array([[x[chosen], y[chosen]]], dtype=np.float64)


def _told_apart(scores: list[float], good: NDArray[np.bool_]) -> float:
    values = np.array(scores)
    found = auroc(values[good], values[~good])
    return float("nan") if found is None else found
