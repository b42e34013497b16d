"""What every model answers: batches, texts, and the same as the libraries' own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

from anyregion.errors import InputError  # noqa: E402
from anyregion.vlms.loading import load_vlm  # noqa: E402
from anyregion.vlms.open_clip import wrap_open_clip  # noqa: E402
from anyregion.vlms.openai_clip import clip_from_openai_state_dict  # noqa: E402
from anyregion.vlms.protocol import VisionLanguageModel, VlmOptions  # noqa: E402
from tests.helpers.small_vlms import (  # noqa: E402
    MODELS,
    RESNET,
    TEXTS,
    VIT,
    load,
    openai_clip,
    openai_resnet,
    photos,
    small_open_clip,
)


@pytest.mark.parametrize("kind", MODELS)
def test_shapes_and_batches(kind: str, folders: dict[str, Path]) -> None:
    vlm: VisionLanguageModel = load(kind, folders, batch_size=2)
    images = photos()
    cells = {"openai-rn": (2, 2)}.get(kind, (4, 4))
    rows = cells[0] * cells[1] + (0 if kind in ("openai-rn", "siglip", "siglip2") else 1)
    features = vlm.feature_map(images)
    assert features.grid == cells
    assert features.tokens.shape == (3, rows, vlm.feature_width)
    assert not features.tokens.requires_grad
    assert not features.tokens.is_inference(), "an adapter could not be trained on it"
    whole = vlm.embed_images(images)
    assert whole.shape == (3, vlm.embed_width)
    assert whole.dtype == np.float32
    dense = vlm.dense_features(images)
    for i, image in enumerate(images):
        one = vlm.feature_map([image]).tokens
        torch.testing.assert_close(features.tokens[i : i + 1], one, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(vlm.embed_images([image])[0], whole[i], atol=1e-5)
        assert dense[i].features.shape == (*cells, vlm.embed_width)
        assert dense[i].span == image.shape[:2]
        alone = vlm.dense_features([image])[0].features
        np.testing.assert_allclose(alone, dense[i].features, atol=2e-5)
    assert np.ptp(dense[0].features, axis=(0, 1)).max() > 1e-3
    pooled = dense[0].features.reshape(-1, vlm.embed_width)
    assert vlm.project(pooled) is pooled
    assert vlm.feature_map([]).tokens.shape == (0, rows, vlm.feature_width)
    assert vlm.embed_images([]).shape == (0, vlm.embed_width)
    assert vlm.dense_features([]) == []


@pytest.mark.parametrize("kind", MODELS)
def test_text_order_and_one_by_one(kind: str, folders: dict[str, Path]) -> None:
    vlm = load(kind, folders, text_batch_size=2)
    together = vlm.text.encode_text(TEXTS)
    assert together.shape == (len(TEXTS), vlm.embed_width)
    assert together.dtype == np.float32
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vlm.text.encode_text([text])[0], row, atol=1e-5)
    np.testing.assert_array_equal(together[1], together[3])
    assert np.abs(together[0] - together[1]).max() > 1e-3
    assert vlm.text.encode_text([]).shape == (0, vlm.embed_width)


@pytest.mark.parametrize("kind", ["openai", "openai-rn", "open_clip", "clip", "metaclip_2"])
def test_cut_texts_equal_77_tokens(kind: str, folders: dict[str, Path]) -> None:
    text = load(kind, folders).text
    texts = [*TEXTS, "word " * 200]
    ids = text.tokenize(texts)
    assert ids.shape == (len(texts), 77)
    with torch.inference_mode():
        whole = text.forward(ids).numpy()
    np.testing.assert_allclose(text.encode_text(texts), whole, atol=1e-5)


def test_a_text_that_is_too_long_keeps_its_end(folders: dict[str, Path]) -> None:
    for kind in ("openai", "clip"):
        ids = load(kind, folders).tokenize(["word " * 200])
        assert ids[0, -1] == 49407
        assert (ids[0] == 49407).sum() == 1


def test_hub_tokenizer_and_openai_tokenizer_agree(folders: dict[str, Path]) -> None:
    hub, own = (load(kind, folders).tokenize(TEXTS) for kind in ("clip", "openai"))
    for row, other in zip(hub, own, strict=True):
        end = int(other.argmax()) + 1
        assert row[:end].tolist() == other[:end].tolist()


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_is_the_librarys(kind: str, folders: dict[str, Path]) -> None:
    from transformers import AutoModel

    vlm = load_vlm(folders[kind])
    reference = AutoModel.from_pretrained(folders[kind]).eval()
    ids = vlm.tokenize(["A photo of CAT"])
    assert ids.shape == (1, 16)
    assert ids[0, -1] == 0, "padded on the right to the full context"
    assert torch.equal(ids, vlm.tokenize(["a photo of cat"])), "lower-cased"
    if kind == "siglip":
        assert ids.tolist() == [[3, 4, 5, 6, 1, *[0] * 11]]
        assert vlm.text.unreadable(["a cat", "a zyx"]) == [False, True]
    with torch.inference_mode():
        words = reference.text_model(input_ids=ids).pooler_output.numpy()
        pixels = vlm.preprocess(photos(1))
        if kind == "siglip":
            image = reference.vision_model(pixels).pooler_output.numpy()
        else:
            rows = [
                pixels[0, :, y : y + 8, x : x + 8] for y in range(0, 32, 8) for x in (0, 8, 16, 24)
            ]
            patches = torch.stack([row.permute(1, 2, 0).flatten() for row in rows])[None]
            image = reference.vision_model(
                patches, torch.ones(1, 16), torch.tensor([[4, 4]])
            ).pooler_output.numpy()
    np.testing.assert_allclose(vlm.text.encode_text(["A photo of CAT"]), words, atol=1e-5)
    np.testing.assert_allclose(vlm.embed_images(photos(1)), image, atol=1e-5)
    assert vlm.logit_scale == pytest.approx(reference.logit_scale.exp().item())
    assert vlm.logit_bias == pytest.approx(reference.logit_bias.item())
    assert vlm.text.templates == ("This is a photo of {}.",)
    # one cell is all its pooling head sees: the cell's embedding is the image's
    single = load_vlm(folders[kind], image_size=8, dense="maskclip")
    cell = single.dense_features(photos(1))[0].features[0, 0]
    np.testing.assert_allclose(cell, single.embed_images(photos(1))[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "metaclip_2"])
def test_clip_folder_is_the_librarys(kind: str, folders: dict[str, Path]) -> None:
    from transformers import AutoModel

    vlm = load_vlm(folders[kind])
    reference = AutoModel.from_pretrained(folders[kind]).eval()
    with torch.inference_mode():
        pixels = vlm.preprocess(photos(2))
        tokens = reference.vision_model(pixels).last_hidden_state
        image = reference.visual_projection(reference.vision_model(pixels).pooler_output).numpy()
        words = reference.text_projection(
            reference.text_model(input_ids=vlm.tokenize(TEXTS)).pooler_output
        ).numpy()
    torch.testing.assert_close(vlm.feature_map(photos(2)).tokens, tokens, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(vlm.embed_images(photos(2)), image, atol=1e-5)
    np.testing.assert_allclose(vlm.text.encode_text(TEXTS), words, atol=1e-5)
    assert vlm.text.unreadable(["été", "日本"]) == [False, False]


def test_openai_state_dict_gives_the_same_model() -> None:
    # open_clip's code on the same weights is the independent reference
    model = small_open_clip("vit", **VIT)
    options = VlmOptions(dense="maskclip")
    converted = clip_from_openai_state_dict(model.state_dict(), "x", options)
    wrapped = wrap_open_clip(model, open_clip.SimpleTokenizer(), "x", options)
    images = photos()
    a, b = converted.feature_map(images).tokens, wrapped.feature_map(images).tokens
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(
        converted.embed_images(images), wrapped.embed_images(images), atol=1e-5
    )
    np.testing.assert_allclose(
        converted.text.encode_text(TEXTS), wrapped.text.encode_text(TEXTS), atol=1e-5
    )
    for first, other in zip(
        converted.dense_features(images), wrapped.dense_features(images), strict=True
    ):
        np.testing.assert_allclose(first.features, other.features, atol=2e-5)
    assert converted.logit_scale == pytest.approx(1 / 0.07, rel=0.3)
    assert converted.logit_scale == pytest.approx(wrapped.logit_scale)


def test_openai_names_survive_the_round_trip() -> None:
    from anyregion.vlms import openai_clip

    weights = small_open_clip("vit", **VIT).state_dict()
    config = openai_clip.config_of(weights)
    assert config["projection_dim"] == 48
    assert config["vision_config"]["num_attention_heads"] == 2
    assert config["vision_config"]["image_size"] == 32
    assert config["text_config"]["num_hidden_layers"] == 2
    renamed = openai_clip.to_transformers(weights)
    back = torch.cat(
        [renamed[f"vision_model.encoder.layers.1.self_attn.{x}_proj.weight"] for x in "qkv"]
    )
    assert torch.equal(back, weights["visual.transformer.resblocks.1.attn.in_proj_weight"])
    assert torch.equal(renamed["text_projection.weight"].t(), weights["text_projection"])


def test_resnet_keeps_single_precision_and_reads_its_heads() -> None:
    model = small_open_clip("rn", **RESNET)
    vlm = openai_resnet()
    with torch.inference_mode():
        image = model.encode_image(vlm.preprocess(photos(2))).numpy()
    np.testing.assert_allclose(vlm.embed_images(photos(2)), image, atol=1e-5)
    larger = openai_resnet(image_size=96)
    assert larger.feature_map(photos(1)).grid == (3, 3)
    assert larger.embed_images(photos(1)).shape == (1, 48)
    with pytest.raises(InputError, match="multiple of 32"):
        openai_resnet(image_size=100)


def test_low_precision_is_close() -> None:
    exact, low = openai_clip(), openai_clip(dtype=torch.bfloat16)
    a, b = exact.feature_map(photos()).tokens, low.feature_map(photos()).tokens
    assert b.dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 0.1 * float(a.abs().max())
