"""Means over boxes and masks: by hand, and by the summed-area table against the plain way."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.baselines import pooling
from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import SUMMED_BOXES, SUMMED_CELLS, pool

GRIDS = [(60, 80, 40), (30, 40, 12), (33, 31, 3), (1, 1000, 2)]


def random_map(height: int, width: int, channels: int) -> DenseMap:
    draw = np.random.default_rng(height)
    features = draw.normal(2, 3, (height, width, channels)).astype(np.float32)
    # the grid covers a little more than the image, as where a model pads
    return DenseMap(features, (487.5, 640.0))


def many_boxes(count: int = 1000) -> np.ndarray:
    """Boxes of all sizes inside 480 x 640, on borders, thin ones, tiny ones, beyond the image."""
    draw = np.random.default_rng(0)
    low = draw.uniform(0, [639, 479], (count, 2))
    sides = draw.uniform(0, 1, (count, 2)) ** 3 * 600 + 0.5
    boxes = np.concatenate([low, np.minimum(low + sides, [640, 480])], axis=1)
    special = [
        [0, 0, 640, 480],
        [0, 0, 640, 487.5],  # all of the grid
        [0, 0, 8, 8],  # one cell
        [632, 472, 640, 480],  # the last pixels
        [0, 100, 640, 100.01],  # thin
        [300, 200, 300.001, 200.001],  # the smallest that `Regions.fit` keeps
        [100, 100, 100, 120],  # without an area
        [-30, -20, 50, 60],  # reaching beyond the image
        [630, 470, 700, 600],
        [700, 100, 720, 120],  # outside
        [10, 490, 20, 495],  # below the last cell
        [16, 24, 48, 64],  # exactly on cells of 8 pixels
    ]
    return np.concatenate([boxes, special])


def plainly(dense: DenseMap, boxes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(pooling, "SUMMED_BOXES", 10**9)
        return pool(dense, boxes)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_summed_area_table_equals_the_plain_way(
    grid: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, boxes = random_map(*grid), many_boxes()
    assert grid[0] * grid[1] >= SUMMED_CELLS
    expected = plainly(dense, boxes, monkeypatch)
    pooled = pool(dense, boxes)
    assert pooled.dtype == expected.dtype == np.float32
    assert not np.array_equal(pooled, expected), "the table was not used"
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=4e-6)


def test_few_boxes_and_small_grids_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = many_boxes()
    dense = random_map(60, 80, 5)
    few = boxes[: SUMMED_BOXES - 1]
    assert np.array_equal(pool(dense, few), plainly(dense, few, monkeypatch))
    small = random_map(15, 20, 5)
    assert np.array_equal(pool(small, boxes), plainly(small, boxes, monkeypatch))


def test_masks_among_many_boxes_are_still_pooled_in() -> None:
    dense, boxes = random_map(60, 80, 5), many_boxes()
    mask = np.zeros((480, 640), dtype=bool)
    mask[100:150, 200:320] = True
    masks = [None] * (len(boxes) - 1) + [mask]
    pooled = pool(dense, boxes, masks)
    mask_box = np.array([[200.0, 100, 320, 150]])
    np.testing.assert_allclose(pooled[-1:], pool(dense, mask_box), rtol=0, atol=4e-6)
    assert np.array_equal(pooled[:-1], pool(dense, boxes)[:-1])


def test_means_by_hand() -> None:
    features = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    dense = DenseMap(features, (30.0, 40.0))
    boxes = np.array([[0.0, 0, 40, 30], [10, 0, 20, 10], [5, 0, 20, 10], [18, 8, 22, 12]])
    # all; one cell; a half and a whole; a fifth of four cells each
    assert pool(dense, boxes)[:, 0].tolist() == pytest.approx([5.5, 1, 2 / 3, 3.5])
    outside = pool(dense, np.array([[50.0, 40, 60, 50]]))
    assert outside[0, 0] == 11, "the nearest cell"
    assert pool(dense, np.zeros((0, 4))).shape == (0, 1)
