"""The back end of Label Studio names what is drawn there."""

from __future__ import annotations

import copy
import json
import logging
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from anyregion.data.annotations.brush_rle import decode_brush, encode_brush
from anyregion.masks import decode_mask, encode_mask, mask_iou, segmentation_to_rle
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.vocabulary import Vocabulary
from tests.helpers.label_studio import (
    SIZE,
    UNTAUGHT,
    FakeLabelStudio,
    interface,
    post,
    predict,
    recorded,
    tag,
)
from tests.unit.serve.conftest import photo, place, serving, serving_with
from tests.unit.serve.test_routes import call


def test_health_and_setup_answer_while_the_model_is_loaded(
    compact: Recognizer, studio: FakeLabelStudio
) -> None:
    loading: list[bool] = []

    def load() -> Recognizer:
        while not loading:
            time.sleep(0.01)
        return compact

    with serving_with(load, label_studio=place(studio)) as url:
        status, _, content = call(url, "GET", "/label-studio/health")
        assert (status, json.loads(content)["status"]) == (200, "UP")
        assert post(url, "setup", recorded("setup")) == {"model_version": UNTAUGHT}
        assert post(url, "webhook", recorded("PROJECT_UPDATED"))["status"] == "noted"
        status, _, content = call(url, "GET", "/label-studio/versions")
        assert (status, json.loads(content)) == (200, {"versions": []})
        loading.append(True)


def test_what_is_drawn_is_named_where_it_is(backend: str) -> None:
    first, second = predict(backend)
    drawn = recorded("predict")["tasks"][0]["annotations"][0]["result"]
    assert [(r["id"], r["type"], r["from_name"]) for r in first["result"]] == [
        (r["id"], r["type"], r["from_name"]) for r in drawn
    ]
    labels = {
        "rectanglelabels": {"ball", "box"}, "labels": {"box", "sky"}, "polygonlabels": {"BALL"},
        "brushlabels": {"ball"},
    }  # fmt: skip
    for result, before in zip(first["result"], drawn, strict=True):
        key = result["type"] if result["type"] in labels else None
        if key is not None:
            (label,) = result["value"].pop(key)
            assert label in labels[key]
            del before["value"][key]
        assert 0 < result.pop("score") <= 1
        assert result == before, "nothing else changes"
    assert first["model_version"] == UNTAUGHT
    assert 0 < first["score"] <= 1
    # nothing is drawn on the other: regions are found, and drawn by the first tag with labels
    assert second["result"]
    for result in second["result"]:
        assert (result["type"], result["from_name"], result["to_name"]) == (
            "rectanglelabels", "box", "img",
        )  # fmt: skip
        assert (result["original_height"], result["original_width"]) == SIZE
        value = result["value"]
        assert 0 <= value["x"] <= value["x"] + value["width"] <= 100.001
        assert value["rectanglelabels"][0] in ("ball", "box")


def test_names_are_those_of_the_recogniser(backend: str, compact: Recognizer) -> None:
    """Boxes, turned boxes, polygons and brushes, in the words of the labels."""

    first = predict(backend)[0]["result"]
    names = Vocabulary.from_names(["ball", "box", "sky"], synonyms=[[], ["crate", "parcel"], []])
    brush = next(r for r in first if r["id"] == "qBrush")
    # 15 degrees clockwise around the first corner, in pixels
    angle, corner = np.deg2rad(15), np.array([96, 72])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = (np.array([[0, 0], [96, 0], [96, 96], [0, 96]]) @ turn + corner).reshape(-1).tolist()
    masks = [
        None,
        segmentation_to_rle([outline], *SIZE),
        segmentation_to_rle([[160, 48, 204.8, 48, 204.8, 96, 160, 96]], *SIZE),
        encode_mask(decode_brush(brush["value"]["rle"], *SIZE)),
    ]
    regions = Regions.from_prompts(
        boxes=[[80, 28.8, 150.4, 91.2], *np.full((3, 4), np.nan)], masks=masks
    )
    (expected,) = compact.recognize([photo(0, SIZE)], [regions], names, top_k=3)
    stated = {r["id"]: r for r in first}
    allowed_of = {"qBox": ["ball", "box"], "qTurned": ["box", "sky"], "qPoly": ["ball"]}
    for i, (name, allowed) in enumerate({**allowed_of, "qBrush": ["ball"]}.items()):
        best = next(
            (label, score)
            for label, score in zip(expected[i].labels, expected[i].scores, strict=True)
            if label in allowed
        )
        assert stated[name]["score"] == pytest.approx(best[1], abs=2e-6), name
        (label,) = stated[name]["value"][stated[name]["type"]]
        assert label.casefold() == best[0]


def test_what_is_being_drawn_is_named(backend: str) -> None:
    (answer,) = predict(backend, recorded("predict_interactive"))
    (result,) = answer["result"]
    body = recorded("predict_interactive")
    (drawing,) = body["params"]["context"]["result"]
    assert result["id"] == drawing["id"], "it takes the place of what was drawn"
    assert result["value"]["rectanglelabels"][0] in ("ball", "box")
    # a point asks for what it is on
    body["params"]["context"]["result"] = [{
        "original_width": 320, "original_height": 240, "image_rotation": 0, "id": "p",
        "type": "keypointlabels", "from_name": "kp", "to_name": "img", "is_positive": True,
        "value": {"x": 40, "y": 50, "width": 0.3, "keypointlabels": ["ball"]},
    }]  # fmt: skip
    (answer,) = predict(backend, body)
    (result,) = answer["result"]
    assert (result["type"], result["from_name"]) == ("brushlabels", "brush")
    mask = decode_brush(result["value"]["rle"], *SIZE)
    assert mask.any()
    assert not mask.all()
    # where nothing has an extent the point itself is named
    body["label_config"] = (
        '<View><Image name="img" value="$image"/><KeyPointLabels name="kp" toName="img">'
        '<Label value="ball"/></KeyPointLabels></View>'
    )
    (answer,) = predict(backend, body)
    (result,) = answer["result"]
    assert (result["id"], result["value"]["keypointlabels"]) == ("p", ["ball"])
    assert "labels" not in result


