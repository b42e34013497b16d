"""The published CLIP, number for number, where RegionSpot's fixture is at hand; its templates."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

from anyregion.vlms.openai_clip import clip_from_openai_state_dict  # noqa: E402
from anyregion.vlms.preprocess import resize_positions  # noqa: E402
from anyregion.vlms.text import CLIP_TEMPLATES  # noqa: E402
from anyregion.vocabulary import Vocabulary, encode_vocabulary  # noqa: E402
from tests.helpers.shared import SHARED, needs_shared  # noqa: E402

FIXTURE = SHARED / "fixtures" / "regionspot"


@needs_shared
def test_templates_are_those_of_the_fixture() -> None:
    known = json.loads((FIXTURE / "config.json").read_text())["templates"]
    assert list(CLIP_TEMPLATES) == known


def test_templates_are_open_clips() -> None:
    published = [make("thing") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert sorted(t.replace("{}", "thing") for t in CLIP_TEMPLATES[1:]) == sorted(published)
    assert CLIP_TEMPLATES[0] == "{}."


@needs_shared
def test_published_clip_number_for_number() -> None:
    stored = torch.load(FIXTURE / "checkpoint.pth", weights_only=True)["model"]
    prefix = "model.clip_model."
    weights = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    vlm = clip_from_openai_state_dict(weights)
    inputs, expected = np.load(FIXTURE / "inputs.npz"), np.load(FIXTURE / "outputs.npz")
    config = json.loads((FIXTURE / "config.json").read_text())
    floors = json.loads((FIXTURE / "noise_floor.json").read_text())
    names = config["vocabulary"]
    image, second = inputs["in__image"], inputs["in__image2"]
    filled = [[t.replace("{}", name) for t in vlm.text.templates] for name in names]
    vocabulary = Vocabulary.from_names(names, cleaning="published")
    arrays_by_name = {
        "clip_input": vlm.preprocess([image], antialias=False).numpy(),
        "clip_feature_map": vlm.feature_map([image], antialias=False).tokens.numpy(),
        "eval__clip_input": vlm.preprocess([image, second]).numpy(),
        "logit_scale": np.float32(vlm.logit_scale),
        "text_embedding_word0_all_templates": vlm.text.encode_text(filled[0]),
        "text_embeddings": encode_vocabulary(vocabulary, vlm.text, cache=None).matrix,
    }
    for name, array in arrays_by_name.items():
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
    values = resize_positions(torch.from_numpy(arrays["native"]), (side, side)).numpy()
    np.testing.assert_allclose(values, arrays["resized"], atol=1e-6)
