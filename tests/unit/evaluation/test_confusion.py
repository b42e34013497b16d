"""Mean IoU and accuracies of segmentation, against scikit-learn's and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.evaluation.metrics.confusion import confusion_matrix, segmentation_scores

CLASSES = 6


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learns(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(seed)
    true = draw.integers(-1, CLASSES, (3, 20, 30))
    right = draw.random(true.shape) < 0.4
    predicted = np.where(right & (true >= 0), true, draw.integers(0, CLASSES, true.shape))
    # a class that occurs nowhere, as most of 150 do in few images
    true[true == 4] = 2
    predicted[predicted == 4] = 3
    # image by image, as an evaluation sums them up
    confusion = sum(confusion_matrix(t, p, CLASSES) for t, p in zip(true, predicted, strict=True))
    scores = segmentation_scores(confusion)
    t, p = true[true >= 0], predicted[true >= 0]
    assert np.array_equal(confusion, sklearn.confusion_matrix(t, p, labels=range(CLASSES)))
    present = [0, 1, 2, 3, 5]
    iou = sklearn.jaccard_score(t, p, labels=present, average=None)
    assert np.allclose(scores.iou[present], iou, rtol=0, atol=1e-6)
    assert np.isnan(scores.iou[4])
    assert scores.mean_iou == pytest.approx(iou.mean(), abs=1e-6)
    assert scores.pixel_accuracy == pytest.approx(sklearn.accuracy_score(t, p), abs=1e-6)
    assert scores.mean_class_accuracy == pytest.approx(
        sklearn.balanced_accuracy_score(t, p), abs=1e-6
    )
    assert scores.pixels.tolist() == [int((t == c).sum()) for c in range(CLASSES)]


def test_counted_by_hand() -> None:
    true = np.array([[0, 0, 1, -1], [0, 1, 1, -1]])
    predicted = np.array([[0, 1, 1, 2], [0, 1, 0, 0]])
    scores = segmentation_scores(confusion_matrix(true, predicted, 4))
    # class 0: 2 right, 3 true, 3 called; class 1: 2, 3, 3; what lies in void counts nowhere
    assert scores.iou[:2] == pytest.approx([2 / 4, 2 / 4])
    assert np.isnan(scores.iou[2:]).all()
    assert (scores.mean_iou, scores.pixel_accuracy) == pytest.approx((0.5, 4 / 6))


def test_a_class_that_is_only_called_has_an_iou_of_0() -> None:
    scores = segmentation_scores(confusion_matrix(np.zeros((2, 2)), np.array([[0, 0], [0, 1]]), 2))
    assert scores.iou.tolist() == [0.75, 0.0]
    assert (scores.mean_iou, scores.mean_class_accuracy) == (0.375, 0.75)


def test_nothing_to_judge_and_what_cannot_be() -> None:
    void = np.full((2, 2), -1)
    scores = segmentation_scores(confusion_matrix(void, np.zeros((2, 2), dtype=int), 3))
    assert np.isnan([scores.mean_iou, scores.mean_class_accuracy, scores.pixel_accuracy]).all()
    with pytest.raises(ValueError, match="not from 0 to 2"):
        confusion_matrix(np.array([0]), np.array([3]), 3)
    with pytest.raises(ValueError, match="predicted ones"):
        confusion_matrix(np.zeros((2, 2)), np.zeros((2, 3)), 3)
