"""The published SAM, number for number, where the fixture is at hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.localizers.prompts import prompt_batches  # noqa: E402
from anyregion.localizers.square import resize_to_frame, to_frame  # noqa: E402
from anyregion.masks import decode_mask  # noqa: E402
from anyregion.regions import Regions  # noqa: E402
from tests.helpers.shared import SHARED  # noqa: E402

FIXTURE = SHARED / "fixtures" / "regionspot"
needs_fixture = pytest.mark.skipif(
    not (FIXTURE / "checkpoint.pth").is_file(), reason=f"no RegionSpot fixture at {FIXTURE}"
)


@pytest.fixture(scope="module")
def fixture() -> dict[str, Any]:
    torch.set_num_threads(1)
    floors = json.loads((FIXTURE / "noise_floor.json").read_text())
    counts = json.loads((FIXTURE / "config.json").read_text())["pixels_with_abs_logit_below_1e_3"]
    with np.load(FIXTURE / "inputs.npz") as inputs, np.load(FIXTURE / "outputs.npz") as outputs:
        arrays = {**inputs, **outputs}
    localizer = load_localizer(FIXTURE / "checkpoint.pth")
    encoded = localizer.encode([arrays["in__image"], arrays["in__image2"]])
    return {
        "arrays": arrays,
        "floors": floors,
        "counts": counts,
        "localizer": localizer,
        "encoded": encoded,
    }


def within_tolerance(fixture: dict[str, Any], name: str, values: Any) -> None:
    reference = fixture["arrays"][name]
    assert tuple(values.shape) == reference.shape
    limit = max(10 * fixture["floors"][name]["abs"], 1e-6 * np.abs(reference).max())
    assert np.abs(np.asarray(values) - reference).max() <= limit, name


def scenario(arrays: dict[str, Any], name: str) -> tuple[Regions, bool]:
    boxes, points, labels = arrays["in__boxes"], arrays["in__points"], arrays["in__point_labels"]
    three = {"point", "pointbox", "boxes_multi"}
    regions = {
        "box": lambda: Regions.from_boxes(boxes),
        "point": lambda: Regions.from_prompts(points=[points], point_labels=[labels]),
        "point_single": lambda: Regions.from_prompts(
            points=[points[:1]], point_labels=[labels[:1]]
        ),
        "pointbox": lambda: Regions.from_prompts(
            boxes=boxes[1:2], points=[points[:2]], point_labels=[labels[:2]]
        ),
        "box_mask": lambda: Regions.from_prompts(
            boxes=boxes[:1], mask_logits=[arrays["box__low_res_logits"][0, 0]]
        ),
        "boxes_multi": lambda: Regions.from_boxes(boxes[:2]),
        "mixed": lambda: Regions.from_prompts(
            boxes=arrays["in__mixed_boxes"],
            points=list(arrays["in__mixed_points"]),
            point_labels=list(arrays["in__mixed_labels"]),
        ),
    }[name]()
    return regions, name in three


def differing(fixture: dict[str, Any], name: str, index: Any, masks: Any) -> int:
    width = fixture["arrays"][f"{name}__masks_shape"][-1]
    packed = fixture["arrays"][f"{name}__masks_packed"][index]
    reference = np.unpackbits(packed, axis=-1)[..., :width].astype(bool)
    values = np.array([[decode_mask(mask) for mask in of_region] for of_region in masks])
    assert values.shape == reference.shape
    return int((values != reference).sum())


@needs_fixture
def test_published_image_side(fixture: dict[str, Any]) -> None:
    localizer, encoded = fixture["localizer"], fixture["encoded"][0]
    arrays = fixture["arrays"]
    resized = resize_to_frame(arrays["in__image"], encoded.frame)
    np.testing.assert_array_equal(resized, arrays["sam_input_image_uint8"])
    within_tolerance(fixture, "sam_image_embedding", encoded.embedding)
    positions = localizer.backend.model.get_image_wide_positional_embeddings()
    within_tolerance(fixture, "sam_dense_positional_encoding", positions)


@needs_fixture
@pytest.mark.parametrize(
    "name", ["box", "point", "point_single", "pointbox", "box_mask", "boxes_multi", "mixed"]
)
def test_published_prompts_tokens_and_masks(fixture: dict[str, Any], name: str) -> None:
    localizer, encoded = fixture["localizer"], fixture["encoded"][0]
    regions, multimask = scenario(fixture["arrays"], name)
    (chunk,) = prompt_batches(
        regions, encoded.frame, chunk=99, low_side=localizer.low_side, device=localizer.device
    )
    sparse, _ = localizer.prompt_embeddings(chunk)
    within_tolerance(fixture, f"{name}__sparse_embeddings", sparse)
    light = localizer.tokens(encoded, regions, multimask=multimask)
    within_tolerance(fixture, f"{name}__mask_tokens", light.tokens)
    full = localizer.tokens(encoded, regions, multimask=multimask, masks=True)
    within_tolerance(fixture, f"{name}__mask_tokens", full.tokens)
    within_tolerance(fixture, f"{name}__iou_predictions", full.mask_scores)
    within_tolerance(fixture, f"{name}__low_res_logits", full.mask_logits)
    masks = localizer.masks(encoded, full.mask_logits)
    assert differing(fixture, name, slice(None), masks) <= fixture["counts"][name]


@needs_fixture
def test_published_evaluation_boxes_and_masks(fixture: dict[str, Any]) -> None:
    localizer, arrays = fixture["localizer"], fixture["arrays"]
    boxes = [arrays["in__boxes"][:4], arrays["in__boxes2"]]
    scaled = [to_frame(b, e.frame) for b, e in zip(boxes, fixture["encoded"], strict=True)]
    within_tolerance(fixture, "eval__boxes_sam_frame", np.stack(scaled))
    wrong = 0
    for index, (of_image, encoded) in enumerate(zip(boxes, fixture["encoded"], strict=True)):
        result = localizer.tokens(encoded, Regions.from_boxes(of_image), masks=True)
        wrong += differing(fixture, "eval", index, localizer.masks(encoded, result.mask_logits))
    assert wrong <= 100
