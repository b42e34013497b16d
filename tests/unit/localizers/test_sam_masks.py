"""Masks on their way into the frame and back; masks and sizes that cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion.errors import InputError
from anyregion.localizers.frame import MASK_LOGIT, logits_to_masks, mask_to_logits
from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter
from anyregion.localizers.square import padded_frame, squashed_frame, to_frame
from anyregion.masks import decode_mask
from anyregion.regions import Regions
from tests.helpers.sam_reference import LANDSCAPE, PORTRAIT, photo, regions_of

# ---------------------------------------------------------------- masks and the frame


def test_padded_frame_rounds_half_up_and_scales_each_axis_on_its_own() -> None:
    frame = padded_frame((33, 100), 50)
    assert frame.inside == (17, 50)  # 16.5 rounds up
    scaled = to_frame(np.array([[10.0, 11.0, 100.0, 33.0]]), frame)
    np.testing.assert_allclose(scaled, [[5.0, 11 * 17 / 33, 50.0, 17.0]], rtol=1e-6)
    assert padded_frame((1000, 1), 64).inside == (64, 1)


@pytest.mark.parametrize("frame_of", [padded_frame, squashed_frame])
@pytest.mark.parametrize("size", [PORTRAIT, LANDSCAPE, (300, 200)])
def test_a_mask_survives_the_way_into_the_frame_and_back(frame_of: Any, size: Any) -> None:
    mask = np.zeros(size, dtype=bool)
    mask[size[0] // 5 : size[0] // 2, size[1] // 4 : -size[1] // 5] = True
    frame = frame_of(size, 128)
    logits = mask_to_logits(mask, frame, 32)
    assert float(logits.max()) == pytest.approx(MASK_LOGIT, abs=1e-4)
    assert float(logits.min()) == pytest.approx(-MASK_LOGIT, abs=1e-4)
    (back,) = (decode_mask(m) for m in logits_to_masks(logits[None], frame))
    assert back.shape == size
    assert (back & mask).sum() / (back | mask).sum() > 0.85


def test_padding_is_outside_a_mask_that_covers_the_image() -> None:
    logits = mask_to_logits(np.ones((32, 64), dtype=bool), padded_frame((32, 64), 64), 16)
    assert float(logits[:7].min()) > 0
    assert float(logits[9:].max()) < 0


def test_masks_of_sam_go_through_the_padded_square(
    localizers: dict[str, PromptableSegmenter],
) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box", PORTRAIT, localizer.low_side)
    result = localizer.tokens(encoded, regions, multimask=True, masks=True)
    masks = localizer.masks(encoded, result.mask_logits)
    assert [len(m) for m in masks] == [3, 3, 3]
    processor = pytest.importorskip("transformers.models.sam.image_processing_pil_sam")
    reference = processor.SamImageProcessorPil(pad_size={"height": 64, "width": 64})
    expected = reference.post_process_masks(
        [result.mask_logits],
        [PORTRAIT],
        [encoded.frame.inside],
        pad_size={"height": 64, "width": 64},
    )[0]
    decoded = np.array([[decode_mask(m) for m in of_region] for of_region in masks])
    assert 0.02 < decoded.mean() < 0.98
    np.testing.assert_array_equal(decoded, expected.numpy())


# ---------------------------------------------------------------- what cannot be used


def test_mask_logits_of_another_size_name_the_region(
    localizers: dict[str, PromptableSegmenter],
) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = Regions.from_prompts(
        boxes=[[1, 1, 9, 9]], mask_logits=[np.zeros((8, 8), np.float32)], ids=["cat"]
    )
    with pytest.raises(InputError, match=r"region cat.*\(8, 8\).*\(32, 32\)"):
        localizer.tokens(encoded, regions)


def test_a_mask_of_another_image_size_names_the_region(
    localizers: dict[str, PromptableSegmenter],
) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = Regions.from_prompts(masks=[np.ones((4, 4), bool)], ids=["cat"])
    with pytest.raises(InputError, match="region cat"):
        localizer.tokens(encoded, regions)


@pytest.mark.parametrize("option", ["chunk", "batch_size"])
def test_sizes_below_one_are_refused(option: str) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LocalizerOptions(**{option: 0})
