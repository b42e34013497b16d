"""Automatic masks of small random models: grid, crops, filters, and a plain way of the same."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from anyregion.errors import InputError
from anyregion.localizers import automatic
from anyregion.localizers.automatic import (
    AutomaticMasks,
    AutomaticOptions,
    crop_boxes,
    point_grid,
    remove_small_regions,
    stability_score,
)
from anyregion.localizers.segmenter import PromptableSegmenter
from anyregion.masks import decode_mask, encode_mask, mask_area, mask_box
from anyregion.regions import Regions
from tests.helpers.sam_reference import LANDSCAPE, PORTRAIT, photo
from tests.helpers.small_localizers import FAMILIES

# random models predict IoUs anywhere and masks of any shape: thresholds that some pass
EASY = AutomaticOptions(
    points_per_side=4,
    pred_iou_thresh=-1e9,
    stability_score_thresh=0.6,
    stability_score_offset=0.05,
    box_nms_thresh=0.9,
)

# ---------------------------------------------------------------- by hand


def test_the_grid_is_the_centres_of_cells() -> None:
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(32).shape == (1024, 2)


def test_stability_is_the_iou_of_two_cuts() -> None:
    logits = torch.tensor([[[3.0, 0.5, -0.5, -3.0]], [[3.0, 3, -3, -3]], [[-9.0, -9, -9, -9]]])
    # above 1: one pixel; above -1: three
    assert stability_score(logits, 1.0).tolist() == pytest.approx([1 / 3, 1, 0])
    assert stability_score(logits, 0.1).tolist() == pytest.approx([1, 1, 0])


def test_crops_cover_the_image_and_overlap() -> None:
    crops = crop_boxes((300, 400), 2, 512 / 1500)
    assert [layer for layer, _ in crops] == [0] + [1] * 4 + [2] * 16
    # overlap int(512 / 1500 * 300 * 2 / 2) = 102; sides (102 + 400) / 2 and (102 + 300) / 2
    assert crops[:3] == [(0, (0, 0, 400, 300)), (1, (0, 0, 251, 201)), (1, (149, 0, 400, 201))]
    for expected_layer in (1, 2):
        covered = np.zeros((300, 400), dtype=bool)
        for layer, (x0, y0, x1, y1) in crops:
            if layer == expected_layer:
                assert 0 <= x0 < x1 <= 400
                assert 0 <= y0 < y1 <= 300
                covered[y0:y1, x0:x1] = True
        assert covered.all()
    assert crop_boxes((1, 1), 1, 0.3)[0] == (0, (0, 0, 1, 1))


def test_small_holes_and_islands_go() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:12, 2:12] = True
    mask[5, 5] = False  # a hole of one pixel
    mask[15:17, 15:17] = True  # an island of four
    whole = np.zeros((20, 20), dtype=bool)
    whole[2:12, 2:12] = True
    cleaned = remove_small_regions(mask, 5)
    assert cleaned is not None
    assert (cleaned == whole).all()
    only_hole = remove_small_regions(mask, 2)
    assert only_hole is not None
    assert (only_hole ^ whole).sum() == 4
    assert remove_small_regions(mask, 1) is None
    kept = remove_small_regions(mask, 1000)
    assert kept is not None
    assert kept.all(), "everything around is one small hole"


def test_of_islands_alone_the_largest_stays() -> None:
    mask = np.zeros((90, 90), dtype=bool)
    mask[1:3, 1:3] = mask[10:13, 10:13] = True
    cleaned = remove_small_regions(mask, 50)
    assert cleaned is not None
    assert cleaned.sum() == 9
    # corners connect
    diagonal = np.eye(90, dtype=bool)
    assert remove_small_regions(diagonal, 80) is None


@pytest.mark.parametrize(
    "wrong",
    [{"points_per_side": 0}, {"points_per_batch": 0}, {"crop_n_layers": -1}],
)
def test_options_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        AutomaticOptions(**wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- with models


def reference_masks(
    localizer: PromptableSegmenter, image: Any, options: AutomaticOptions
) -> Regions:
    """The same masks point by point, with torchvision's NMS, without crops."""
    ops = pytest.importorskip("torchvision.ops")
    size = image.shape[:2]
    (encoded,) = localizer.encode([image])
    masks = []
    for x, y in point_grid(options.points_per_side) * [size[1], size[0]]:
        prompt = Regions.from_prompts(points=[[[x, y]]])
        result = localizer.tokens(encoded, prompt, multimask=True, masks=True)
        for candidate in range(3):
            low = result.mask_logits[:, candidate : candidate + 1]
            cuts = [
                decode_mask(localizer.masks(encoded, low - t)[0][0])
                for t in (options.stability_score_offset, 0, -options.stability_score_offset)
            ]
            score = float(result.mask_scores[0, candidate])
            stable = cuts[0].sum() / max(1, cuts[2].sum())
            if score > options.pred_iou_thresh and stable >= options.stability_score_thresh:
                masks.append((encode_mask(cuts[1]), score))
    boxes = np.array([mask_box(rle) for rle, _ in masks])
    scores = np.array([score for _, score in masks])
    kept = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), options.box_nms_thresh)
    rows = kept.numpy()
    return Regions.from_boxes(boxes[rows], scores=scores[rows].clip(0, 1))


