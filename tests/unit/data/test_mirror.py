"""Mirror images: pixels, boxes, points and masks move together."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.data.mirror import mirror_boxes, mirror_pixels, mirror_regions
from anyregion.errors import InputError
from anyregion.regions import Regions


def test_the_box_of_a_patch_follows_it() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[2:5, 4:11] = 9
    mirrored = mirror_pixels(pixels)
    (box,) = mirror_boxes(np.array([[4.0, 2, 11, 5]]), 30)
    rows, columns = np.nonzero(mirrored[..., 0])
    assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_points_and_masks_follow_too() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:3, 2:4] = True
    regions = Regions.from_prompts(
        points=[[[2, 1], [8, 5]], None], point_labels=[[1, 0], None], masks=[None, mask], ids=[7, 8]
    )
    mirrored = mirror_regions(regions, 9)
    assert mirrored.ids == (7, 8)
    assert mirrored.points[0].tolist() == [[6, 1], [0, 5]]
    assert mirrored.point_labels[0].tolist() == [1, 0]
    np.testing.assert_array_equal(mirrored.mask(1), mask[:, ::-1])
    twice = mirror_regions(mirrored, 9)
    assert twice.masks == regions.masks
    np.testing.assert_array_equal(twice.points[0], regions.points[0])


def test_mask_logits_are_refused() -> None:
    regions = Regions.from_prompts(
        boxes=[[0, 0, 2, 2]], mask_logits=[np.zeros((4, 4), np.float32)], ids=["cup"]
    )
    with pytest.raises(InputError, match=r"cup.*mask logits"):
        mirror_regions(regions, 9)
