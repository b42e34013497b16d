"""Localizers against the published fixture, and against transformers' own plain forward passes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from anyregion.errors import CheckpointError, InputError, MissingExtraError  # noqa: E402
from anyregion.localizers.frame import (  # noqa: E402
    MASK_LOGIT,
    boxes_to_frame,
    logits_to_masks,
    mask_to_logits,
    padded_frame,
    resize_to_frame,
    squashed_frame,
)
from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.localizers.prompts import prompt_chunks  # noqa: E402
from anyregion.localizers.sam import sam_localizer  # noqa: E402
from anyregion.localizers.sam2 import SAM3_MEAN, SAM3_STD, sam2_localizer  # noqa: E402
from anyregion.localizers.sam_checkpoint import sam_from_state, sam_model_from_state  # noqa: E402
from anyregion.localizers.sam_hq import sam_hq_localizer  # noqa: E402
from anyregion.localizers.segmenter import RunOptions, SegmenterLocalizer  # noqa: E402
from anyregion.masks import decode_mask  # noqa: E402
from anyregion.regions import Regions  # noqa: E402
from tests.shared import SHARED  # noqa: E402

FIXTURE = SHARED / "fixtures" / "regionspot"
needs_fixture = pytest.mark.skipif(
    not (FIXTURE / "checkpoint.pth").is_file(), reason=f"no RegionSpot fixture at {FIXTURE}"
)
PORTRAIT, LANDSCAPE = (45, 31), (40, 64)
PROMPTS = ["box", "point", "points", "box+points", "mask", "box+mask", "points+mask", "box+logits"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def spread(model: Any) -> Any:
    """Random weights large enough that attention, masks and positions all matter."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        if "embed" in name or "token" in name or "rel_pos" in name:
            scale = 0.5
        noise = torch.randn(parameter.shape, generator=generator) * scale
        base = 1.0 if name.endswith("weight") and parameter.dim() == 1 else 0.0
        parameter.data = base + noise
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()


def sam_config(kind: str = "Sam", *, side: int = 64, window: int = 3) -> Any:
    return getattr(transformers, f"{kind}Config")(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 8,
            "window_size": window,
            "global_attn_indexes": [1],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 48,
            "num_attention_heads": 8,
            "iou_head_hidden_dim": 40,
            "layer_norm_eps": 1e-5,
            **({"vit_dim": 24} if kind == "SamHQ" else {}),
        },
    )


SMALL_DECODER = {
    "hidden_size": 32,
    "mlp_dim": 48,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 32,
}


def sam2_config() -> Any:
    return transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [16, 32, 64, 128],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [4, 2, 2, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config=SMALL_DECODER,
    )


def sam3_config() -> Any:
    return transformers.Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 56,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": 28,
            },
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 56, "patch_size": 14},
        mask_decoder_config=SMALL_DECODER,
    )


def build(family: str, **given: Any) -> SegmenterLocalizer:
    options = RunOptions(**given)
    if family == "sam":
        model = spread(transformers.SamModel(sam_config()))
        return sam_localizer(model, name=family, options=options)
    if family == "sam_hq":
        model = spread(transformers.SamHQModel(sam_config("SamHQ")))
        return sam_hq_localizer(model, name=family, options=options)
    if family == "sam2":
        model = spread(transformers.Sam2Model(sam2_config()))
        return sam2_localizer(model, name=family, options=options)
    model = spread(transformers.Sam3TrackerModel(sam3_config()))
    return sam2_localizer(model, name=family, options=options, mean=SAM3_MEAN, std=SAM3_STD)


FAMILIES = ["sam", "sam_hq", "sam2", "sam3"]


@pytest.fixture(scope="module")
def localizers() -> dict[str, SegmenterLocalizer]:
    return {family: build(family) for family in FAMILIES}


def photo(size: tuple[int, int], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)
    rows = np.arange(size[0]) * 5 // size[0]
    columns = np.arange(size[1]) * 4 // size[1]
    return coarse[rows][:, columns]


