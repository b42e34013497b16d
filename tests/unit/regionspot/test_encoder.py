"""The encoder's promises: batches, candidates, attention, fingerprints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion import InputError, Recognizer, Regions, Vocabulary
from anyregion.drawing.attention import overlay_attention
from anyregion.explain import explain
from anyregion.images import Pixels
from anyregion.region_encoder import REGIONS_AT_ONCE
from anyregion.regionspot.attention import attention_maps
from anyregion.regionspot.encoder import RegionSpotEncoder
from anyregion.runs.recognize import RunReport, recognize_images
from tests.helpers.toy_regionspot import SMALL, WORDS, toy_encoder


def images_and_regions() -> tuple[list[Pixels], list[Regions]]:
    rng = np.random.default_rng(5)
    images = [np.full((10 + i, 20, 3), 40 * i + 20, np.uint8) for i in range(5)]
    counts = [3, 0, 1, 7, 2]
    regions = []
    for n in counts:
        low = rng.uniform(0, 5, (n, 2))
        regions.append(Regions.from_boxes(np.concatenate([low, low + 4], axis=1)))
    return images, regions


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("attention", ["mutual", "independent"])
def test_a_batch_equals_one_by_one(multimask: bool, attention: Any) -> None:
    images, regions = images_and_regions()
    config = replace(SMALL, attention=attention)
    together = Recognizer(toy_encoder(config, images_at_once=2), cache=None).recognize(
        images, regions, WORDS, multimask=multimask
    )
    single = Recognizer(toy_encoder(config), cache=None)
    for image, prompts, predictions in zip(images, regions, together, strict=True):
        single.set_image(image)
        alone = single.predict(prompts, WORDS, multimask=multimask)
        assert len(predictions) == len(prompts) * (3 if multimask else 1)
        assert predictions.indices.tolist() == alone.indices.tolist()
        np.testing.assert_allclose(predictions.scores, alone.scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(predictions.embeddings, alone.embeddings, rtol=1e-4, atol=1e-5)


def test_an_image_of_very_many_regions_is_a_batch_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padding would else give its number of rows to every image beside it."""
    rng = np.random.default_rng(5)
    counts = [3, 2, REGIONS_AT_ONCE + 9, 1, 0, 4, 2, REGIONS_AT_ONCE]
    images = [np.full((10 + i, 20, 3), 25 * i + 20, np.uint8) for i in range(len(counts))]
    low = [rng.uniform(0, 5, (n, 2)) for n in counts]
    regions = [Regions.from_boxes(np.concatenate([v, v + 4], axis=1)) for v in low]
    encoder = toy_encoder(images_at_once=4)
    sizes: list[tuple[int, int]] = []
    forward = encoder.embed_tokens

    def embed_tokens(encoded: Any, tokens: Any, *rest: Any) -> Any:
        sizes.append((len(tokens), max(map(len, tokens))))
        return forward(encoded, tokens, *rest)

    monkeypatch.setattr(encoder, "embed_tokens", embed_tokens)
    together = Recognizer(encoder, cache=None).recognize(images, regions, WORDS)
    assert sizes == [(2, 3), (1, REGIONS_AT_ONCE + 9), (4, 4), (1, REGIONS_AT_ONCE)]
    single = Recognizer(toy_encoder(), cache=None)
    for image, prompts, predictions in zip(images, regions, together, strict=True):
        single.set_image(image)
        alone = single.predict(prompts, WORDS)
        assert predictions.indices.tolist() == alone.indices.tolist()
        np.testing.assert_allclose(predictions.embeddings, alone.embeddings, rtol=1e-4, atol=1e-5)


def test_all_candidates_come_back_ranked() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    images, regions = images_and_regions()
    recognizer.set_image(images[3])
    predictions = recognizer.predict(regions[3], WORDS, multimask=True, masks=True)
    assert predictions.rows.tolist() == [i for i in range(7) for _ in range(3)]
    assert predictions.mask_scores is not None
    assert predictions.masks is not None
    assert (np.diff(predictions.mask_scores.reshape(7, 3), axis=1) <= 0).all()
    best = predictions.best_candidates()
    assert best.rows.tolist() == list(range(7))
    assert best.mask_scores is not None
    assert best.mask_scores.tolist() == predictions.mask_scores.reshape(7, 3).max(axis=1).tolist()


def test_no_image_no_words_no_region() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    with pytest.raises(InputError, match="set_image first"):
        recognizer.predict(Regions.from_boxes([[0, 0, 1, 1]]), WORDS)
    recognizer.set_image(np.zeros((8, 8, 3), np.uint8))
    assert len(recognizer.predict(Regions.from_boxes([]), WORDS)) == 0
    with pytest.raises(InputError, match="outside"):
        recognizer.predict(Regions.from_boxes([[50, 50, 60, 60]]), WORDS)
    with pytest.raises(InputError, match="empty"):
        recognizer.predict(Regions.from_boxes([[0, 0, 1, 1]]), [])
    with pytest.raises(InputError, match="one Regions for each"):
        recognizer.recognize([np.zeros((8, 8, 3), np.uint8)], [], WORDS)