@pytest.mark.parametrize(
    ("tags", "types"),
    [
        (tag("PolygonLabels", "ball"), ["polygonlabels"]),
        (tag("BrushLabels", "ball"), ["brushlabels"]),
        (tag("KeyPointLabels", "ball"), ["keypointlabels"]),
        (tag("EllipseLabels", "ball"), ["ellipselabels"]),
        (tag("Rectangle") + tag("Labels", "ball", name="b"), ["rectangle", "labels"]),
        (tag("Brush") + tag("Labels", "ball", name="b"), ["brush", "labels"]),
    ],
)
def test_found_regions_are_drawn_by_the_tags_there_are(
    backend: str, tags: str, types: list[str]
) -> None:
    body = recorded("predict") | {"label_config": interface(tags)}
    body["tasks"] = body["tasks"][1:]
    (answer,) = predict(backend, body)
    results = answer["result"]
    assert [r["type"] for r in results[: len(types)]] == types
    for result in results:
        assert result["from_name"] == ("b" if result["type"] == "labels" else "box")
        labelled = result["type"].endswith("labels")
        assert ("ball" in str(result["value"])) == labelled
    if len(types) == 2:
        assert results[0]["id"] == results[1]["id"]
    if types[0] in ("brushlabels", "brush"):
        masks = [encode_mask(decode_brush(r["value"]["rle"], *SIZE)) for r in results[:1]]
        again = encode_brush(np.asarray(decode_mask(masks[0]), dtype=bool))
        assert mask_iou(masks[0], encode_mask(decode_brush(again, *SIZE))) == 1


def test_a_threshold_and_names_of_no_tag_are_no_label(backend: str) -> None:
    body = recorded("predict")
    body["tasks"] = body["tasks"][:1]

    def answer(more: str, *labels: str) -> Any:
        body["label_config"] = interface(tag("RectangleLabels", "ball", *labels, more=more))
        (prediction,) = predict(backend, body)
        return {r["id"]: r for r in prediction["result"]}["qBox"]

    assert answer('model_score_threshold="0"')["value"]["rectanglelabels"] == ["ball"]
    refused = answer('model_score_threshold="1"')
    assert refused["value"]["rectanglelabels"] == []
    assert 0 < refused["score"] < 1
    labelled = answer('model_score_threshold="1"', "none of these")
    assert labelled["value"]["rectanglelabels"] == ["none of these"]
    # of the built-in list no name is a ball's
    assert answer('model_vocabulary="coco"')["value"]["rectanglelabels"] == []
    every = f'anything" predicted_values="{", ".join(coco())}'
    assert answer('model_vocabulary="coco"', every)["value"]["rectanglelabels"] == ["anything"]


def coco() -> tuple[str, ...]:
    from anyregion.io.vocabulary import load_vocabulary

    names: tuple[str, ...] = load_vocabulary("coco").names  # type: ignore[union-attr]
    return names


def test_regions_come_from_the_newest_annotation_a_draft_or_another_models_prediction(
    backend: str,
) -> None:
    body = recorded("predict")
    task = body["tasks"][0]
    body["tasks"] = [task]
    annotation = task["annotations"][0]
    box = next(r for r in annotation["result"] if r["id"] == "qBox")

    def ids() -> list[str]:
        (answer,) = predict(backend, body)
        return [r["id"] for r in answer["result"]]

    task["drafts"] = [{"result": [{**box, "id": "draft"}], "updated_at": "2026"}]
    assert "qBox" in ids()
    annotation["was_cancelled"] = True
    assert ids() == ["draft"]
    task["drafts"] = []
    task["predictions"] = [
        {"result": [{**box, "id": "other"}], "model_version": "yolo", "created_at": "1"},
        {"result": [{**box, "id": "own"}], "model_version": UNTAUGHT, "created_at": "2"},
    ]
    assert ids() == ["other"]
    task["predictions"] = task["predictions"][1:]
    assert "own" not in ids(), "what it found itself is found anew"


def test_one_of_many_tasks_that_fails_is_told_and_the_rest_goes_on(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = recorded("predict")
    broken = copy.deepcopy(body["tasks"][0])
    broken["data"]["image"] = "/data/upload/9/gone.jpg"
    body["tasks"].insert(1, broken)
    with caplog.at_level(logging.WARNING, "anyregion.serve"):
        first, second, third = predict(backend, body)
    assert first["result"]
    assert third["result"]
    # Label Studio keeps nothing of an answer without a result, and logs it
    assert set(second) == {"error"}
    assert "answers 404" in second["error"]
    assert "answers 404" in caplog.text


def test_tasks_that_take_too_long_are_asked_one_by_one(
    compact: Recognizer, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyregion.serve.label_studio.backend.SHARE_OF_TIMEOUT", 0.0)
    with serving(compact, label_studio=place(studio)) as url:
        assert len(predict(url)) == 1
        assert len(predict(url, recorded("predict_interactive"))) == 1
