"""The confusion matrix of classes by pixel, and what semantic segmentation is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(
    true: NDArray[np.integer], predicted: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Pixels by true class (rows) and predicted class (columns), `(C, C)`.

    Args:
        true: any shape, 0 to `classes` - 1; what is negative is void and counts for nothing.
        predicted: the same shape, 0 to `classes` - 1.

    Raises:
        ValueError: shapes that differ, or a class that is none.
    """
    if true.shape != predicted.shape:
        raise ValueError(f"true classes {true.shape}, predicted ones {predicted.shape}")
    judged = true >= 0
    rows, columns = true[judged].astype(np.int64), predicted[judged].astype(np.int64)
    if len(rows) and not (rows.max() < classes and 0 <= columns.min() <= columns.max() < classes):
        raise ValueError(f"a class is not from 0 to {classes - 1}")
    counts = np.bincount(rows * classes + columns, minlength=classes * classes)
    return counts.reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Fractions from 0 to 1, of all pixels that are not void.

    Attributes:
        mean_iou: of the classes that occur, in the truth or in a prediction (VOC's rule).
        mean_class_accuracy: share of a class's pixels that are named rightly, averaged over the
            classes that occur in the truth.
        pixel_accuracy: share of all pixels.
        iou: `(C,)` of each class; NaN where it occurs in neither.
        pixels: `(C,)` of each class in the truth.
    """

    mean_iou: float
    mean_class_accuracy: float
    pixel_accuracy: float
    iou: NDArray[np.float64]
    pixels: NDArray[np.int64]


def segmentation_scores(confusion: NDArray[np.int64]) -> SegmentationScores:
    """The scores of a confusion matrix `(C, C)`: NaN of no pixel.

    The intersection over union of a class is its right pixels over those that are it or are
    called so, counted over all images together (Everingham et al., 2010).
    """
    right = np.diagonal(confusion).astype(np.float64)
    true, called = confusion.sum(axis=1), confusion.sum(axis=0)
    union = true + called - right
    iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    accuracy = np.divide(right, true, out=np.full(len(right), np.nan), where=true > 0)
    total = int(true.sum())
    return SegmentationScores(
        mean_iou=_mean(iou),
        mean_class_accuracy=_mean(accuracy),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
        iou=iou,
        pixels=true,
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
