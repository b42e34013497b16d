"""Of found regions of one name and one thing the best stays; others are untouched."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.masks import encode_mask
from anyregion.proposals import DuplicateOptions, contained_share, without_duplicates
from anyregion.regions import Regions
from anyregion.runs.pipeline import ReadSample, RecognizeOptions, RegionNamer, Sample
from tests.helpers.colours import COLOURS, colour_recognizer

OPTIONS = DuplicateOptions(iou=0.5, contained=0.9)
BOXES = np.array(
    [
        [0.0, 0, 100, 100],
        [0, 0, 100, 80],  # overlaps it by 0.8
        [40, 40, 50, 50],  # lies in both
        [90, 90, 140, 140],  # overlaps the first a little
        [95, 95, 145, 145],  # and the fourth by 0.68
    ]
)


def kept(names: list[int], scores: list[float], options: DuplicateOptions = OPTIONS) -> list[int]:
    return without_duplicates(BOXES, names, scores, options).tolist()


def test_of_one_name_the_best_stays() -> None:
    assert kept([7] * 5, [0.5, 0.9, 0.8, 0.3, 0.2]) == [1, 3]
    # a part that is surer stands for the whole
    assert kept([7] * 5, [0.5, 0.4, 0.8, 0.3, 0.2]) == [2, 3]
    assert kept([7] * 5, [0.5] * 5) == [0, 3], "of equal scores the earlier"


def test_other_names_and_other_things_stay() -> None:
    assert kept([1, 2, 3, 4, 5], [0.5, 0.9, 0.8, 0.3, 0.2]) == [0, 1, 2, 3, 4]
    assert kept([1, 1, 2, 1, 2], [0.5, 0.9, 0.8, 0.3, 0.2]) == [1, 2, 3, 4]
    lenient = DuplicateOptions(iou=1.0, contained=1.1)
    assert kept([7] * 5, [0.5, 0.9, 0.8, 0.3, 0.2], lenient) == [0, 1, 2, 3, 4]
    assert without_duplicates(BOXES[:0], [], [], OPTIONS).tolist() == []


def test_shares_and_options() -> None:
    assert contained_share(BOXES[2:4], BOXES[:1])[:, 0].tolist() == [1, 0.04]
    assert contained_share(np.zeros((1, 4)), BOXES[:1]).tolist() == [[0]]
    with pytest.raises(InputError, match="iou from 0 to 1"):
        DuplicateOptions(iou=1.5)


@pytest.mark.parametrize("given", [True, False])
def test_regions_that_were_given_are_all_answered(given: bool) -> None:
    recognizer = colour_recognizer()
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)
    boxes = [[0, 0, 20, 30], [0, 0, 20, 25], [20, 0, 40, 30]]
    regions = Regions.from_boxes(boxes, scores=[0.5, 0.9, 0.5])
    sample = Sample("a", pixels, regions if given else None)
    item = ReadSample(sample, pixels, (30, 40), regions, [])
    namer = RegionNamer(
        recognizer,
        recognizer.encode_vocabulary(COLOURS),
        RecognizeOptions(top_k=1),
        duplicates=OPTIONS,
    )
    (predictions,) = namer(recognizer.encoder.encode_images([pixels]), [item])
    assert predictions.rows.tolist() == ([0, 1, 2] if given else [1, 2])
    assert predictions.labels[-1] == "black"


def test_masks_that_share_no_pixel_are_of_two_things() -> None:
    ring, core = np.zeros((2, 150, 150), dtype=bool)
    ring[:100, :100] = True
    ring[40:50, 40:50] = False
    core[40:50, 40:50] = True
    whole = np.zeros((150, 150), dtype=bool)
    whole[:80, :100] = True
    scores = [0.5, 0.9, 0.8, 0.3, 0.2]
    masks = [encode_mask(ring), encode_mask(whole), encode_mask(core), None, None]
    # the third lies in the second; that the fourth and the fifth have none leaves their boxes
    assert without_duplicates(BOXES, [7] * 5, scores, OPTIONS, masks=masks).tolist() == [1, 3]
    masks[1] = encode_mask(ring)
    assert without_duplicates(BOXES, [7] * 5, scores, OPTIONS, masks=masks).tolist() == [1, 2, 3]
    assert kept([7] * 5, scores) == [1, 3]
