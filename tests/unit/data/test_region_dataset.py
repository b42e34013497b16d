"""What a training draws from: labels, seen and excluded classes, masks, mirrored alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyregion.data.region_dataset import region_dataset
from anyregion.errors import InputError
from anyregion.masks import decode_mask
from tests.helpers.small_sets import MadeUp, annotated, words


def test_labels_follow_the_vocabulary_and_exclusions() -> None:
    annotations = annotated([[0, 1, 2], [1], [2, 0], []], classes=3, crowd={(0, 0)})
    names = words(annotations.categories.names)
    data = region_dataset("set", MadeUp(annotations), names)
    assert data.labels.tolist() == [-1, 1, 2, 1, 2, 0]
    assert data.images.tolist() == [0, 1, 2]
    assert data.labels_of(0).tolist() == [1, 2], "as many as the image has tokens"
    seen = region_dataset("set", MadeUp(annotations), names, excluded=[3, 6])  # classes 0 and 1
    assert seen.images.tolist() == [0, 2]
    boxes, labels = seen.labelled(0)
    assert labels.tolist() == [2]
    assert boxes.tolist() == annotations.boxes[2:3].tolist()
    some = region_dataset("set", MadeUp(annotations), names, images=np.array([1, 3]))
    assert some.images.tolist() == [1]
    alike = region_dataset("set", MadeUp(annotations))
    assert alike.labels.tolist() == [-1, 0, 0, 0, 0, 0]
    with pytest.raises(InputError, match="set: no image has a region"):
        region_dataset("set", MadeUp(annotations), names, excluded=[3, 6, 9])


def test_mirror_images_boxes_and_masks(tmp_path: Path) -> None:
    annotations = annotated([[0, 1]], classes=2)
    square = [[2.0, 3.0, 8.0, 3.0, 8.0, 9.0, 2.0, 9.0]]
    annotations = replace(annotations, segmentations=(square, None))
    pixels = np.random.default_rng(0).integers(255, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "name-0.png")
    annotations = replace(annotations, file_names=("name-0.png",))
    data = region_dataset("set", MadeUp(annotations), folder=tmp_path)
    boxes, _ = data.labelled(0)
    mirrored, _ = data.labelled(0, flipped=True)
    assert mirrored.tolist() == [[64 - b[2], b[1], 64 - b[0], b[3]] for b in boxes.tolist()]
    assert (data.pixels(0, flipped=True) == pixels[:, ::-1]).all()
    assert data.rows(0, with_mask=True).tolist() == [0]
    assert data.rows(0, with_mask=False).tolist() == [1]
    assert int(decode_mask(data.rle(0, 0)).sum()) == 36
    assert data.describe(0, flipped=True) == "name-0.png (mirrored) of set"
    with pytest.raises(InputError, match=r"name-0\.png: not found"):
        replace(data, folder=tmp_path / "else").pixels(0)
    unsized = replace(annotations, sizes=np.full((1, 2), -1))
    with pytest.raises(InputError, match="do not state the size"):
        region_dataset("set", MadeUp(unsized)).size(0)
