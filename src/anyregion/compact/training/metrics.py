"""Metrics and calibration of the heads on images that they were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from anyregion.compact.mask_head import MaskHead
from anyregion.compact.proposal_head import ProposalHead, ProposalOptions
from anyregion.compact.training.dataset import read_pyramid
from anyregion.data.region_dataset import RegionDataset
from anyregion.errors import InputError
from anyregion.evaluation.metrics.average_precision import proposal_recall
from anyregion.evaluation.metrics.calibration import auroc
from anyregion.evaluation.metrics.overlap import mask_ious, mean_iou
from anyregion.masks import decode_mask
from anyregion.proposals import box_iou
from anyregion.training.task import Metric

LIMITS = (10, 100, 300)
MASK_METRICS = {
    "mean_iou": Metric("intersection over union of masks grown from boxes, mean over regions"),
    "auroc": Metric("how well the predicted quality tells masks above IoU 0.75 from the others"),
}
PROPOSAL_METRICS = {
    **{f"ar_{k}": Metric(f"average recall of {k} proposals, IoU 0.5 to 0.95") for k in LIMITS},
    **{f"recall50_{k}": Metric(f"recall of {k} proposals at IoU 0.5") for k in LIMITS},
    "ap50": Metric("average precision at IoU 0.5, all regions being of one class"),
}
POINT_METRICS = {
    "point_box_iou": Metric("intersection over union of boxes grown from one point, mean"),
    "point_auroc": Metric("how well their score tells boxes above IoU 0.5 from the others"),
}


def mask_metrics(head: MaskHead, dataset: RegionDataset) -> dict[str, float]:
    """The values of `MASK_METRICS`: masks of annotated boxes, at the image's resolution."""
    ious: list[float] = []
    scores: list[float] = []
    for image, rows in _images_with_masks(dataset):
        pyramid = read_pyramid(dataset, image)
        frame = pyramid.letterbox(dataset.pixels(image))
        masks, predicted = head.masks_from_boxes(pyramid, frame, dataset.boxes(image, rows))
        ious += mask_ious(masks, [dataset.rle(image, row) for row in rows.tolist()]).tolist()
        scores += predicted.tolist()
    return {"mean_iou": mean_iou(ious), "auroc": _auroc_of_quality(scores, ious, 0.75)}


def proposal_metrics(head: ProposalHead, dataset: RegionDataset) -> dict[str, float]:
    """The values of `PROPOSAL_METRICS`: recall of annotated boxes of any class, as COCO's."""
    options = ProposalOptions(limit=max(LIMITS), min_score=0.0, nms_iou=0.6)
    images = dataset.images.tolist()
    proposals = [head.propose(read_pyramid(dataset, image), options) for image in images]
    boxes, scores = zip(*proposals, strict=True)
    table = proposal_recall(dataset.annotations, images, boxes, scores, LIMITS)
    recall = table.recall[:, 0, 0]  # (thresholds, limits)
    metrics = {f"ar_{limit}": float(recall[:, i].mean()) for i, limit in enumerate(LIMITS)}
    metrics |= {f"recall50_{limit}": float(recall[0, i]) for i, limit in enumerate(LIMITS)}
    return metrics | {"ap50": float(table.precision[0, 0, 0])}


def point_metrics(head: ProposalHead, dataset: RegionDataset, *, seed: int = 0) -> dict[str, float]:
    """The values of `POINT_METRICS`: a point is drawn evenly from the pixels of each mask."""
    random = np.random.default_rng(seed)
    ious: list[float] = []
    scores: list[float] = []
    for image, rows in _images_with_masks(dataset):
        points = []
        for row in rows.tolist():
            y, x = np.nonzero(decode_mask(dataset.rle(image, row)))
            pixel = random.integers(len(y))
            points.append(np.array([[x[pixel], y[pixel]]], dtype=np.float64))
        foreground = [np.ones(1, dtype=np.int64)] * len(rows)
        boxes, predicted = head.boxes_from_points(read_pyramid(dataset, image), points, foreground)
        ious += np.diag(box_iou(boxes, dataset.boxes(image, rows))).tolist()
        scores += predicted.tolist()
    return {"point_box_iou": mean_iou(ious), "point_auroc": _auroc_of_quality(scores, ious, 0.5)}


def fit_scores(cosines: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Scale and bias whose `sigmoid(scale * best cosine + bias)` is how often the best is right.

    A name's score then depends on the region and the name alone, not on the other names. (How often
    an answer is right depends on those too: see `compact.confidence`.)

    The targets are Platt's (1999, section 2.2), a little inside 0 and 1, so that there is always a
    fit, also where every region is named rightly.

    Args:
        cosines: `(N, C)` of regions and names.
        labels: `(N,)` the right names.

    Raises:
        InputError: no region.
    """
    if not len(labels):
        raise InputError("scores cannot be calibrated: the validation data has no region")
    correct = cosines.argmax(axis=1) == labels
    hits = int(correct.sum())
    targets = np.where(correct, (hits + 1) / (hits + 2), 1 / (len(correct) - hits + 2))
    x = torch.from_numpy(cosines.max(axis=1).astype(np.float64))
    y = torch.from_numpy(targets)
    line = torch.tensor([10.0, -5.0], dtype=torch.float64, requires_grad=True)
    minimise(line, lambda: F.binary_cross_entropy_with_logits(line[0] * x + line[1], y))
    scale, bias = line.tolist()
    return scale, bias


def minimise(parameters: torch.Tensor, loss_of: Callable[[], torch.Tensor]) -> None:
    """Bring a smooth loss of a few parameters to its minimum, in place, by L-BFGS."""
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _images_with_masks(dataset: RegionDataset) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Positions of the images that have annotated masks, and the rows of those."""
    for image in dataset.images.tolist():
        rows = dataset.rows(image, with_mask=True)
        if len(rows):
            yield image, rows


def _auroc_of_quality(scores: Sequence[float], ious: Sequence[float], threshold: float) -> float:
    """How well predicted IoUs tell those above the threshold from the others; NaN if it cannot."""
    predicted, good = np.array(scores), np.array(ious) > threshold
    value = auroc(predicted[good], predicted[~good])
    return float("nan") if value is None else value
