"""The mask head's small masks pasted into images: their code, their place, their borders."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.compact.mask_head import paste
from anyregion.masks import decode_mask, encode_crop, encode_mask, mask_box


@pytest.mark.parametrize(
    ("size", "corner", "crop"),
    [
        ((7, 9), (2, 1), (3, 4)),
        ((7, 9), (0, 0), (7, 9)),  # whole columns: runs go on in the next one
        ((7, 9), (3, 0), (7, 2)),
        ((7, 9), (8, 6), (1, 1)),  # the last pixel
        ((1, 1), (0, 0), (1, 1)),
    ],
)
@pytest.mark.parametrize("filled", [0.0, 0.5, 1.0])
def test_a_coded_crop_is_the_coded_image(
    size: tuple[int, int], corner: tuple[int, int], crop: tuple[int, int], filled: float
) -> None:
    inside = np.random.default_rng(0).random(crop) < filled
    whole = np.zeros(size, dtype=bool)
    whole[corner[1] : corner[1] + crop[0], corner[0] : corner[0] + crop[1]] = inside
    coded = encode_crop(inside, *corner, size=size)
    assert coded == encode_mask(whole)


def test_a_full_mask_fills_its_box_and_nothing_else() -> None:
    box = np.array([10.0, 20.0, 50.0, 80.0])
    rle = paste(np.ones((8, 8), np.float32), box, margin=0.1, size=(100, 90))
    mask = decode_mask(rle)
    assert mask.sum() == 40 * 60
    assert mask[20:80, 10:50].all()


def test_half_a_mask_ends_in_the_middle_of_its_box() -> None:
    inside = np.zeros((8, 8), np.float32)
    inside[:, :4] = 1
    rle = paste(inside, np.array([10.0, 20.0, 50.0, 80.0]), margin=0.25, size=(100, 90))
    np.testing.assert_array_equal(mask_box(rle), [10, 20, 30, 80])


@pytest.mark.parametrize(
    "box", [[0.2, 0.3, 0.6, 0.5], [88.9, 98.5, 90.0, 100.0], [-5.0, 40.0, 3.0, 41.0]]
)
def test_a_mask_is_never_empty_nor_larger_than_its_image(box: list[float]) -> None:
    rle = paste(np.zeros((8, 8), np.float32), np.array(box), margin=0.1, size=(100, 90))
    assert rle["size"] == [100, 90]
    assert decode_mask(rle).sum() == 1


def test_pixels_larger_than_cells_take_the_mean_of_their_cells() -> None:
    inside = np.tile(np.array([[1.0, 0.0]], np.float32), (56, 28))  # stripes, half inside
    rle = paste(inside, np.array([0.0, 0.0, 4.0, 4.0]), margin=0.0, size=(4, 4), threshold=0.45)
    assert decode_mask(rle).all()
    rle = paste(inside, np.array([0.0, 0.0, 4.0, 4.0]), margin=0.0, size=(4, 4), threshold=0.55)
    assert decode_mask(rle).sum() == 1
