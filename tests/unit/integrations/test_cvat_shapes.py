"""Shapes of CVAT's API, against cvat-sdk's own encoder and arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cvat_sdk")

from cvat_sdk import masks as cvat_masks

from anyregion.errors import InputError
from anyregion.integrations.cvat_shapes import mask_points, shape_box, shape_mask
from anyregion.masks import decode_mask, encode_mask

SIZE = (48, 64)


def blob(seed: int) -> Any:
    mask = np.random.default_rng(seed).random(SIZE) < 0.3
    mask[:5] = mask[:, :7] = False
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_masks_are_those_of_cvat_sdk(seed: int) -> None:
    mask = blob(seed)
    points = cvat_masks.encode_mask(mask)
    assert mask_points(encode_mask(mask)) == [int(v) for v in points]
    shape = {"type": "mask", "points": points}
    assert np.array_equal(decode_mask(shape_mask(shape, SIZE)), mask)  # type: ignore[arg-type]
    y, x = np.nonzero(mask)
    assert shape_box(shape) == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_a_full_mask_begins_with_no_pixels_outside() -> None:
    mask = np.ones(SIZE, bool)
    assert mask_points(encode_mask(mask)) == [int(v) for v in cvat_masks.encode_mask(mask)]
    with pytest.raises(InputError, match="empty"):
        mask_points(encode_mask(~mask))


def test_boxes_of_shapes() -> None:
    assert shape_box({"type": "rectangle", "points": [1, 2, 30.5, 40]}) == (1, 2, 30.5, 40)
    assert shape_mask({"type": "rectangle", "points": [1, 2, 30.5, 40]}, SIZE) is None
    turned = shape_box({"type": "rectangle", "points": [10, 20, 30, 24], "rotation": 90})
    assert turned == pytest.approx((18, 12, 22, 32))
    # centre, rightmost x, topmost y
    oval = {"type": "ellipse", "points": [30, 20, 40, 15]}
    assert shape_box(oval) == pytest.approx((20, 15, 40, 25), abs=0.02)
    area = decode_mask(shape_mask(oval, SIZE)).sum()  # type: ignore[arg-type]
    assert area == pytest.approx(np.pi * 10 * 5, rel=0.05)
    assert shape_box({**oval, "rotation": 90}) == pytest.approx((25, 10, 35, 30), abs=0.02)
    polygon = {"type": "polygon", "points": [5, 5, 25, 8, 9, 30]}
    assert shape_box(polygon) == (5, 5, 25, 30)


BROKEN = {
    "two corners": ({"type": "polygon", "points": [1, 2, 3, 4]}, "three points"),
    "texts": ({"type": "rectangle", "points": ["a", 1, 2, 3]}, "not a finite number"),
    "three numbers": ({"type": "rectangle", "points": [1, 2, 3]}, "4 are needed"),
    "no points": ({"type": "rectangle", "points": None}, "points are None"),
    "a flat ellipse": ({"type": "ellipse", "points": [9, 9, 9, 3]}, "radii"),
    "half a pixel": ({"type": "mask", "points": [0.5, 1, 0, 0, 1, 1]}, "whole numbers"),
    "too few runs": ({"type": "mask", "points": [1, 0, 0, 1, 1]}, "do not fill"),
    "outside": ({"type": "mask", "points": [0, 4, 63, 0, 64, 1]}, "in an image of 64 x 48"),
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_what_is_no_shape_is_refused(case: str) -> None:
    shape, text = BROKEN[case]
    # the mask alone needs to know the image
    of_mask = case in ("too few runs", "outside")
    read = (lambda s: shape_mask(s, SIZE)) if of_mask else shape_box
    with pytest.raises(InputError, match=text):
        read(shape)
