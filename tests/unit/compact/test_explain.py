"""What `compact`'s answers are made of, on real photographs: attention, parts, classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyregion import InputError, Recognizer, Regions, load_recognizer, read_image
from anyregion.compact.explain import class_names, trace_region_head
from anyregion.compact.model import CompactEncoder, CompactModel
from anyregion.compact.region_head import INPUTS, extract_region_features
from anyregion.drawing.attention import draw_explanation, overlay_attention
from anyregion.errors import CheckpointError
from anyregion.explain import explain
from anyregion.explanation import Attention

EXAMPLES = Path(__file__).parents[3] / "examples"
CUP, HELMET = [172, 18, 425, 308], [278, 344, 508, 512]
NAMES = ["espresso", "cup", "saucer", "spoon"]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer("compact")


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return CompactModel(threads=1)


def test_the_attention_is_that_of_the_torch_module(
    model: CompactModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from anyregion.compact.training.start import built_in_module

    encoder = CompactEncoder(model)
    (pyramid,) = encoder.encode_images([read_image(EXAMPLES / "coffee.jpg")])
    boxes = np.array([CUP, [0, 200, 120, 400], [325, 66, 426, 327]], dtype=np.float64)
    features = extract_region_features(pyramid, boxes, encoder.conse)
    trace = trace_region_head(model, features)
    module, weights, softmax = built_in_module(), [], torch.Tensor.softmax

    def record(tensor: object, *args: object) -> object:
        weights.append(softmax(tensor, *args))
        return weights[-1]

    monkeypatch.setattr(torch.Tensor, "softmax", record)
    with torch.no_grad():
        inputs = [torch.from_numpy(getattr(features, name)) for name in INPUTS]
        (embeddings,) = module([inputs])
    assert len(trace.attention) == len(weights) == module.config.layers
    for layer, expected in zip(trace.attention, weights, strict=True):
        assert layer.shape == (module.config.heads, 3, len(features.memory))
        np.testing.assert_allclose(layer, expected.numpy(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(trace.embeddings, embeddings.numpy(), rtol=1e-3, atol=1e-4)
    residual = features.conse * module.gain.item()
    np.testing.assert_allclose(trace.conse, residual, rtol=1e-5, atol=1e-6)


def test_further_outputs_change_no_answer(model: CompactModel) -> None:
    encoder = CompactEncoder(model)
    (pyramid,) = encoder.encode_images([read_image(EXAMPLES / "astronaut.jpg")])
    features = extract_region_features(pyramid, np.array([HELMET], dtype=float), encoder.conse)
    trace = trace_region_head(model, features)
    unit = trace.embeddings / np.linalg.norm(trace.embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, model.region_head.embed(features), atol=1e-6)
    for layer in trace.attention:
        np.testing.assert_allclose(layer.sum(axis=-1), 1, atol=1e-5)


def test_a_damaged_graph_is_said_to_be_one(tmp_path: Path, model: CompactModel) -> None:
    encoder = CompactEncoder(model)
    (pyramid,) = encoder.encode_images([read_image(EXAMPLES / "cat.jpg")])
    features = extract_region_features(pyramid, np.array([[0, 0, 99, 99.0]]), encoder.conse)
    damaged = CompactModel(threads=1)
    damaged.folder = tmp_path
    for content in (b"\xff" * 40, b"", b":\x03abc"):
        (tmp_path / "namer.onnx").write_bytes(content)
        with pytest.raises(CheckpointError):
            trace_region_head(damaged, features)


@pytest.mark.parametrize(
    ("photo", "box", "names"),
    [
        ("cat", [0, 0, 385, 300], ["cat", "dog", "sofa"]),
        ("coffee", CUP, NAMES),
        ("coffee", CUP, ["cup", "bowl", "spoon", "donut"]),
        ("astronaut", HELMET, ["helmet", "flag", "person"]),
    ],
)
def test_the_parts_add_up_to_the_answer(
    recognizer: Recognizer, photo: str, box: list[float], names: list[str]
) -> None:
    image, region = EXAMPLES / f"{photo}.jpg", Regions.from_boxes([box])
    explanation = explain(recognizer, image, region, names)
    (named,) = recognizer.recognize([image], [region], names)
    assert explanation.labels == named[0].labels
    np.testing.assert_array_equal(explanation.predictions.scores, named.scores)
    # what is scored, by way of another score: the logit of the sigmoid
    (sigmoid,) = recognizer.recognize([image], [region], names, score="sigmoid")
    order = [named.indices[0].tolist().index(i) for i in sigmoid.indices[0]]
    logits = np.log(sigmoid.scores[0] / (1 - sigmoid.scores[0]))
    encoder = recognizer.encoder.encoder  # of the tiles
    scale, bias = encoder.calibration.scale, encoder.calibration.bias
    np.testing.assert_allclose(
        (logits - bias) / scale, np.array(explanation.cosines)[order], atol=2e-4
    )

    assert explanation.parts is not None
    parts = explanation.parts.cosines
    np.testing.assert_allclose(sum(parts.values()), explanation.cosines, atol=1e-6)
    classes = sum(part.cosines for part in explanation.parts.classes)
    np.testing.assert_allclose(classes, parts["conse"], atol=1e-5)
    gains = explanation.parts.gains * explanation.parts.doubt
    np.testing.assert_allclose(parts["calibrated stacking"], gains, atol=1e-6)


def test_what_a_reader_expects_of_the_photographs(recognizer: Recognizer) -> None:
    cat = explain(
        recognizer, EXAMPLES / "cat.jpg", Regions.from_boxes([[0, 0, 385, 300]]), ["cat", "dog"]
    )
    assert {part.name for part in cat.classes[:3]} == {"Egyptian cat", "tiger cat", "tabby"}
    assert cat.stacking_gains == 0
    assert "surely like a name that was trained" in "\n".join(cat.sentences())
    cup = explain(recognizer, EXAMPLES / "coffee.jpg", Regions.from_boxes([CUP]), NAMES)
    assert cup.labels[0] == "cup"
    assert {part.name for part in cup.classes[:3]} == {"cup", "coffee mug", "espresso"}
    # new names gain with a region that is like nothing trained; a trained one does not
    assert cup.parts is not None
    assert cup.stacking_gains > 0.05
    stacking = cup.parts.cosines["calibrated stacking"]
    assert stacking[cup.labels.index("espresso")] > 0.05
    assert stacking[cup.labels.index("cup")] == 0
    helmet = explain(
        recognizer, EXAMPLES / "astronaut.jpg", Regions.from_boxes([HELMET]), ["helmet", "flag"]
    )
    # the region head looks at what it names more than at as much of the image anywhere
    area = 230 * 168 / 512**2
    assert helmet.attention.share(helmet.box) > 1.5 * area
    content = json.loads(json.dumps(helmet.to_dict()))
    assert np.shape(content["attention"]["weights"]) == (24, 24)
    assert len(class_names()) == 1000


def test_padding_is_no_part_of_the_image(recognizer: Recognizer) -> None:
    pixels = read_image(EXAMPLES / "coffee.jpg")[:130]  # 600 x 130: 768 x 166, padded to 192
    region = Regions.from_boxes([[172, 18, 425, 120]])
    attention = explain(recognizer, pixels, region, NAMES).attention
    assert attention.weights.shape == (6, 24)
    assert attention.extent[3] > 130
    # the centre of the last row's cells lies in the padding
    assert not attention.weights[-1].any()
    assert attention.elsewhere > 0
    assert attention.weights.sum() + attention.elsewhere == pytest.approx(1, abs=1e-5)


def test_a_small_region_is_explained_in_the_tile_that_named_it(recognizer: Recognizer) -> None:
    pixels = np.asarray(Image.open(EXAMPLES / "coffee.jpg").convert("RGB"))
    large = np.zeros((1600, 2400, 3), np.uint8)
    large[1000:1400, 1500:2100] = pixels
    region = Regions.from_boxes([[1672, 1018, 1925, 1308]])
    explanation = explain(recognizer, large, region, NAMES)
    (named,) = recognizer.recognize([large], [region], NAMES)
    np.testing.assert_allclose(explanation.predictions.scores, named.scores, atol=1e-6)
    assert explanation.window is not None
    x0, y0, x1, y1 = explanation.window
    assert x0 <= 1672
    assert x1 >= 1925
    assert y0 <= 1018
    assert y1 >= 1308
    np.testing.assert_allclose(explanation.attention.extent[:2], [x0, y0])
    # as where the tile is an image of its own
    moved = Regions.from_boxes([[1672 - x0, 1018 - y0, 1925 - x0, 1308 - y0]])
    alone = explain(recognizer, large[int(y0) : int(y1), int(x0) : int(x1)], moved, NAMES)
    np.testing.assert_allclose(explanation.attention.weights, alone.attention.weights, atol=1e-5)
    share = explanation.attention.share(explanation.box)
    assert share == pytest.approx(alone.attention.share(alone.box), abs=1e-5)
    assert share > 0
    assert f"tile {x0}, {y0}" in "\n".join(explanation.sentences())
    picture = draw_explanation(large, explanation)
    assert picture.size[0] > 1000


def test_a_point_is_explained_where_its_box_was_grown(recognizer: Recognizer) -> None:
    region = Regions.from_prompts(points=[[[390, 430]]])
    explanation = explain(recognizer, EXAMPLES / "astronaut.jpg", region, ["helmet", "flag"])
    (named,) = recognizer.recognize([EXAMPLES / "astronaut.jpg"], [region], ["helmet", "flag"])
    np.testing.assert_allclose(explanation.box, named.boxes[0])
    assert explanation.to_dict()["points"] == [[390, 430]]


def test_layers(recognizer: Recognizer) -> None:
    image, region = EXAMPLES / "cat.jpg", Regions.from_boxes([[0, 0, 385, 300]])
    first, last = (explain(recognizer, image, region, ["cat"], layer=n) for n in (0, -1))
    assert (first.attention.layer, last.attention.layer, last.attention.layers) == (1, 2, 2)
    assert not np.allclose(first.attention.weights, last.attention.weights)
    with pytest.raises(InputError, match="2 layers, no layer"):
        explain(recognizer, image, region, ["cat"], layer=2)


@pytest.mark.parametrize("method", ["crop", "dense"])
def test_other_methods_say_that_they_have_none(method: str) -> None:
    with pytest.raises(InputError, match="no attention to show"):
        explain(
            load_recognizer("compact", method=method),
            EXAMPLES / "cat.jpg",
            Regions.from_boxes([[0, 0, 99, 99]]),
            ["cat"],
        )


def test_one_region_at_a_time(recognizer: Recognizer) -> None:
    with pytest.raises(InputError, match="one region"):
        explain(recognizer, EXAMPLES / "cat.jpg", Regions.from_boxes([[0, 0, 9, 9]] * 2), ["cat"])


def test_the_share_of_a_box_counts_parts_of_cells() -> None:
    weights = np.array([[0.2, 0.4], [0.0, 0.2]], np.float32)
    attention = Attention(weights, np.array([0.0, 0, 20, 20]), 0.2, 1, 1, 4)
    assert attention.share(np.array([0.0, 0, 20, 20])) == pytest.approx(1)
    assert attention.share(np.array([10.0, 0, 20, 10])) == pytest.approx(0.5)
    assert attention.share(np.array([10.0, 0, 15, 10])) == pytest.approx(0.25)
    moved = replace(attention, extent=np.array([100.0, 0, 120, 20]))
    assert moved.share(np.array([0.0, 0, 20, 20])) == 0


def test_the_overlay_is_bright_where_the_map_is() -> None:
    weights = np.zeros((4, 4), np.float32)
    weights[1, 2] = 1
    grey = np.full((80, 80, 3), 128, np.uint8)
    picture = np.asarray(overlay_attention(grey, weights)).astype(int)
    rows, columns = np.nonzero(picture.sum(axis=2) == picture.sum(axis=2).max())
    assert 20 <= rows.mean() < 40
    assert 40 <= columns.mean() < 60
    assert picture[70, 5].sum() < 128 * 3  # dimmed elsewhere
    # a map of a part, and one that reaches beyond
    part = np.asarray(overlay_attention(grey, weights, extent=np.array([40.0, 40, 120, 120])))
    assert part[70:80, 70:80].astype(int).sum() > part[:10, :10].astype(int).sum()
    assert np.array_equal(part[0, 0], part[39, 39])