def regions_of(
    prompt: str, size: tuple[int, int], low_side: int, count: int = 3, seed: int = 1
) -> Regions:
    """`count` regions, each with the parts that `prompt` names."""
    height, width = size
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.5, (count, 2)) * [width, height]
    high = low + rng.uniform(0.2, 0.45, (count, 2)) * [width, height]
    parts = prompt.split("+")
    points = {"point": 1, "points": 3}
    number = next((points[p] for p in parts if p in points), 0)
    masks = []
    for (x0, y0), (x1, y1) in zip(low.astype(int), np.ceil(high).astype(int), strict=True):
        mask = np.zeros(size, dtype=bool)
        mask[y0:y1, x0:x1] = True
        mask[y0, x0] = False
        masks.append(mask)
    logits = [rng.normal(0, 4, (low_side, low_side)).astype(np.float32) for _ in masks]
    return Regions.from_prompts(
        boxes=np.concatenate([low, high], axis=1)
        if "box" in parts
        else np.full((count, 4), np.nan),
        points=[rng.uniform(0, 1, (number, 2)) * [width, height] for _ in masks],
        point_labels=[np.array([1, 0, 1][:number]) for _ in masks],
        masks=masks if "mask" in parts else None,
        mask_logits=logits if "logits" in parts else None,
    )


@torch.no_grad()
def plainly(
    localizer: SegmenterLocalizer, image: Any, regions: Regions, *, multimask: bool
) -> tuple[Any, Any, Any]:
    """Tokens, masks and scores by the model's own forward pass, one region at a time."""
    family, model = localizer.family, localizer.family.model
    frame = family.frame(image.shape[:2])
    pixels = family.pixels(image, frame)[None]
    caught: list[Any] = []
    hooks = [
        model.mask_decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: caught.append((output[0][0, 0], output[1]))
        )
    ]
    if hasattr(model.mask_decoder, "hq_token"):
        # transformers (5.23) drops the image side of SAM-HQ's two-way transformer and upscales the
        # embedding of before, height and width exchanged; the published model upscales that side
        grid = localizer.low_side // 4
        hooks.append(
            model.mask_decoder.upscale_conv1.register_forward_pre_hook(
                lambda *_: caught[-1][1][:, 0].transpose(1, 2).unflatten(2, (grid, grid))
            )
        )
    tokens, logits, scores = [], [], []
    scale = np.array([frame.inside[1] / frame.size[1], frame.inside[0] / frame.size[0]])
    for row in range(len(regions)):
        asked: dict[str, Any] = {}
        box, points = regions.boxes[row], regions.points[row]
        if regions.mask_logits[row] is not None:
            asked["input_masks"] = torch.tensor(regions.mask_logits[row])[None, None]
        elif regions.masks[row] is not None:
            mask = regions.mask(row)
            asked["input_masks"] = mask_to_logits(mask, frame, localizer.low_side)[None, None]
            if np.isnan(box).any() and not len(points):
                y, x = np.nonzero(mask)
                box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=np.float64)
        if np.isfinite(box).all():
            asked["input_boxes"] = torch.tensor(
                (box.reshape(2, 2) * scale).reshape(1, 1, 4)
            ).float()
        if len(points):
            asked["input_points"] = torch.tensor(points * scale)[None, None].float()
            asked["input_labels"] = torch.tensor(regions.point_labels[row])[None, None]
        out = model(pixel_values=pixels, multimask_output=multimask, **asked)
        rows = slice(1, 4) if multimask else slice(0, 1)
        tokens.append(caught[-1][0][family.mask_row : family.mask_row + 4][rows])
        logits.append(out.pred_masks[0, 0])
        scores.append(out.iou_scores[0, 0])
    for hook in hooks:
        hook.remove()
    return torch.stack(tokens), torch.stack(logits), torch.stack(scores)


def close(ours: Any, reference: Any, tolerance: float = 2e-5) -> None:
    assert ours.shape == reference.shape
    limit = tolerance * max(1.0, float(reference.abs().max()))
    assert float((ours - reference).abs().max()) <= limit