def test_detector_scores_multiply() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    recognizer.set_image(np.zeros((8, 8, 3), np.uint8))
    plain = recognizer.predict(Regions.from_boxes([[0, 0, 4, 4]]), WORDS)
    scored = recognizer.predict(Regions.from_boxes([[0, 0, 4, 4]], scores=[0.25]), WORDS)
    np.testing.assert_allclose(scored.scores, plain.scores * 0.25, rtol=1e-6)


def test_a_second_vocabulary_costs_no_image_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = toy_encoder()
    recognizer = Recognizer(encoder, cache=None)
    recognizer.set_image(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(encoder, "encode_images", lambda images: pytest.fail("encoded again"))
    for words in (WORDS, ["cat", "dog"]):
        assert recognizer.predict(Regions.from_boxes([[0, 0, 4, 4]]), words).labels[0] in words


def test_attention_is_a_share() -> None:
    encoder = toy_encoder()
    images, regions = images_and_regions()
    (encoded,) = encoder.encode_images([images[0]])
    maps = attention_maps(encoder, encoded, regions[0])
    assert maps.shape == (3, 2, 3)
    assert (maps >= 0).all()
    assert (maps.sum(axis=(1, 2)) < 1).all()  # the rest went to the class token
    assert overlay_attention(images[0], maps[0]).size == (20, 10)
    assert attention_maps(encoder, encoded, Regions.from_boxes([])).shape == (0, 2, 3)
    with pytest.raises(InputError, match="no 3"):
        attention_maps(encoder, encoded, regions[0], layer=3)


def test_widths_must_fit() -> None:
    with pytest.raises(InputError, match="words of width 25"):
        toy_encoder(replace(SMALL, embed_width=25))


def change(name: str, encoder: RegionSpotEncoder) -> None:
    if name == "adapter":
        encoder.adapter.projector.bias.data[0] += 1
    elif name == "attention":
        encoder.adapter.config = replace(SMALL, attention="independent")
    elif name in ("source", "antialias"):
        setattr(encoder, name, {"source": "prompt", "antialias": False}[name])
    else:
        getattr(encoder, name).fingerprint = "another"


@pytest.mark.parametrize(
    "name", ["adapter", "attention", "source", "antialias", "localizer", "vlm"]
)
def test_fingerprint_follows_all_that_answers(name: str) -> None:
    encoder = toy_encoder()
    before = encoder.fingerprint
    assert before == toy_encoder().fingerprint
    change(name, encoder)
    assert encoder.fingerprint != before


def test_a_run_of_other_weights_is_not_continued(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (20, 10), (90 * i, 50, 50)).save(tmp_path / f"{i}.png")
    trained = toy_encoder()

    def run(*names: str) -> RunReport:
        return recognize_images(
            [tmp_path / name for name in names],
            Vocabulary.from_names(WORDS),
            Regions.from_boxes([[0, 0, 4, 4]]),
            recognizer=Recognizer(trained, cache=None),
            out=tmp_path / "out",
        )

    assert run("0.png").images == 1
    change("adapter", trained)
    with pytest.raises(InputError, match="finished images were named by other weights"):
        run("0.png", "1.png")


def test_a_point_gets_the_box_of_its_mask_or_stays_inside_the_image() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    recognizer.set_image(np.zeros((40, 60, 3), np.uint8))
    point = Regions.from_prompts(points=[[[2, 3]]])
    assert recognizer.predict(point, WORDS).boxes.tolist() == [[0, 0, 18, 19]]
    masked = recognizer.predict(point, WORDS, masks=True)  # the toy's masks cover the image
    assert masked.boxes.tolist() == [[0, 0, 60, 40]]


def test_an_answer_is_explained_by_its_cross_attention() -> None:
    """With random weights: the numbers and not their sense."""
    recognizer = Recognizer(toy_encoder(), cache=None)
    image, region = np.full((10, 20, 3), 90, np.uint8), Regions.from_boxes([[2, 2, 9, 8]])
    explanation = explain(recognizer, image, region, WORDS)
    (named,) = recognizer.recognize([image], [region], WORDS)
    assert explanation.labels == named[0].labels
    (encoded,) = recognizer.encoder.encode_images([image])
    maps = attention_maps(recognizer.encoder, encoded, region)  # type: ignore[arg-type]
    np.testing.assert_array_equal(explanation.attention.weights, maps[0])
    assert explanation.attention.elsewhere == pytest.approx(1 - float(maps[0].sum()), abs=1e-6)
    assert (explanation.attention.layers, explanation.attention.heads) == (3, 4)
    unit = named.embeddings[0] / np.linalg.norm(named.embeddings[0])
    matrix = recognizer.encode_vocabulary(WORDS).matrix
    np.testing.assert_allclose(explanation.cosines, (matrix @ unit)[named.indices[0]], atol=1e-5)
    assert explanation.parts is None
    assert "parts" not in explanation.to_dict()
    with pytest.raises(InputError, match="no 7"):
        explain(recognizer, image, region, WORDS, layer=7)
