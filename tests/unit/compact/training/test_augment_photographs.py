"""`tools/augment_photographs.py`: crops and mosaics whose boxes still hold what they held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anyregion.data.annotations.reading import read_annotations
from anyregion.images import read_image
from anyregion.masks import decode_mask, mask_box
from tests.helpers.compact_data import toy_dataset

TOOL = Path(__file__).parents[4] / "tools" / "augment_photographs.py"


@pytest.mark.skipif(not TOOL.is_file(), reason="the tools are not part of what was unpacked")
def test_boxes_and_masks_go_with_the_pixels(tmp_path: Path) -> None:
    toy_dataset(tmp_path)
    words = ["--annotations", tmp_path / "toy.json", "--images", tmp_path]
    words += ["--crops", "2", "--mosaics", "1", "--out"]
    for out in ("one", "two"):
        subprocess.run([sys.executable, TOOL, *words, tmp_path / out], check=True)
    files = [tmp_path / out / "instances.json" for out in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    annotations = read_annotations(files[0], masks=True)
    # a crop of nothing but background is no use
    assert 7 <= len(annotations) <= 9
    assert not annotations.set_aside
    things = 0
    for image, name in enumerate(annotations.file_names):
        pixels = read_image(tmp_path / "one" / "images" / name)
        assert pixels.shape[:2] == tuple(annotations.sizes[image])
        for row in annotations.rows(image):
            mask = decode_mask(annotations.segmentations[row])
            box, tight = annotations.boxes[row], mask_box(annotations.segmentations[row])
            assert np.abs(box - tight).max() <= 2.1, "but for the rounding of a part of a mosaic"
            red, _, blue = pixels[mask].mean(axis=0)
            assert max(red, blue) > 150, "discs and bars are bright, what lies behind them is not"
            things += 1
    assert things > 10
    assert json.loads(files[0].read_text())["categories"] == [{"id": 1, "name": "thing"}]