# ---------------------------------------------------------------- against the plain forward pass


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_own_forward_pass(
    localizers: dict[str, SegmenterLocalizer], family: str, prompt: str, multimask: bool
) -> None:
    localizer = localizers[family]
    image = photo(PORTRAIT)
    regions = regions_of(prompt, PORTRAIT, localizer.low_side)
    (encoded,) = localizer.encode([image])
    light = localizer.tokens(encoded, regions, multimask=multimask)
    full = localizer.tokens(encoded, regions, multimask=multimask, masks=True)
    tokens, logits, scores = plainly(localizer, image, regions, multimask=multimask)
    assert float(tokens.std()) > 0.1  # a network of zeros would agree with anything
    close(light.tokens, tokens)
    close(full.tokens, tokens)
    assert light.mask_logits is None
    assert (light.mask_scores is None) is not multimask
    assert full.mask_logits is not None
    assert full.mask_scores is not None
    if family == "sam_hq" and multimask:
        # transformers sorts the candidates' SAM masks by score; ours keep the tokens' order
        order = full.mask_scores.argsort(dim=1, descending=True)
        close(full.mask_scores.gather(1, order), scores)
        index = order[..., None, None].expand_as(full.mask_logits)
        close(full.mask_logits.gather(1, index), logits, 1e-4)
    else:
        close(full.mask_scores, scores)
        close(full.mask_logits, logits, 1e-4)
    if light.mask_scores is not None:
        close(light.mask_scores, full.mask_scores)


def test_prompts_change_the_answer(localizers: dict[str, SegmenterLocalizer]) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    tokens = [
        localizer.tokens(encoded, regions_of(p, PORTRAIT, localizer.low_side)).tokens
        for p in ("box", "point", "box+points", "box+mask")
    ]
    for i, first in enumerate(tokens):
        for second in tokens[i + 1 :]:
            assert float((first - second).abs().max()) > 1e-2


def test_sam2_takes_the_published_mask_where_the_single_one_is_unstable(
    localizers: dict[str, SegmenterLocalizer],
) -> None:
    localizer = localizers["sam2"]
    decoder = localizer.family.model.mask_decoder
    image = photo(PORTRAIT)
    regions = regions_of("box", PORTRAIT, localizer.low_side)
    (encoded,) = localizer.encode([image])
    kept = decoder.dynamic_multimask_stability_thresh
    answers = []
    try:
        for threshold in (0.0, 1.1):  # every single mask stable; none
            decoder.dynamic_multimask_stability_thresh = threshold
            ours = localizer.tokens(encoded, regions, masks=True)
            tokens, logits, scores = plainly(localizer, image, regions, multimask=False)
            close(ours.tokens, tokens)
            close(ours.mask_logits, logits, 1e-4)
            close(ours.mask_scores, scores)
            answers.append(ours)
    finally:
        decoder.dynamic_multimask_stability_thresh = kept
    assert torch.equal(answers[0].tokens, answers[1].tokens)
    assert not torch.allclose(answers[0].mask_logits, answers[1].mask_logits)


# ---------------------------------------------------------------- batches, chunks, order


@pytest.mark.parametrize("family", FAMILIES)
def test_no_regions(localizers: dict[str, SegmenterLocalizer], family: str) -> None:
    localizer = localizers[family]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    found = localizer.tokens(encoded, Regions.from_boxes([]), multimask=True, masks=True)
    side = localizer.low_side
    assert found.tokens.shape == (0, 3, localizer.token_width)
    assert found.mask_scores.shape == (0, 3)
    assert found.mask_logits.shape == (0, 3, side, side)
    assert localizer.masks(encoded, found.mask_logits) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_different_sizes_encode_as_one_by_one(family: str) -> None:
    images = [photo(PORTRAIT, 1), photo(LANDSCAPE, 2), photo((64, 64), 3)]
    localizer = build(family, batch_size=3)
    together = localizer.encode(images)
    for image, encoded in zip(images, together, strict=True):
        (alone,) = localizer.encode([image])
        assert encoded.frame == alone.frame
        close(encoded.embedding, alone.embedding, 1e-5)
        for mine, theirs in zip(encoded.extras, alone.extras, strict=True):
            close(mine, theirs, 1e-5)
        assert not encoded.embedding.requires_grad
    assert not torch.allclose(together[0].embedding, together[1].embedding)


