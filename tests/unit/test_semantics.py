"""Vision-language models, built small and random; RegionSpot's fixture where it is at hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

from anyregion.devices import check_device  # noqa: E402
from anyregion.errors import CheckpointError, InputError  # noqa: E402
from anyregion.semantics.clip import build_openai_clip, clip_from_openai_state_dict  # noqa: E402
from anyregion.semantics.loading import load_vlm, split_open_clip  # noqa: E402
from anyregion.semantics.model import FrozenVLM  # noqa: E402
from anyregion.semantics.open_clip import wrap_open_clip  # noqa: E402
from anyregion.semantics.options import RunOptions  # noqa: E402
from anyregion.semantics.preprocess import resize_positions, squash  # noqa: E402
from anyregion.semantics.protocol import VisionLanguageModel  # noqa: E402
from anyregion.semantics.templates import CLIP_TEMPLATES  # noqa: E402
from anyregion.vocabulary import Vocabulary, encode_vocabulary  # noqa: E402
from tests.shared import SHARED, needs_shared  # noqa: E402

FIXTURE = SHARED / "fixtures" / "regionspot"
TEXTS = ["a photo of a cat.", "dog", "a black and white photo of the traffic light.", "dog", "été"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def photos(count: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (64, 48), (33, 90)]
    return [rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8) for i in range(count)]


def small_open_clip(name: str, **vision: Any) -> Any:
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model = open_clip.CLIP(48, vision, text, quick_gelu=True)
    for parameter in model.parameters():
        # fresh batch norms and positions say nothing; every part should matter
        if parameter.ndim < 2:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 3}
RESNET = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8, "head_width": 64}


def openai_clip(**options: Any) -> FrozenVLM:
    weights = small_open_clip("vit", **VIT).state_dict()
    return build_openai_clip(weights, "vit", RunOptions(**options))


def open_clip_vit(**options: Any) -> FrozenVLM:
    model = small_open_clip("vit", **VIT)
    return wrap_open_clip(model, open_clip.SimpleTokenizer(), "vit", RunOptions(**options))


def openai_resnet(**options: Any) -> FrozenVLM:
    weights = small_open_clip("rn", **RESNET).state_dict()
    return build_openai_clip(weights, "rn", RunOptions(**options))


def write_tokenizer(folder: Path, *, clip: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    if clip:
        bpe = open_clip.SimpleTokenizer()
        vocab = dict(bpe.encoder)
        vocab["<|startoftext|>"] = vocab.pop("<start_of_text>")
        vocab["<|endoftext|>"] = vocab.pop("<end_of_text>")
        CLIPTokenizer(vocab=vocab, merges=list(bpe.bpe_ranks)).save_pretrained(folder)
        return
    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "this", "is"]
    words += [f"w{i}" for i in range(len(words), 64)]
    model = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


TOWER = {"intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}


def write_folder(folder: Path, kind: str) -> Path:
    import transformers as t

    torch.manual_seed(1)
    vision = {**TOWER, "hidden_size": 48, "image_size": 32, "patch_size": 8}
    text = {**TOWER, "hidden_size": 48}
    if kind in ("clip", "metaclip_2"):
        build, config = {
            "clip": (t.CLIPModel, t.CLIPConfig),
            "metaclip_2": (t.MetaClip2Model, t.MetaClip2Config),
        }[kind]
        # 2 is what the hub's old configurations claim; the model then reads the largest id
        text |= {"vocab_size": 49408, "eos_token_id": 2 if kind == "clip" else 49407}
        model = build(config(vision_config=vision, text_config=text, projection_dim=40))
    else:
        build, config = {
            "siglip": (t.SiglipModel, t.SiglipConfig),
            "siglip2": (t.Siglip2Model, t.Siglip2Config),
        }[kind]
        text |= {"vocab_size": 64, "max_position_embeddings": 16}
        if kind == "siglip2":
            del vision["image_size"]
            vision["num_patches"] = 16
        model = build(config(vision_config=vision, text_config=text))
        torch.nn.init.normal_(model.text_model.head.bias)
    model.save_pretrained(folder)
    write_tokenizer(folder, clip=kind in ("clip", "metaclip_2"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = ("clip", "metaclip_2", "siglip", "siglip2")
    return {kind: write_folder(tmp_path_factory.mktemp(kind), kind) for kind in kinds}


MODELS = ("openai", "openai-rn", "open_clip", "clip", "metaclip_2", "siglip", "siglip2")


def load(kind: str, folders: dict[str, Path], **options: Any) -> FrozenVLM:
    made = {"openai": openai_clip, "openai-rn": openai_resnet, "open_clip": open_clip_vit}
    vlm = made[kind](**options) if kind in made else load_vlm(folders[kind], **options)
    assert isinstance(vlm, FrozenVLM)
    return vlm


@pytest.mark.parametrize("kind", MODELS)
def test_shapes_and_batches(kind: str, folders: dict[str, Path]) -> None:
    vlm: VisionLanguageModel = load(kind, folders, batch_size=2)
    images = photos()
    cells = {"openai-rn": (2, 2)}.get(kind, (4, 4))
    rows = cells[0] * cells[1] + (0 if kind in ("openai-rn", "siglip", "siglip2") else 1)
    found = vlm.feature_map(images)
    assert found.grid == cells
    assert found.tokens.shape == (3, rows, vlm.feature_width)
    assert not found.tokens.requires_grad
    assert not found.tokens.is_inference(), "an adapter could not be trained on it"
    whole = vlm.embed_images(images)
    assert whole.shape == (3, vlm.embed_width)
    assert whole.dtype == np.float32
    dense = vlm.dense_features(images)
    for i, image in enumerate(images):
        one = vlm.feature_map([image]).tokens
        torch.testing.assert_close(found.tokens[i : i + 1], one, atol=1e-5, rtol=1e-5)
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
        whole = text._forward(ids).numpy()
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
    options = RunOptions(dense="maskclip")
    ours = build_openai_clip(model.state_dict(), "x", options)
    theirs = wrap_open_clip(model, open_clip.SimpleTokenizer(), "x", options)
    images = photos()
    a, b = ours.feature_map(images).tokens, theirs.feature_map(images).tokens
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.embed_images(images), theirs.embed_images(images), atol=1e-5)
    np.testing.assert_allclose(
        ours.text.encode_text(TEXTS), theirs.text.encode_text(TEXTS), atol=1e-5
    )
    for mine, other in zip(ours.dense_features(images), theirs.dense_features(images), strict=True):
        np.testing.assert_allclose(mine.features, other.features, atol=2e-5)
    assert ours.logit_scale == pytest.approx(1 / 0.07, rel=0.3)
    assert ours.logit_scale == pytest.approx(theirs.logit_scale)


def test_openai_names_survive_the_round_trip() -> None:
    from anyregion.semantics import openai_format

    weights = small_open_clip("vit", **VIT).state_dict()
    config = openai_format.config_of(weights)
    assert config["projection_dim"] == 48
    assert config["vision_config"]["num_attention_heads"] == 2
    assert config["vision_config"]["image_size"] == 32
    assert config["text_config"]["num_hidden_layers"] == 2
    renamed = openai_format.to_transformers(weights)
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


@pytest.mark.parametrize("kind", ["openai", "open_clip", "siglip"])
@pytest.mark.parametrize("dense", ["maskclip", "sclip"])
def test_cells_of_a_plain_image_are_equal_without_positions(
    kind: str, dense: str, folders: dict[str, Path]
) -> None:
    vlm = load(kind, folders, dense=dense)
    tower = vlm.vision._visual if kind == "open_clip" else vlm.vision._vision.embeddings
    positions = (
        tower.positional_embedding if kind == "open_clip" else tower.position_embedding.weight
    )
    positions.data[positions.shape[0] % 4 :].zero_()
    plain = np.full((50, 70, 3), 90, np.uint8)
    cells = vlm.dense_features([plain])[0].features.reshape(16, -1)
    np.testing.assert_allclose(cells, np.broadcast_to(cells[:1], cells.shape), atol=1e-5)


def test_maskclip_cell_sees_only_itself_in_the_last_layer() -> None:
    # with one layer before it, changing one cell of the last layer's input moves that cell alone
    from anyregion.semantics.attention import from_transformers, run_dense

    layer = from_transformers(openai_clip().vision._vision.encoder.layers[-1])
    x = torch.randn(1, 17, 128)
    moved = x.clone()
    moved[0, 5] += 1
    changed = (run_dense(layer, x, "maskclip") - run_dense(layer, moved, "maskclip")).abs()
    assert set(changed.amax(-1)[0].nonzero().flatten().tolist()) == {5}
    spread = (run_dense(layer, x, "sclip") - run_dense(layer, moved, "sclip")).abs()
    assert (spread.amax(-1)[0] > 0).all()


def test_sclip_is_the_sum_of_two_correlations() -> None:
    from anyregion.semantics.attention import from_transformers, run_dense

    module = openai_clip().vision._vision.encoder.layers[-1]
    x = torch.randn(2, 17, 128)
    h = module.layer_norm1(x)
    q, k, v = (
        p(h).view(2, 17, 2, 64).transpose(1, 2)
        for p in (module.self_attn.q_proj, module.self_attn.k_proj, module.self_attn.v_proj)
    )
    weights = (q @ q.mT / 8).softmax(-1) + (k @ k.mT / 8).softmax(-1)
    y = x + module.self_attn.out_proj((weights @ v).transpose(1, 2).reshape(2, 17, 128))
    expected = y + module.mlp(module.layer_norm2(y))
    torch.testing.assert_close(
        run_dense(from_transformers(module), x, "sclip"), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["convnext", "vit"])
def test_timm_towers(kind: str) -> None:
    timm_name, size, cells = {
        "convnext": ("convnext_atto", 64, (2, 2)),
        "vit": ("vit_base_patch16_siglip_224", 32, (2, 2)),
    }[kind]
    torch.manual_seed(0)
    small: dict[str, Any] = {"timm_model_name": timm_name, "image_size": size}
    small |= {"timm_pool": "map" if kind == "vit" else "", "timm_proj": "linear"}
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    if kind == "vit":
        timm = pytest.importorskip("timm")
        model = open_clip.CustomTextCLIP(32, {**VIT, "layers": 2}, text, init_logit_bias=-10.0)
        model.visual.trunk = timm.create_model(
            timm_name, img_size=size, embed_dim=48, depth=2, num_heads=2, num_classes=0
        )
        tower = open_clip.timm_model.TimmModel.__new__(open_clip.timm_model.TimmModel)
        torch.nn.Module.__init__(tower)
        tower.image_size = (size, size)
        tower.trunk = model.visual.trunk
        tower.head = torch.nn.Linear(48, 32)
        model.visual = tower
    else:
        model = open_clip.CustomTextCLIP(32, small, text, init_logit_bias=-10.0)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    vlm = wrap_open_clip(model, tokenizer, "timm", RunOptions(dense="maskclip"))
    assert vlm.logit_bias == pytest.approx(-10.0)
    found = vlm.feature_map(photos(2))
    assert found.grid == cells
    assert found.tokens.shape == (2, 4, vlm.feature_width)
    assert vlm.dense_features(photos(1))[0].features.shape == (*cells, 32)
    assert vlm.embed_images(photos(2)).shape == (2, 32)
    if kind == "convnext":
        # a network that averages its map: one cell's map is the cell itself
        single = wrap_open_clip(model, tokenizer, "timm", RunOptions(image_size=32))
        cell = single.dense_features(photos(1))[0].features[0, 0]
        np.testing.assert_allclose(cell, single.embed_images(photos(1))[0], atol=1e-5)


@pytest.mark.parametrize(("kind", "size"), [("openai", 48), ("open_clip", 48), ("siglip", 44)])
def test_other_input_sizes(kind: str, size: int, folders: dict[str, Path]) -> None:
    vlm = load(kind, folders, image_size=size)
    side = size // 8
    image = photos(1)[0]
    assert vlm.feature_map([image]).grid == (side, side)
    dense = vlm.dense_features([image])[0]
    assert dense.features.shape[:2] == (side, side)
    # 44 pixels hold five patches of 8: the last four pixels belong to no cell
    covered = side * 8 / size
    assert dense.span == pytest.approx((40 * covered, 60 * covered))
    with pytest.raises(InputError, match="patch"):
        load(kind, folders, image_size=4)


def test_positions_keep_the_class_row_and_grow_bicubically() -> None:
    positions = torch.randn(1 + 16, 6, dtype=torch.float64)
    assert torch.equal(resize_positions(positions, (4, 4)), positions.float())
    grown = resize_positions(positions, (6, 5))
    assert grown.shape == (31, 6)
    assert grown.dtype == torch.float32
    assert torch.equal(grown[0], positions[0].float())
    grid = positions[1:].float().view(4, 4, 6).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(grid, (6, 5), mode="bicubic", align_corners=False)
    assert torch.equal(grown[1:], expected[0].permute(1, 2, 0).reshape(30, 6))
    with pytest.raises(CheckpointError, match="no square grid"):
        resize_positions(torch.zeros(1 + 15, 6), (4, 4))


def test_squash_is_float_bilinear() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 255
    smooth, sharp = squash([image], 2), squash([image], 2, antialias=False)
    assert smooth.shape == (1, 3, 2, 2)
    low = (0 - 0.48145466) / 0.26862954
    assert float(sharp[0, 0, 0, 0]) == pytest.approx(low, abs=1e-6)
    assert float(smooth[0, 0, 0, 0]) > low + 0.01, "antialias reaches over the edge"


def test_fingerprint_follows_weights_and_tokenizer() -> None:
    first, same = openai_clip().text.fingerprint, openai_clip().text.fingerprint
    assert first == same
    weights = dict(small_open_clip("vit", **VIT).state_dict())
    weights["visual.proj"] = weights["visual.proj"] + 1
    assert clip_from_openai_state_dict(weights).text.fingerprint == first, "the image side only"
    weights["ln_final.bias"] = weights["ln_final.bias"] + 1
    assert clip_from_openai_state_dict(weights).text.fingerprint != first
    half = openai_clip(dtype=torch.bfloat16).text.fingerprint
    assert half not in (first, open_clip_vit().text.fingerprint)


@pytest.mark.parametrize("kind", ["openai", "openai-rn", "open_clip", "clip", "siglip"])
def test_a_models_fingerprint_follows_both_sides(kind: str, folders: dict[str, Path]) -> None:
    before = load(kind, folders).fingerprint
    assert load(kind, folders).fingerprint == before
    seen = {before}
    for attribute in ("vision", "text"):
        vlm = load(kind, folders)
        side = getattr(vlm, attribute)
        weights = side._weights() if attribute == "text" else side.weights()
        next(t for _, t in weights if t.is_floating_point()).data.view(-1)[0] += 1
        seen.add(vlm.fingerprint)
    seen.add(load(kind, folders, image_size=128).fingerprint)
    seen.add(load(kind, folders, dense="maskclip").fingerprint)
    seen.add(load(kind, folders, dtype=torch.bfloat16).fingerprint)
    assert len(seen) == 6


def test_fingerprint_follows_the_activation() -> None:
    found = set()
    for quick in (True, False):
        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
        model = open_clip.CLIP(48, VIT, text, quick_gelu=quick)
        vlm = wrap_open_clip(model, open_clip.SimpleTokenizer(), "vit", RunOptions())
        found |= {vlm.text.fingerprint, vlm.fingerprint}
    assert len(found) == 4


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", ""])
def test_a_device_that_is_not_here(device: str, folders: dict[str, Path]) -> None:
    for load_it in (
        lambda: load_vlm(folders["clip"], device=device),
        lambda: clip_from_openai_state_dict({}, device=device),
    ):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used: torch offers cpu"):
            load_it()
    assert check_device("cpu") == check_device(torch.device("cpu")) == torch.device("cpu")


def test_low_precision_is_close() -> None:
    exact, low = openai_clip(), openai_clip(dtype=torch.bfloat16)
    a, b = exact.feature_map(photos()).tokens, low.feature_map(photos()).tokens
    assert b.dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 0.1 * float(a.abs().max())


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def bad_checkpoint(case: str, path: Path) -> Path:
    weights = dict(small_open_clip("vit", **VIT).state_dict())
    if case == "sizes":
        weights["visual.proj"] = torch.zeros(64, 48)
    elif case == "missing":
        del weights["visual.transformer.resblocks.1.ln_1.bias"]
    elif case == "unknown":
        weights["visual.extra"] = torch.zeros(1)
    elif case == "width":
        weights["visual.conv1.weight"] = torch.zeros(100, 3, 8, 8)
    elif case == "tokens":
        weights["token_embedding.weight"] = torch.zeros(1000, 64)
    elif case == "foreign":
        weights = {"layer.weight": torch.zeros(2)}
    if case == "pickle":
        path.write_bytes(pickle.dumps({"model": _Payload()}))
    elif case == "payload":
        torch.save({"state_dict": weights, "extra": _Payload()}, path)
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "list":
        torch.save([1, 2], path)
    elif case == "torchscript":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    else:
        torch.save(weights, path)
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("sizes", "size mismatch"),
        ("missing", "Missing key"),
        ("unknown", "visual.extra"),
        ("width", "multiple of 64"),
        ("tokens", "1000 tokens"),
        ("foreign", "OpenAI's names"),
        ("pickle", "could run code"),
        ("payload", "could run code"),
        ("empty", "broken or truncated"),
        ("truncated", "broken or truncated"),
        ("list", "not a state dict"),
        ("torchscript", "TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_wrong_checkpoints(
    case: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad_checkpoint(case, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=message):
        load_vlm(path)
    assert "code ran" not in capsys.readouterr().out


def test_broken_resnet_weights() -> None:
    weights = dict(small_open_clip("rn", **RESNET).state_dict())
    del weights["visual.attnpool.v_proj.bias"]
    with pytest.raises(CheckpointError, match="v_proj"):
        clip_from_openai_state_dict(weights)


def test_good_checkpoint_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {k: v.contiguous() for k, v in small_open_clip("vit", **VIT).state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "w.pt")
    expected = openai_clip().embed_images(photos(1))
    for name in ("w.safetensors", "w.pt"):
        vlm = load_vlm(tmp_path / name, batch_size=1)
        assert vlm.name.endswith(name)
        np.testing.assert_array_equal(vlm.embed_images(photos(1)), expected)
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or not safetensors"):
        load_vlm(tmp_path / "w.safetensors")


def test_what_cannot_be_loaded_is_said(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_vlm(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_vlm(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=r"'bert'; known are clip, metaclip_2, siglip, siglip2"):
        load_vlm(tmp_path)
    (tmp_path / "config.json").write_text((folders["clip"] / "config.json").read_text())
    with pytest.raises(InputError, match="local folder"):
        load_vlm(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError):
        load_vlm(tmp_path)
    with pytest.raises(InputError, match="say which weights"):
        load_vlm("open_clip:ViT-B-32")
    with pytest.raises(InputError, match="Check name"):
        load_vlm("open_clip:No-Such-Model/laion2b")
    with pytest.raises(InputError, match="dense must be"):
        openai_clip(dense="value")
    for size in ("batch_size", "text_batch_size"):
        with pytest.raises(InputError, match=f"^{size} must be at least 1"):
            load_vlm(folders["clip"], **{size: 0})


def test_a_folder_with_half_the_weights(tmp_path: Path, folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    for file in folders["clip"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "visual_projection" not in k},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="missing"):
        load_vlm(tmp_path)


def test_an_unreachable_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"owner/nothing-of-the-kind: .*local folder"):
        load_vlm("owner/nothing-of-the-kind")


def test_open_clip_names() -> None:
    assert split_open_clip("open_clip:ViT-B-16/laion2b") == ("ViT-B-16", "laion2b")
    assert split_open_clip("open_clip:ViT-B-16/a/b.pt") == ("ViT-B-16", "a/b.pt")
    assert split_open_clip("open_clip:hf-hub:owner/model") == ("hf-hub:owner/model", None)


def test_open_clip_from_a_folder_and_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    config = {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": text, "quick_gelu": True}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.4] * 3}})
    )
    weights = {k: v.contiguous() for k, v in small_open_clip("vit", **VIT).state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    vlm = load_vlm(f"open_clip:local-dir:{tmp_path}")
    assert tuple(vlm.vision.mean) == (0.5, 0.5, 0.5)
    np.testing.assert_array_equal(
        vlm.text.encode_text(TEXTS), open_clip_vit().text.encode_text(TEXTS)
    )
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"model": _Payload()}))
    with pytest.raises(CheckpointError, match="could run code"):
        load_vlm(f"open_clip:RN50/{tmp_path}/bad.pt")


@needs_shared
def test_templates_are_those_of_the_fixture() -> None:
    known = json.loads((FIXTURE / "config.json").read_text())["templates"]
    assert list(CLIP_TEMPLATES) == known


def test_templates_are_open_clips() -> None:
    theirs = [make("thing") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert sorted(t.replace("{}", "thing") for t in CLIP_TEMPLATES[1:]) == sorted(theirs)
    assert CLIP_TEMPLATES[0] == "{}."


@needs_shared
def test_published_clip_number_for_number() -> None:
    stored = torch.load(FIXTURE / "checkpoint.pth", weights_only=True)["model"]
    prefix = "model.clip_model."
    weights = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    vlm = clip_from_openai_state_dict(weights)
    given, expected = np.load(FIXTURE / "inputs.npz"), np.load(FIXTURE / "outputs.npz")
    config = json.loads((FIXTURE / "config.json").read_text())
    floors = json.loads((FIXTURE / "noise_floor.json").read_text())
    names = config["vocabulary"]
    image, second = given["in__image"], given["in__image2"]
    filled = [[t.replace("{}", name) for t in vlm.text.templates] for name in names]
    vocabulary = Vocabulary.from_names(names, cleaning="published")
    found = {
        "clip_input": vlm.preprocess([image], antialias=False).numpy(),
        "clip_feature_map": vlm.feature_map([image], antialias=False).tokens.numpy(),
        "eval__clip_input": vlm.preprocess([image, second]).numpy(),
        "logit_scale": np.float32(vlm.logit_scale),
        "text_embedding_word0_all_templates": vlm.text.encode_text(filled[0]),
        "text_embeddings": encode_vocabulary(vocabulary, vlm.text, cache=None).matrix,
    }
    for name, array in found.items():
        reference = expected[name]
        assert array.shape == reference.shape, name
        allowed = max(10 * floors[name]["abs"], 1e-6 * float(np.abs(reference).max()))
        worst = float(np.abs(array.astype(np.float64) - reference).max())
        assert worst <= allowed, f"{name}: {worst:.2e} > {allowed:.2e}"
    ids = torch.stack([vlm.tokenize(texts) for texts in filled]).numpy()
    np.testing.assert_array_equal(ids, expected["text_token_ids"])


@needs_shared
def test_positions_grow_as_in_the_fixture() -> None:
    arrays = np.load(FIXTURE / "clip_pos_embed_resize.npz")
    side = int(arrays["input_size"]) // 16
    ours = resize_positions(torch.from_numpy(arrays["native"]), (side, side)).numpy()
    np.testing.assert_allclose(ours, arrays["resized"], atol=1e-6)
