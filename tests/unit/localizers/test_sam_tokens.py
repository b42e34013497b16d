"""Tokens and masks against transformers' own plain forward passes, in batches and chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion.localizers.prompts import prompt_batches  # noqa: E402
from anyregion.localizers.sam import SamBackend  # noqa: E402
from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter  # noqa: E402
from anyregion.regions import Regions  # noqa: E402
from tests.helpers.sam_reference import (  # noqa: E402
    LANDSCAPE,
    PORTRAIT,
    close,
    photo,
    reference_outputs,
    regions_of,
)
from tests.helpers.small_localizers import FAMILIES, build  # noqa: E402

PROMPTS = ["box", "point", "points", "box+points", "mask", "box+mask", "points+mask", "box+logits"]


# ---------------------------------------------------------------- against the plain forward pass


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_own_forward_pass(
    localizers: dict[str, PromptableSegmenter], family: str, prompt: str, multimask: bool
) -> None:
    localizer = localizers[family]
    image = photo(PORTRAIT)
    regions = regions_of(prompt, PORTRAIT, localizer.low_side)
    (encoded,) = localizer.encode([image])
    light = localizer.tokens(encoded, regions, multimask=multimask)
    full = localizer.tokens(encoded, regions, multimask=multimask, masks=True)
    tokens, logits, scores = reference_outputs(localizer, image, regions, multimask=multimask)
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


def test_prompts_change_the_answer(localizers: dict[str, PromptableSegmenter]) -> None:
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
    localizers: dict[str, PromptableSegmenter],
) -> None:
    localizer = localizers["sam2"]
    decoder = localizer.backend.model.mask_decoder
    image = photo(PORTRAIT)
    regions = regions_of("box", PORTRAIT, localizer.low_side)
    (encoded,) = localizer.encode([image])
    original_threshold = decoder.dynamic_multimask_stability_thresh
    answers = []
    try:
        for threshold in (0.0, 1.1):  # every single mask stable; none
            decoder.dynamic_multimask_stability_thresh = threshold
            result = localizer.tokens(encoded, regions, masks=True)
            tokens, logits, scores = reference_outputs(localizer, image, regions, multimask=False)
            close(result.tokens, tokens)
            close(result.mask_logits, logits, 1e-4)
            close(result.mask_scores, scores)
            answers.append(result)
    finally:
        decoder.dynamic_multimask_stability_thresh = original_threshold
    assert torch.equal(answers[0].tokens, answers[1].tokens)
    assert not torch.allclose(answers[0].mask_logits, answers[1].mask_logits)


# ---------------------------------------------------------------- batches, chunks, order


@pytest.mark.parametrize("family", FAMILIES)
def test_no_regions(localizers: dict[str, PromptableSegmenter], family: str) -> None:
    localizer = localizers[family]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    result = localizer.tokens(encoded, Regions.from_boxes([]), multimask=True, masks=True)
    side = localizer.low_side
    assert result.tokens.shape == (0, 3, localizer.token_width)
    assert result.mask_scores.shape == (0, 3)
    assert result.mask_logits.shape == (0, 3, side, side)
    assert localizer.masks(encoded, result.mask_logits) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_different_sizes_encode_as_one_by_one(family: str) -> None:
    images = [photo(PORTRAIT, 1), photo(LANDSCAPE, 2), photo((64, 64), 3)]
    localizer = build(family, batch_size=3)
    together = localizer.encode(images)
    for image, encoded in zip(images, together, strict=True):
        (alone,) = localizer.encode([image])
        assert encoded.frame == alone.frame
        close(encoded.embedding, alone.embedding, 1e-5)
        for batched, single in zip(encoded.extras, alone.extras, strict=True):
            close(batched, single, 1e-5)
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
    return together[order]


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_and_company_change_nothing_and_order_is_kept(
    localizers: dict[str, PromptableSegmenter], family: str
) -> None:
    localizer = localizers[family]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = mixed_regions(localizer.low_side)
    together = localizer.tokens(encoded, regions, masks=True)
    for row in range(len(regions)):
        alone = localizer.tokens(encoded, regions[[row]], masks=True)
        close(together.tokens[row], alone.tokens[0])
        close(together.mask_logits[row], alone.mask_logits[0], 1e-4)
        close(together.mask_scores[row], alone.mask_scores[0])
    for chunk in (1, 5, 32):
        options, backend = LocalizerOptions(chunk=chunk), localizer.backend
        other = PromptableSegmenter(type(backend), backend.model, name="", options=options)
        close(other.tokens(encoded, regions).tokens, together.tokens)


def test_a_chunk_bounds_what_is_decoded_at_once(
    localizers: dict[str, PromptableSegmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyregion.localizers import segmenter

    sizes: list[int] = []
    real = segmenter.two_way

    def counting(transformer: Any, prompts: Any, image: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return real(transformer, prompts, image, **options)

    monkeypatch.setattr(segmenter, "two_way", counting)
    localizer = PromptableSegmenter(
        SamBackend, localizers["sam"].backend.model, name="", options=LocalizerOptions(chunk=4)
    )
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box", PORTRAIT, localizer.low_side, count=10)
    localizer.tokens(encoded, regions)
    assert sizes == [4, 4, 2]


def test_tokens_alone_run_neither_upscaling_nor_hypernetworks() -> None:
    localizer = build("sam")
    decoder = localizer.backend.model.mask_decoder
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
    attention = localizer.backend.model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    runs: list[int] = []
    attention.k_proj.register_forward_hook(lambda *_: runs.append(1))
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    localizer.tokens(encoded, regions_of("box", PORTRAIT, localizer.low_side, count=9))
    assert len(runs) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_source_is_the_mean_of_the_prompt_encoders_tokens(
    localizers: dict[str, PromptableSegmenter], family: str
) -> None:
    localizer = localizers[family]
    (encoded,) = localizer.encode([photo(PORTRAIT)])
    regions = regions_of("box+points", PORTRAIT, localizer.low_side)
    result = localizer.tokens(encoded, regions, source="prompt", multimask=True)
    (chunk,) = prompt_batches(
        regions, encoded.frame, chunk=9, low_side=localizer.low_side, device=localizer.device
    )
    sparse, _ = localizer.prompt_embeddings(chunk)
    assert sparse.shape[:2] == (3, 5 if family in ("sam", "sam_hq") else 6)
    close(result.tokens, sparse.mean(1, keepdim=True))
    assert result.mask_scores is None
    masked = localizer.tokens(encoded, regions, source="prompt", masks=True)
    close(masked.tokens, result.tokens)
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
