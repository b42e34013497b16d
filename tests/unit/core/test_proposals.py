"""Thinning out overlapping finds, against torchvision and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.proposals import box_iou, nms, soft_nms


def random_boxes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, 60, (count, 2))], axis=1), rng.random(count)


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_nms_keeps_what_torchvision_keeps(count: int, iou: float) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores = random_boxes(count, seed=count)
    reference = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou)
    kept = nms(boxes, scores, iou)
    assert kept.tolist() == reference.tolist()
    assert len(kept) < count or count < 3 or iou > 0.9
    np.testing.assert_allclose(
        box_iou(boxes, boxes[:7]),
        ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes[:7])).numpy(),
        rtol=1e-12,
    )


def test_nms_by_hand() -> None:
    # IoU of the first two: 50 / 150; the third touches none
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [40, 40, 50, 50]]
    assert nms(boxes, [0.5, 0.9, 0.7], 0.3).tolist() == [1, 2]
    assert nms(boxes, [0.5, 0.9, 0.7], 1 / 3).tolist() == [1, 2, 0], "equal to the limit stays"
    assert nms(boxes, [0.5, 0.5, 0.5], 0.3).tolist() == [0, 2], "of equal scores the earlier wins"
    assert nms([], [], 0.5).tolist() == []
    with pytest.raises(InputError, match="3 boxes but 2 scores"):
        nms(boxes, [1, 2], 0.5)


def test_boxes_without_area_overlap_nothing() -> None:
    empty = np.zeros((2, 4))
    assert box_iou(empty, empty).tolist() == [[0, 0], [0, 0]]


def test_soft_suppression_equals_its_definition() -> None:
    random = np.random.default_rng(0)
    low = random.random((30, 2)) * 20
    boxes = np.concatenate([low, low + 5 + random.random((30, 2)) * 20], axis=1)
    scores = random.random(30)
    rows, left = soft_nms(boxes, scores, 0.4, nms_iou=0.6, limit=12)
    remaining, expected = dict(enumerate(scores.tolist())), []
    while len(expected) < 12:
        best = max(remaining, key=remaining.__getitem__)
        expected.append((best, remaining.pop(best)))
        for i in list(remaining):
            overlap = box_iou(boxes[best : best + 1], boxes[i : i + 1])[0, 0]
            remaining[i] *= np.exp(-(overlap**2) / 0.4) if overlap <= 0.6 else 0
    assert rows.tolist() == [row for row, _ in expected]
    assert left == pytest.approx([score for _, score in expected])
    assert (np.diff(left) <= 0).all()
    # what is dropped never comes back, however many are wanted
    same = np.tile([[0.0, 0, 9, 9]], (4, 1))
    assert soft_nms(same, np.ones(4), 0.4, nms_iou=0.9, limit=9)[0].tolist() == [0]
    empty = soft_nms(np.zeros((0, 4)), np.zeros(0), 0.4, nms_iou=0.9, limit=9)
    assert [len(part) for part in empty] == [0, 0]