def mixed_regions(low_side: int) -> Regions:
    parts = [regions_of(p, PORTRAIT, low_side, count=2, seed=i) for i, p in enumerate(PROMPTS)]
    order = np.random.default_rng(0).permutation(2 * len(parts))
    together = Regions.from_prompts(
        boxes=np.concatenate([p.boxes for p in parts]),
        points=[q for p in parts for q in p.points],
        point_labels=[q for p in parts for q in p.point_labels],
        masks=[m for p in parts for m in p.masks],
        mask_logits=[m for p in parts for m in p.mask_logits],
    )
    return together.take(order)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_and_company_change_nothing_and_order_is_kept(
    localizers: dict[str, SegmenterLocalizer], family: str
) -> None:
    localizer = localizers[family]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = mixed_regions(localizer.low_side)
    together = localizer.tokens(encoded, regions, masks=True)
    for row in range(len(regions)):
        alone = localizer.tokens(encoded, regions.take([row]), masks=True)
        close(together.tokens[row], alone.tokens[0])
        close(together.mask_logits[row], alone.mask_logits[0], 1e-4)
        close(together.mask_scores[row], alone.mask_scores[0])
    for chunk in (1, 5, 32):
        other = SegmenterLocalizer(localizer.family, name="", options=RunOptions(chunk=chunk))
        close(other.tokens(encoded, regions).tokens, together.tokens)


