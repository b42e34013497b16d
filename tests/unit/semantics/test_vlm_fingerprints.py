"""Fingerprints follow everything that changes an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

from anyregion.semantics.clip import clip_from_openai_state_dict  # noqa: E402
from anyregion.semantics.open_clip import wrap_open_clip  # noqa: E402
from anyregion.semantics.options import RunOptions  # noqa: E402
from tests.unit.semantics.small_models import (  # noqa: E402
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
    found = set()
    for quick in (True, False):
        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
        model = open_clip.CLIP(48, VIT, text, quick_gelu=quick)
        vlm = wrap_open_clip(model, open_clip.SimpleTokenizer(), "vit", RunOptions())
        found |= {vlm.text.fingerprint, vlm.fingerprint}
    assert len(found) == 4
