"""TIPSv2 beside the classes of `transformers` run directly, on small random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("open_clip")
if not hasattr(transformers, "Tipsv2Model"):
    pytest.skip("TIPSv2 is in transformers from 5.14 on", allow_module_level=True)

from anyregion.vlms.loading import load_vlm  # noqa: E402
from tests.helpers.small_vlms import photos, write_folder  # noqa: E402

TEXTS = ["a photo of cat", "dog", "this is a photo of a dog"]


@pytest.fixture
def reference(folders: dict[str, Path]) -> transformers.Tipsv2Model:
    return transformers.AutoModel.from_pretrained(folders["tipsv2"]).eval()


@pytest.mark.parametrize("side", [32, 48])
def test_images(side: int, folders: dict[str, Path], reference: transformers.Tipsv2Model) -> None:
    vlm = load_vlm(folders["tipsv2"], image_size=side)
    pixels = vlm.preprocess(photos(2))
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1, "numbers from 0 to 1"
    with torch.inference_mode():
        own = reference.vision_model(pixels, output_hidden_states=True)
    cells = own.last_hidden_state[:, 2:].reshape(2, side // 8, side // 8, -1).numpy()
    np.testing.assert_allclose(vlm.embed_images(photos(2)), own.pooler_output, atol=1e-5)
    for dense, expected in zip(vlm.dense_features(photos(2)), cells, strict=True):
        np.testing.assert_allclose(dense.features, expected, atol=1e-5)
    tokens = vlm.feature_map(photos(2))
    assert tokens.grid == (side // 8, side // 8)
    last = own.hidden_states[-1]  # before the final norm: class token, second one, patches
    torch.testing.assert_close(
        tokens.tokens, torch.cat([last[:, :1], last[:, 2:]], dim=1), atol=1e-5, rtol=1e-5
    )


def test_texts_are_the_same_however_they_are_padded(
    folders: dict[str, Path], reference: transformers.Tipsv2Model
) -> None:
    vlm = load_vlm(folders["tipsv2"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["tipsv2"])
    with torch.inference_mode():
        whole = tokenizer(TEXTS, padding="max_length", max_length=16, return_tensors="pt")
        expected = reference.get_text_features(
            input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]
        ).pooler_output
    np.testing.assert_allclose(vlm.text.encode_text(TEXTS), expected, atol=1e-5)
    assert np.isfinite(vlm.text.encode_text([""])).all()


def test_scores(folders: dict[str, Path], reference: transformers.Tipsv2Model) -> None:
    vlm = load_vlm(folders["tipsv2"])
    ids = vlm.tokenize(TEXTS)
    with torch.inference_mode():
        logits = reference(
            input_ids=ids, attention_mask=(ids != 0).long(), pixel_values=vlm.preprocess(photos(2))
        ).logits_per_image
    image, text = vlm.embed_images(photos(2)), vlm.text.encode_text(TEXTS)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    np.testing.assert_allclose(vlm.logit_scale * image @ text.T, logits, rtol=1e-4, atol=1e-3)
    assert (vlm.logit_bias, vlm.text.templates) == (0, ("a photo of a {}",))


def test_other_dense_features_and_weights_without_a_temperature(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_folder(tmp_path, "tipsv2")
    plain, sclip = (load_vlm(folder, dense=kind) for kind in (None, "sclip"))
    assert plain.fingerprint != sclip.fingerprint
    cells = [vlm.dense_features(photos(1))[0].features for vlm in (plain, sclip)]
    assert np.abs(cells[0] - cells[1]).max() > 1e-4
    # the published files have none: it is the configuration's
    weights = load_file(folder / "model.safetensors")
    del weights["temperature"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_vlm(folder).logit_scale == pytest.approx(1 / 0.005065968260169029)
