"""Dense features, towers of timm, other input sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

from anyregion.errors import CheckpointError, InputError  # noqa: E402
from anyregion.vlms.open_clip import wrap_open_clip  # noqa: E402
from anyregion.vlms.preprocess import resize_positions, squash  # noqa: E402
from anyregion.vlms.protocol import VlmOptions  # noqa: E402
from tests.helpers.small_vlms import VIT, load, openai_clip, photos  # noqa: E402


@pytest.mark.parametrize("kind", ["openai", "open_clip", "siglip"])
@pytest.mark.parametrize("dense", ["maskclip", "sclip"])
def test_cells_of_a_plain_image_are_equal_without_positions(
    kind: str, dense: str, folders: dict[str, Path]
) -> None:
    vlm = load(kind, folders, dense=dense)
    tower = vlm.vision._visual if kind == "open_clip" else vlm.vision.module.embeddings
    positions = (
        tower.positional_embedding if kind == "open_clip" else tower.position_embedding.weight
    )
    positions.data[positions.shape[0] % 4 :].zero_()
    plain = np.full((50, 70, 3), 90, np.uint8)
    cells = vlm.dense_features([plain])[0].features.reshape(16, -1)
    np.testing.assert_allclose(cells, np.broadcast_to(cells[:1], cells.shape), atol=1e-5)


def test_maskclip_cell_sees_only_itself_in_the_last_layer() -> None:
    # with one layer before it, changing one cell of the last layer's input moves that cell alone
    from anyregion.vlms.dense import from_transformers, run_dense

    layer = from_transformers(openai_clip().vision.module.encoder.layers[-1])
    x = torch.randn(1, 17, 128)
    moved = x.clone()
    moved[0, 5] += 1
    changed = (run_dense(layer, x, "maskclip") - run_dense(layer, moved, "maskclip")).abs()
    assert set(changed.amax(-1)[0].nonzero().flatten().tolist()) == {5}
    spread = (run_dense(layer, x, "sclip") - run_dense(layer, moved, "sclip")).abs()
    assert (spread.amax(-1)[0] > 0).all()


def test_sclip_is_the_sum_of_two_correlations() -> None:
    from anyregion.vlms.dense import from_transformers, run_dense

    module = openai_clip().vision.module.encoder.layers[-1]
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
    vlm = wrap_open_clip(model, tokenizer, "timm", VlmOptions(dense="maskclip"))
    assert vlm.logit_bias == pytest.approx(-10.0)
    result = vlm.feature_map(photos(2))
    assert result.grid == cells
    assert result.tokens.shape == (2, 4, vlm.feature_width)
    assert vlm.dense_features(photos(1))[0].features.shape == (*cells, 32)
    assert vlm.embed_images(photos(2)).shape == (2, 32)
    if kind == "convnext":
        # a network that averages its map: one cell's map is the cell itself
        single = wrap_open_clip(model, tokenizer, "timm", VlmOptions(image_size=32))
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