def test_a_chunk_bounds_what_is_decoded_at_once(
    localizers: dict[str, SegmenterLocalizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyregion.localizers import segmenter

    sizes: list[int] = []
    real = segmenter.two_way

    def counting(transformer: Any, prompts: Any, image: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return real(transformer, prompts, image, **options)

    monkeypatch.setattr(segmenter, "two_way", counting)
    localizer = SegmenterLocalizer(localizers["sam"].family, name="", options=RunOptions(chunk=4))
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box", PORTRAIT, localizer.low_side, count=10)
    localizer.tokens(encoded, regions)
    assert sizes == [4, 4, 2]


def test_tokens_alone_run_neither_upscaling_nor_hypernetworks() -> None:
    localizer = build("sam")
    decoder = localizer.family.model.mask_decoder
    ran: list[str] = []
    for name in ("upscale_conv1", "output_hypernetworks_mlps.0", "iou_prediction_head"):
        decoder.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box", PORTRAIT, localizer.low_side)
    localizer.tokens(encoded, regions)
    assert ran == []
    localizer.tokens(encoded, regions, multimask=True)
    assert set(ran) == {"iou_prediction_head"}
    localizer.tokens(encoded, regions, masks=True)
    assert len(set(ran)) == 3


def test_shared_projections_are_computed_once_an_ask() -> None:
    localizer = build("sam", chunk=2)
    attention = localizer.family.model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    runs: list[int] = []
    attention.k_proj.register_forward_hook(lambda *_: runs.append(1))
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    localizer.tokens(encoded, regions_of("box", PORTRAIT, localizer.low_side, count=9))
    assert len(runs) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_source_is_the_mean_of_the_prompt_encoders_tokens(
    localizers: dict[str, SegmenterLocalizer], family: str
) -> None:
    localizer = localizers[family]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box+points", PORTRAIT, localizer.low_side)
    found = localizer.tokens(encoded, regions, source="prompt", multimask=True)
    (chunk,) = prompt_chunks(
        regions, encoded.frame, chunk=9, low_side=localizer.low_side, device=localizer.device
    )
    sparse, _ = localizer.prompt_embeddings(chunk)
    assert sparse.shape[:2] == (3, 5 if family in ("sam", "sam_hq") else 6)
    close(found.tokens, sparse.mean(1, keepdim=True))
    assert found.mask_scores is None
    masked = localizer.tokens(encoded, regions, source="prompt", masks=True)
    close(masked.tokens, found.tokens)
    close(masked.mask_logits, localizer.tokens(encoded, regions, masks=True).mask_logits)


def test_bfloat16_is_the_image_encoders_alone() -> None:
    precise, rough = build("sam"), build("sam", encoder_dtype=torch.bfloat16)
    (reference,) = precise.encode([photo(PORTRAIT)])
    (encoded,) = rough.encode([photo(PORTRAIT)])
    assert encoded.embedding.dtype == torch.float32
    difference = float((encoded.embedding - reference.embedding).abs().max())
    assert 0 < difference < 0.1 * float(reference.embedding.abs().max())
    tokens = rough.tokens(encoded, regions_of("box", PORTRAIT, rough.low_side)).tokens
    assert tokens.dtype == torch.float32


# ---------------------------------------------------------------- masks and the frame


def test_padded_frame_rounds_half_up_and_scales_each_axis_on_its_own() -> None:
    frame = padded_frame((33, 100), 50)
    assert frame.inside == (17, 50)  # 16.5 rounds up
    scaled = boxes_to_frame(np.array([[10.0, 11.0, 100.0, 33.0]]), frame)
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
    localizers: dict[str, SegmenterLocalizer],
) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box", PORTRAIT, localizer.low_side)
    found = localizer.tokens(encoded, regions, multimask=True, masks=True)
    masks = localizer.masks(encoded, found.mask_logits)
    assert [len(m) for m in masks] == [3, 3, 3]
    processor = pytest.importorskip("transformers.models.sam.image_processing_pil_sam")
    reference = processor.SamImageProcessorPil(pad_size={"height": 64, "width": 64})
    theirs = reference.post_process_masks(
        [found.mask_logits],
        [PORTRAIT],
        [encoded.frame.inside],
        pad_size={"height": 64, "width": 64},
    )[0]
    ours = np.array([[decode_mask(m) for m in of_region] for of_region in masks])
    assert 0.02 < ours.mean() < 0.98
    np.testing.assert_array_equal(ours, theirs.numpy())


# ---------------------------------------------------------------- what cannot be used


def test_mask_logits_of_another_size_name_the_region(
    localizers: dict[str, SegmenterLocalizer],
) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = Regions.from_prompts(
        boxes=[[1, 1, 9, 9]], mask_logits=[np.zeros((8, 8), np.float32)], ids=["cat"]
    )
    with pytest.raises(InputError, match=r"region cat.*\(8, 8\).*\(32, 32\)"):
        localizer.tokens(encoded, regions)


def test_a_mask_of_another_image_size_names_the_region(
    localizers: dict[str, SegmenterLocalizer],
) -> None:
    localizer = localizers["sam"]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = Regions.from_prompts(masks=[np.ones((4, 4), bool)], ids=["cat"])
    with pytest.raises(InputError, match="region cat"):
        localizer.tokens(encoded, regions)


@pytest.mark.parametrize("option", ["chunk", "batch_size"])
def test_sizes_below_one_are_refused(
    localizers: dict[str, SegmenterLocalizer], option: str
) -> None:
    with pytest.raises(InputError, match="at least 1"):
        SegmenterLocalizer(localizers["sam"].family, name="", options=RunOptions(**{option: 0}))


# ---------------------------------------------------------------- checkpoints of segment-anything


@pytest.mark.parametrize("family", ["sam", "sam_hq", "sam2", "sam3"])
def test_fingerprint_follows_the_weights(family: str) -> None:
    def made(**given: Any) -> SegmenterLocalizer:
        torch.manual_seed(0)  # for buffers, which `spread` leaves as they are
        return build(family, **given)

    first, other, low = made(), made(), made(encoder_dtype=torch.bfloat16)
    next(iter(other.family.model.state_dict().values())).view(-1)[0] += 1
    assert first.fingerprint == made(chunk=7).fingerprint
    assert len({first.fingerprint, other.fingerprint, low.fingerprint}) == 3


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_here(device: str, tmp_path: Path) -> None:
    message = f"device '{device}' cannot be used: torch offers cpu"
    with pytest.raises(InputError, match=message):
        load_localizer(tmp_path / "nothing.pth", device=device)
    with pytest.raises(InputError, match=message):
        sam_from_state({}, device=device)


def published_names(model: Any) -> dict[str, Any]:
    """A `SamModel`'s tensors in segment-anything's names, written down apart from the package."""
    norms = {"layer_norm_final_attn": "norm_final_attn"}
    norms |= {f"layer_norm{i}": f"norm{i}" for i in range(1, 5)}
    fixed = {
        "vision_encoder.neck.conv1": "image_encoder.neck.0",
        "vision_encoder.neck.layer_norm1": "image_encoder.neck.1",
        "vision_encoder.neck.conv2": "image_encoder.neck.2",
        "vision_encoder.neck.layer_norm2": "image_encoder.neck.3",
        "prompt_encoder.mask_embed.conv1": "prompt_encoder.mask_downscaling.0",
        "prompt_encoder.mask_embed.layer_norm1": "prompt_encoder.mask_downscaling.1",
        "prompt_encoder.mask_embed.conv2": "prompt_encoder.mask_downscaling.3",
        "prompt_encoder.mask_embed.layer_norm2": "prompt_encoder.mask_downscaling.4",
        "prompt_encoder.mask_embed.conv3": "prompt_encoder.mask_downscaling.6",
        "mask_decoder.upscale_conv1": "mask_decoder.output_upscaling.0",
        "mask_decoder.upscale_layer_norm": "mask_decoder.output_upscaling.1",
        "mask_decoder.upscale_conv2": "mask_decoder.output_upscaling.3",
    }
    mlp = {"proj_in": "layers.0", "layers.0": "layers.1", "proj_out": "layers.2"}
    state = {}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if "shared_embedding" in name:
            continue
        if name == "shared_image_embedding.positional_embedding":
            new = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        elif module in fixed:
            new = f"{fixed[module]}.{kind}"
        else:
            new = name.replace("vision_encoder.layers", "image_encoder.blocks")
            new = new.replace("vision_encoder", "image_encoder")
            new = new.replace("patch_embed.projection", "patch_embed.proj")
            new = new.replace("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings.")
            for old, other in norms.items():
                new = new.replace(old, other)
            if "hypernetworks" in new or "iou_prediction_head" in new:
                for old, other in mlp.items():
                    if f".{old}." in new:
                        new = new.replace(old, other)
                        break
        state[new] = tensor.clone()
    return state


@pytest.fixture(scope="module")
def sam_state() -> dict[str, Any]:
    # 80 pixels and windows of 7 on a grid of 10: windows are padded, and no size is the default
    return published_names(spread(transformers.SamModel(sam_config(side=80, window=7))))


@pytest.mark.parametrize("prefix", ["", "model.sam."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_gives_the_model_it_was_made_from(
    sam_state: dict[str, Any], tmp_path: Path, prefix: str, suffix: str
) -> None:
    path = tmp_path / f"sam{suffix}"
    state = {prefix + name: tensor for name, tensor in sam_state.items()}
    if prefix:
        state["model.to_clip.weight"] = torch.zeros(2)  # a neighbour that is no part of SAM
    if suffix == ".pth":
        torch.save({"model": state, "iteration": 3} if prefix else state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    model = spread(transformers.SamModel(sam_config(side=80, window=7)))
    localizer = load_localizer(path, chunk=3)
    assert localizer.name == str(path)
    assert isinstance(localizer, SegmenterLocalizer)
    assert localizer.chunk == 3
    config = localizer.family.model.config
    assert config.vision_config.window_size == 7
    assert list(config.vision_config.global_attn_indexes) == [1]
    assert config.vision_config._attn_implementation == "sdpa"
    assert config.mask_decoder_config.layer_norm_eps == 1e-5
    theirs = sam_localizer(model, name="")
    image = photo((60, 37))
    regions = regions_of("box+points", (60, 37), localizer.low_side)
    ours = localizer.tokens(localizer.encode([image])[0], regions, masks=True)
    reference = theirs.tokens(theirs.encode([image])[0], regions, masks=True)
    close(ours.tokens, reference.tokens, 2e-6)
    close(ours.mask_logits, reference.mask_logits, 1e-5)
    tokens, logits, _ = plainly(localizer, image, regions, multimask=False)
    close(ours.tokens, tokens)
    close(ours.mask_logits, logits, 1e-4)


def test_half_precision_weights_become_float32(sam_state: dict[str, Any]) -> None:
    localizer = sam_from_state({k: t.half() for k, t in sam_state.items()}, name="half")
    assert localizer.name == "half"
    assert {p.dtype for p in localizer.family.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in localizer.family.model.parameters())


def broken(state: dict[str, Any], how: str) -> dict[str, Any]:
    changed = dict(state)
    token = "mask_decoder.iou_token.weight"
    if how == "missing":
        del changed["image_encoder.neck.2.weight"]
    elif how == "missing size":
        del changed["image_encoder.pos_embed"]
    elif how == "unexpected":
        changed["mask_decoder.hf_token.weight"] = changed[token]
    elif how == "other size":
        name = "mask_decoder.transformer.layers.1.mlp.lin2.weight"
        changed[name] = changed[name][:, :-1]
    elif how == "windows":
        name = "image_encoder.blocks.0.attn.rel_pos_h"
        changed[name] = changed[name][:-2]
    elif how == "no blocks":
        changed = {k: t for k, t in changed.items() if "blocks" not in k}
    elif how == "another model":
        changed = {"encoder.weight": torch.zeros(3)}
    return changed


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", r"missing vision_encoder\.neck\.conv2\.weight"),
        ("missing size", r"missing 'image_encoder\.pos_embed'"),
        ("unexpected", r"unexpected mask_decoder\.hf_token\.weight"),
        ("other size", r"of another size.*lin2\.weight is \(32, 47\), not \(32, 48\)"),
        ("windows", r"windows of several sizes: \[6, 7\]"),
        ("no blocks", "not segment-anything's SAM"),
        ("another model", r"no image_encoder\.patch_embed\.proj\.weight among encoder\.weight"),
    ],
)
def test_weights_that_are_no_sam_say_what_is_wrong(
    sam_state: dict[str, Any], tmp_path: Path, how: str, says: str
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(broken(sam_state, how), path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_localizer(path)
    assert str(path) in str(caught.value)


class Payload:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["pickle", "in torch's format"])
def test_pickled_code_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"model": Payload(mark)}))
    else:
        torch.save({"model": Payload(mark)}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth.*(pickled|broken)"):
        load_localizer(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_files_are_named(
    sam_state: dict[str, Any], tmp_path: Path, suffix: str, keep: float
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(sam_state, path)
    else:
        from safetensors.torch import save_file

        save_file(sam_state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content) if keep < 1 else keep)])
    with pytest.raises(CheckpointError, match=rf"weights\{suffix}"):
        load_localizer(path)


def test_files_of_other_things_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(2)], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_localizer(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no named tensors"):
        load_localizer(path)


# ---------------------------------------------------------------- names and folders


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_loads_as_it_was(
    localizers: dict[str, SegmenterLocalizer], tmp_path: Path, family: str
) -> None:
    original = localizers[family]
    original.family.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if family in ("sam", "sam_hq"):
        # as the files on the hub have it; the published model has 1e-5
        config["mask_decoder_config"]["layer_norm_eps"] = 1e-6
    if family in ("sam2", "sam3"):
        config["model_type"] = {"sam2": "sam2_video", "sam3": "sam3_tracker_video"}[family]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_localizer(tmp_path, chunk=3)
    assert isinstance(loaded, SegmenterLocalizer)
    assert (loaded.name, loaded.chunk) == (str(tmp_path), 3)
    image, regions = photo(LANDSCAPE), regions_of("box", LANDSCAPE, original.low_side)
    ours = loaded.tokens(loaded.encode([image])[0], regions, masks=True)
    theirs = original.tokens(original.encode([image])[0], regions, masks=True)
    close(ours.tokens, theirs.tokens, 1e-5)
    close(ours.mask_logits, theirs.mask_logits, 1e-4)


def test_a_whole_sam3_video_folder_gives_its_tracker(
    localizers: dict[str, SegmenterLocalizer], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    tracker = localizers["sam3"].family.model
    state = {f"tracker_model.{k}": t.clone() for k, t in tracker.state_dict().items()}
    state = {k: t for k, t in state.items() if not k.startswith("tracker_model.vision_encoder.")}
    vision = tracker.vision_encoder.state_dict()
    state |= {f"detector_model.vision_encoder.{k}": t.clone() for k, t in vision.items()}
    state |= {f"tracker_model.vision_encoder.{k}": t.clone() for k, t in vision.items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tracker_config = {**tracker.config.to_dict(), "model_type": "sam3_tracker_video"}
    config = {"model_type": "sam3_video", "tracker_config": tracker_config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_localizer(tmp_path)
    image, regions = photo(LANDSCAPE), regions_of("box", LANDSCAPE, 16)
    original = localizers["sam3"]
    ours = loaded.tokens(loaded.encode([image])[0], regions)
    close(ours.tokens, original.tokens(original.encode([image])[0], regions).tokens, 1e-6)


def test_incomplete_folders_are_refused_and_not_filled_with_random_numbers(
    localizers: dict[str, SegmenterLocalizer], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    localizers["sam"].family.model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    del state["mask_decoder.mask_tokens.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"mask_decoder\.mask_tokens\.weight"):
        load_localizer(tmp_path)
    state["mask_decoder.mask_tokens.weight"] = torch.zeros(4, 16)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="mask_tokens"):
        load_localizer(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError):
        load_localizer(tmp_path)


def test_other_models_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_pretrained"):
        load_localizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=r"'bert' is not a localizer.*sam, sam_hq, sam2"):
        load_localizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(InputError, match=r"not a localizer.*sam, sam_hq, sam2"):
        load_localizer(tmp_path)


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: there is no such file"):
        load_localizer(tmp_path / "nowhere.pth")


def test_a_hub_that_does_not_answer_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", silent)
    with pytest.raises(InputError, match=r"someone/sam.*couldn't connect.*give its path"):
        load_localizer("someone/sam")


def test_without_the_extra_the_loader_imports_and_names_it() -> None:
    # a fresh interpreter in which torch cannot be found
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from anyregion.localizers.loading import load_localizer\n"
        "import anyregion.errors as errors; errors.find_spec = lambda name: None\n"
        "try:\n    load_localizer('x')\n"
        "except errors.MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "anyregion[torch]" in done.stdout, done.stderr
    assert issubclass(MissingExtraError, ImportError)


# ---------------------------------------------------------------- the published numbers


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


def within_tolerance(fixture: dict[str, Any], name: str, ours: Any) -> None:
    reference = fixture["arrays"][name]
    assert tuple(ours.shape) == reference.shape
    limit = max(10 * fixture["floors"][name]["abs"], 1e-6 * np.abs(reference).max())
    assert np.abs(np.asarray(ours) - reference).max() <= limit, name


def scenario(arrays: dict[str, Any], name: str) -> tuple[Regions, bool]:
    boxes, points, labels = arrays["in__boxes"], arrays["in__points"], arrays["in__point_labels"]
    three = {"point", "pointbox", "boxes_multi"}
    made = {
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
    return made, name in three


def differing(fixture: dict[str, Any], name: str, index: Any, masks: Any) -> int:
    width = fixture["arrays"][f"{name}__masks_shape"][-1]
    packed = fixture["arrays"][f"{name}__masks_packed"][index]
    reference = np.unpackbits(packed, axis=-1)[..., :width].astype(bool)
    ours = np.array([[decode_mask(mask) for mask in of_region] for of_region in masks])
    assert ours.shape == reference.shape
    return int((ours != reference).sum())


@needs_fixture
def test_published_image_side(fixture: dict[str, Any]) -> None:
    localizer, encoded = fixture["localizer"], fixture["encoded"][0]
    arrays = fixture["arrays"]
    resized = resize_to_frame(arrays["in__image"], encoded.frame)
    np.testing.assert_array_equal(resized, arrays["sam_input_image_uint8"])
    within_tolerance(fixture, "sam_image_embedding", encoded.embedding)
    positions = localizer.family.model.get_image_wide_positional_embeddings()
    within_tolerance(fixture, "sam_dense_positional_encoding", positions)


@needs_fixture
@pytest.mark.parametrize(
    "name", ["box", "point", "point_single", "pointbox", "box_mask", "boxes_multi", "mixed"]
)
def test_published_prompts_tokens_and_masks(fixture: dict[str, Any], name: str) -> None:
    localizer, encoded = fixture["localizer"], fixture["encoded"][0]
    regions, multimask = scenario(fixture["arrays"], name)
    (chunk,) = prompt_chunks(
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
    scaled = [boxes_to_frame(b, e.frame) for b, e in zip(boxes, fixture["encoded"], strict=True)]
    within_tolerance(fixture, "eval__boxes_sam_frame", np.stack(scaled))
    wrong = 0
    for index, (of_image, encoded) in enumerate(zip(boxes, fixture["encoded"], strict=True)):
        found = localizer.tokens(encoded, Regions.from_boxes(of_image), masks=True)
        wrong += differing(fixture, "eval", index, localizer.masks(encoded, found.mask_logits))
    assert wrong <= 100


def test_the_model_alone_can_be_had(sam_state: dict[str, Any]) -> None:
    model = sam_model_from_state(sam_state)
    assert isinstance(model, transformers.SamModel)
    assert not model.training