@pytest.mark.parametrize("nms", [0.8, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_the_plain_way(
    localizers: dict[str, PromptableSegmenter], family: str, nms: float
) -> None:
    image = photo(PORTRAIT, seed=4)
    options = replace(EASY, box_nms_thresh=nms, pred_iou_thresh=-0.4)
    regions = AutomaticMasks(localizers[family], options).propose(image)
    expected = reference_masks(localizers[family], image, options)
    assert len(regions) >= (2 if nms == 1 else 1)
    np.testing.assert_array_equal(regions.boxes, expected.boxes)
    np.testing.assert_allclose(regions.scores, expected.scores, atol=1e-5)
    assert regions.ids == tuple(range(len(regions)))
    for rle, box in zip(regions.masks, regions.boxes, strict=True):
        assert rle is not None
        assert rle["size"] == list(PORTRAIT)
        assert mask_box(rle).tolist() == box.tolist()


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_neither_batches_nor_chunks_change_the_masks(
    localizers: dict[str, PromptableSegmenter], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(LANDSCAPE, seed=2)
    first = AutomaticMasks(localizers[family], EASY).propose(image)
    again = AutomaticMasks(localizers[family], EASY).propose(image)
    monkeypatch.setattr(automatic, "_PIXELS_AT_ONCE", 1)  # one mask at a time
    batched = AutomaticMasks(localizers[family], replace(EASY, points_per_batch=3)).propose(image)
    for other in (again, batched):
        assert other.masks == first.masks
        np.testing.assert_array_equal(other.boxes, first.boxes)
        np.testing.assert_allclose(other.scores, first.scores, atol=1e-5)


def test_scores_are_sorted_predicted_ious_up_to_one(
    localizers: dict[str, PromptableSegmenter],
) -> None:
    for family in FAMILIES:
        scores = AutomaticMasks(localizers[family], EASY).propose(photo(PORTRAIT)).scores
        assert scores is not None
        assert (np.diff(scores) <= 0).all()
        assert scores.min() >= 0
        assert scores.max() <= 1


def test_an_image_without_masks(localizers: dict[str, PromptableSegmenter]) -> None:
    options = replace(EASY, pred_iou_thresh=1e9, crop_n_layers=1, min_mask_region_area=5)
    regions = AutomaticMasks(localizers["sam"], options).propose(photo(PORTRAIT))
    assert len(regions) == 0
    assert regions.scores is not None
    assert regions.fit(*PORTRAIT)[1] == []


def test_thresholds_are_the_published_ones_of_the_family(
    localizers: dict[str, PromptableSegmenter],
) -> None:
    chosen = {f: AutomaticMasks(localizers[f]).options.pred_iou_thresh for f in FAMILIES}
    assert chosen == {"sam": 0.88, "sam_hq": 0.88, "sam2": 0.8, "sam3": 0.8}
    prints = {AutomaticMasks(localizers[f]).fingerprint for f in FAMILIES}
    prints.add(AutomaticMasks(localizers["sam"], EASY).fingerprint)
    assert len(prints) == len(FAMILIES) + 1
    assert AutomaticMasks(localizers["sam"], EASY).fingerprint in prints


def test_what_a_crop_cuts_is_dropped(localizers: dict[str, PromptableSegmenter]) -> None:
    size = (120, 160)
    options = replace(EASY, points_per_side=2, crop_n_layers=1, stability_score_thresh=0.2)
    proposer = AutomaticMasks(localizers["sam"], options)
    image = photo(size, seed=1)
    crops = crop_boxes(size, 1, options.crop_overlap_ratio)
    inside = []
    for layer, crop in crops:
        x0, y0, x1, y1 = crop
        (encoded,) = proposer.localizer.encode([np.ascontiguousarray(image[y0:y1, x0:x1])])
        inside.append(proposer._crop_masks(encoded, size, layer, crop))
    for (_, crop), regions in itertools.islice(zip(crops, inside, strict=True), 1, None):
        for box in regions.boxes:
            borders = zip(box, crop, (0, 0, size[1], size[0]), strict=True)
            assert all(abs(b - c) > 20 or abs(b - whole) <= 20 for b, c, whole in borders)
    whole = proposer.propose(image)
    assert 0 < len(whole) <= sum(len(f.masks) for f in inside)
    assert all(rle is not None and rle["size"] == list(size) for rle in whole.masks)


def test_a_smaller_crop_wins_and_a_mask_it_cuts_does_not_count() -> None:
    image = (0, 0, 200, 100)
    left = (0, 0, 120, 100)
    mask = np.zeros((100, 120), dtype=bool)
    mask[30:60, 30:60] = True
    assert not automatic._is_cut(mask, left, (100, 200))
    mask[30:60, 60:110] = True  # to 10 pixels from the crop's right border
    assert automatic._is_cut(mask, left, (100, 200))
    wide = np.zeros((100, 200), dtype=bool)
    wide[:, :] = True
    assert not automatic._is_cut(wide, image, (100, 200)), "the image's own border cuts nothing"


def test_small_parts_are_cleaned_away(localizers: dict[str, PromptableSegmenter]) -> None:
    image = photo(LANDSCAPE, seed=3)
    least = 40
    regions = AutomaticMasks(localizers["sam"], replace(EASY, min_mask_region_area=least)).propose(
        image
    )
    assert len(regions)
    for rle in regions.masks:
        assert rle is not None
        mask = decode_mask(rle)
        again = remove_small_regions(mask, least)
        # what stays is clean, but for a lone island that is small itself
        assert again is None or mask_area(rle) < least or (~mask).sum() < least


def test_a_tiny_image(localizers: dict[str, PromptableSegmenter]) -> None:
    options = replace(EASY, crop_n_layers=2)
    regions = AutomaticMasks(localizers["sam2"], options).propose(np.zeros((2, 1, 3), np.uint8))
    assert regions.fit(2, 1)[1] == []


def test_an_image_that_is_encoded_already(localizers: dict[str, PromptableSegmenter]) -> None:
    """What the recogniser's encoder made of the image gives the same masks as the image."""
    localizer, image = localizers["sam"], photo(LANDSCAPE)
    proposer = AutomaticMasks(localizer, EASY, encoder=object())  # type: ignore[arg-type]
    expected = proposer.propose(image)
    (localized,) = localizer.encode([image])
    encoded = SimpleNamespace(localized=localized, size=image.shape[:2])
    assert len(expected)
    proposed = proposer.propose_encoded(encoded)
    assert (proposed.boxes == expected.boxes).all()
    assert proposed.masks == expected.masks
    assert proposed.scores is not None
    assert (proposed.scores == expected.scores).all()
    crops = replace(EASY, crop_n_layers=1)
    assert AutomaticMasks(localizer, crops, encoder=object()).encoder is None  # type: ignore[arg-type]
