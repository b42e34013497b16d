"""Fingerprints follow everything that changes an answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

from anyregion.vlms.loading import load_vlm  # noqa: E402
from anyregion.vlms.model import FrozenVLM  # noqa: E402
from anyregion.vlms.open_clip import wrap_open_clip  # noqa: E402
from anyregion.vlms.openai_clip import clip_from_openai_state_dict  # noqa: E402
from anyregion.vlms.protocol import VlmOptions  # noqa: E402
from tests.helpers.small_vlms import (  # noqa: E402
    RESNET,
    VIT,
    load,
    open_clip_vit,
    openai_clip,
    small_open_clip,
)


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
    fingerprints = set()
    for quick in (True, False):
        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
        model = open_clip.CLIP(48, VIT, text, quick_gelu=quick)
        vlm = wrap_open_clip(model, open_clip.SimpleTokenizer(), "vit", VlmOptions())
        fingerprints |= {vlm.text.fingerprint, vlm.fingerprint}
    assert len(fingerprints) == 4


def marks(vlm: FrozenVLM) -> tuple[str, str]:
    return vlm.text.fingerprint, vlm.fingerprint


def edited(folder: Path, copy: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text())
    change(content)
    (copy / file).write_text(json.dumps(content))
    return copy


FOLDERS = ["clip", "metaclip_2", "siglip", "siglip2"]
CHANGES = {"hidden_act": "relu", "num_attention_heads": 4, "layer_norm_eps": 0.1}


@pytest.mark.parametrize("kind", FOLDERS)
def test_equal_folders_have_equal_fingerprints(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    def bookkeeping(config: dict[str, Any]) -> None:
        config |= {
            "_name_or_path": "elsewhere",
            "transformers_version": "4.0.0",
            "dtype": "float16",
        }

    copy = edited(folders[kind], tmp_path / "copy", "config.json", bookkeeping)
    first = load_vlm(folders[kind])
    before = marks(first)
    assert marks(load_vlm(folders[kind])) == before
    assert marks(load_vlm(copy)) == before
    used = load_vlm(folders[kind])
    used.text.encode_text(["a cat"])  # sets padding and cutting in the tokenizer's own state
    assert marks(used) == before


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.parametrize("kind", FOLDERS)
def test_fingerprints_follow_the_configuration(
    kind: str, key: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    text, whole = marks(load_vlm(folders[kind]))
    for side in ("text_config", "vision_config"):

        def change(config: dict[str, Any], side: str = side) -> None:
            config[side][key] = CHANGES[key]

        fingerprints = marks(
            load_vlm(edited(folders[kind], tmp_path / side, "config.json", change))
        )
        assert fingerprints[1] != whole
        # a vocabulary's embeddings do not depend on the image side
        assert (fingerprints[0] == text) == (side == "vision_config")


@pytest.mark.parametrize("kind", ["clip", "metaclip_2", "siglip"])
def test_fingerprints_follow_the_tokenizer(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        vocab = tokenizer["model"]["vocab"]
        cat, dog = (f"{w}</w>" if f"{w}</w>" in vocab else w for w in ("cat", "dog"))
        vocab[cat], vocab[dog] = vocab[dog], vocab[cat]

    before = marks(load_vlm(folders[kind]))
    fingerprints = load_vlm(edited(folders[kind], tmp_path / "copy", "tokenizer.json", swap))
    assert fingerprints.tokenize(["cat"]).equal(load_vlm(folders[kind]).tokenize(["dog"]))
    assert not {*before} & {*marks(fingerprints)}


def first_norm(side: Any) -> Any:
    return next(m for m in side.modules() if isinstance(m, torch.nn.LayerNorm))


def more_heads(side: Any) -> None:
    attention = next(m for m in side.modules() if isinstance(m, torch.nn.MultiheadAttention))
    attention.num_heads *= 2


def test_open_clip_fingerprints_follow_heads_and_eps_of_each_side() -> None:
    def marks_of(change: Callable[[Any], None] = lambda model: None) -> tuple[str, str]:
        model = small_open_clip("vit", **VIT)
        change(model)
        return marks(wrap_open_clip(model, open_clip.SimpleTokenizer(), "vit", VlmOptions()))

    text, whole = marks_of()
    assert marks_of() == (text, whole)
    on_text: list[Callable[[Any], None]] = [
        lambda model: setattr(first_norm(model.transformer), "eps", 0.1),
        lambda model: more_heads(model.transformer),
    ]
    on_images: list[Callable[[Any], None]] = [
        lambda model: setattr(first_norm(model.visual), "eps", 0.1),
        lambda model: more_heads(model.visual),
        lambda model: setattr(model.visual.transformer.resblocks[0].mlp, "gelu", torch.nn.ReLU()),
        lambda model: setattr(model.visual, "image_mean", (0.5, 0.5, 0.5)),
    ]
    changed = [marks_of(change) for change in on_text]
    assert len({text, *(fingerprints[0] for fingerprints in changed)}) == 3
    seen = [marks_of(change) for change in on_images]
    assert {fingerprints[0] for fingerprints in seen} == {text}
    assert len({whole, *(fingerprints[1] for fingerprints in changed + seen)}) == 7


def test_a_resnets_fingerprint_follows_its_layers() -> None:
    def marks_of(eps: float) -> tuple[str, str]:
        model = small_open_clip("rn", **RESNET)
        model.visual.bn1.eps = eps
        return marks(wrap_open_clip(model, open_clip.SimpleTokenizer(), "rn", VlmOptions()))

    assert marks_of(1e-5) == marks_of(1e-5)
    assert marks_of(1e-5)[1] != marks_of(1e-3)[1]


def test_a_timm_towers_fingerprint_follows_its_layers() -> None:
    pytest.importorskip("timm")

    def marks_of(eps: float) -> tuple[str, str]:
        torch.manual_seed(0)
        vision = {"timm_model_name": "test_vit", "image_size": 32, "timm_pool": "token"}
        text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
        model = open_clip.CLIP(48, vision, text)
        model.visual.trunk.blocks[0].norm1.eps = eps
        return marks(wrap_open_clip(model, open_clip.SimpleTokenizer(), "timm", VlmOptions()))

    assert marks_of(1e-6) == marks_of(1e-6)
    assert marks_of(1e-6)[1] != marks_of(1e-3)[1]
