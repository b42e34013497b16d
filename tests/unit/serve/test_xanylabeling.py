"""X-AnyLabeling's remote dialect: as its documentation describes it, equal to the recogniser."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

pytest.importorskip("starlette")

from anyregion import Regions
from anyregion.images import read_image
from anyregion.masks import mask_iou, segmentation_to_rle
from anyregion.recognizer import Recognizer
from anyregion.serve.xanylabeling import (
    FIND,
    MODELS,
    OUTLINE,
    PREFIX,
    RECTANGLES,
    UNNAMED,
    WORDS,
    XAnyLabelingRoutes,
)
from tests.unit.serve.conftest import photo, serving
from tests.unit.serve.test_routes import call, check, described

if TYPE_CHECKING:
    from anyregion.serve.service import Service

__all__ = ["described"]  # a fixture

PHOTO = min((Path(__file__).parents[3] / "examples").rglob("*.jpg"))
NAMES = ["cat", "bus", "a red hat"]
BOX = [40.5, 20.0, 150.0, 110.0]
JSON = {"content-type": "application/json"}
# of docs/configuration.md of X-AnyLabeling-Server
WIDGETS = {
    "button_run", "button_send", "button_add_point", "button_remove_point", "button_add_rect",
    "button_clear", "button_finish_object", "input_conf", "edit_conf", "input_iou", "edit_iou",
    "edit_text", "toggle_preserve_existing_annotations", "mask_fineness_slider",
    "mask_fineness_value_label", "add_pos_rect", "add_neg_rect", "button_run_rect",
    "remote_task_select_combobox",
}  # fmt: skip
NEED_VALUES = {"edit_conf", "edit_iou", "toggle_preserve_existing_annotations"}
KEYS = {
    "label", "shape_type", "points", "score", "attributes", "description", "difficult",
    "direction", "flags", "group_id", "kie_linking",
}  # fmt: skip


def get(url: str, path: str) -> Any:
    status, _, content = call(url, "GET", f"/x-anylabeling{path}")
    assert status == 200
    return json.loads(content)


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = call(
        url, "POST", "/x-anylabeling/v1/predict", content, {**JSON, **(headers or {})}
    )
    return status, json.loads(answer)


def request(model: str, image: bytes | None = None, **params: Any) -> dict[str, Any]:
    text = base64.b64encode(photo() if image is None else image).decode()
    return {"model": model, "image": f"data:image/png;base64,{text}", "params": params}


def shapes(url: str, model: str, image: bytes | None = None, **params: Any) -> list[dict[str, Any]]:
    status, answer = post(url, request(model, image, **params))
    assert status == 200
    assert answer["success"] is True, answer
    assert answer["data"]["description"] == ""
    listed: list[dict[str, Any]] = answer["data"]["shapes"]
    for shape in listed:
        assert shape.keys() == KEYS
    return listed


def rectangle(*data: float, label: int = 1) -> dict[str, Any]:
    return {"type": "rectangle", "label": label, "data": list(data)}


def test_answers_are_as_openapi_describes_them(url: str, described: dict[str, Any]) -> None:
    served = [r.path for r in XAnyLabelingRoutes(cast("Service", None)).routes()]
    assert [path for path in described["paths"] if path.startswith(PREFIX)] == served
    check(described, "XAnyLabelingModels", get(url, "/v1/models"))
    check(described, "XAnyLabelingHealth", get(url, "/health"))
    check(described, "XAnyLabelingModel", get(url, f"/v1/models/{FIND}/info"))
    check(described, "XAnyLabelingFailure", get(url, "/v1/models/yolo/info"))
    click = {"type": "point", "label": 1, "data": [90, 60]}
    for body in (
        request(FIND, PHOTO.read_bytes(), conf_threshold=0.01),
        request(RECTANGLES, marks=[rectangle(*BOX)], text_prompt="cat, bus"),
        request(OUTLINE, marks=[rectangle(*BOX), click]),
    ):
        check(described, "XAnyLabelingRequest", body)
        answer = post(url, body)[1]
        check(described, "XAnyLabelingShapes", answer)
        assert answer["data"]["shapes"]
    refused = post(url, request("yolo"))[1]
    check(described, "XAnyLabelingFailure", refused)


def test_models_are_listed_as_documented(url: str) -> None:
    listed = get(url, "/v1/models")
    assert listed["success"] is True
    assert listed["data"].keys() == MODELS.keys()
    for name, model in listed["data"].items():
        assert model.keys() == {"display_name", "widgets", "params", "batch_processing_mode"}
        assert model["batch_processing_mode"] in ("default", "text_prompt")
        for widget in model["widgets"]:
            assert widget["name"] in WIDGETS
            assert widget["value"] is not None or widget["name"] not in NEED_VALUES
        info = get(url, f"/v1/models/{name}/info")
        assert info == {"success": True, "data": {"model_id": name, **model}}
    assert get(url, "/v1/models/yolo/info")["error"]["code"] == "MODEL_NOT_FOUND"
    # our own listing has its own form
    assert "models" in json.loads(call(url, "GET", "/v1/models")[2])


def test_health(url: str) -> None:
    get(url, "/v1/models")
    shapes(url, RECTANGLES)  # the model is loaded
    health = get(url, "/health")
    assert health["status"] == "healthy"
    assert health["models_loaded"] == len(MODELS)


def test_drawn_rectangles_are_named_as_by_the_recogniser(url: str, compact: Recognizer) -> None:
    # from any corner; what is outside, negative, or a click is no region
    marks = [
        rectangle(BOX[2], BOX[1], BOX[0], BOX[3]),
        rectangle(5, 8, 60, 70, label=0),
        rectangle(5, 8, 60, 70),
        rectangle(500, 500, 600, 600),
        rectangle(7, 7, 7, 7),
        {"type": "point", "label": 1, "data": [9, 9]},
        {"type": "lasso", "data": "?"},
    ]
    answers = shapes(url, RECTANGLES, marks=marks, text_prompt="cat, bus,a red hat")
    regions = Regions.from_boxes([BOX, [5, 8, 60, 70]])
    (expected,) = compact.recognize([photo()], [regions], NAMES)
    assert [s["label"] for s in answers] == expected.labels
    assert [s["score"] for s in answers] == pytest.approx(expected.scores[:, 0], abs=1e-4)
    x0, y0, x1, y1 = BOX
    assert answers[0]["points"] == [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    assert answers[0]["shape_type"] == "rectangle"
    # periods part names as well; without words the model's own names
    assert shapes(url, RECTANGLES, marks=marks, text_prompt="cat.bus.a red hat") == answers
    (own,) = compact.recognize([photo()], [regions])
    assert [s["label"] for s in shapes(url, RECTANGLES, marks=marks)] == own.labels
    assert shapes(url, RECTANGLES, marks=marks, text_prompt="coco")


@pytest.mark.parametrize("model", [FIND, WORDS])
def test_regions_are_found_and_named(model: str, url: str, compact: Recognizer) -> None:
    from anyregion.factory import load_proposer

    image = PHOTO.read_bytes()
    answers = shapes(url, model, image, text_prompt="cat, bus")
    regions = load_proposer(recognizer=compact).propose(read_image(image))
    (expected,) = compact.recognize([image], [regions], ["cat", "bus"])
    boxes = {tuple(np.round(box, 1)) for box in expected.boxes.tolist()}
    for shape in answers:
        (x0, y0), _, (x1, y1), _ = shape["points"]
        assert tuple(np.round([x0, y0, x1, y1], 1)) in boxes
        assert shape["label"] in ("cat", "bus")
    assert 0 < len(answers) <= len(regions)
    assert shapes(url, model, image, text_prompt="cat, bus", conf_threshold=1.0) == []


PROMPTS = {
    "a box": [rectangle(*BOX)],
    "points": [
        {"type": "point", "label": 1, "data": [80, 60]},
        {"type": "point", "label": 0, "data": [2, 2]},
    ],
    "a point in a box": [rectangle(*BOX), {"type": "point", "label": 1, "data": [80, 60]}],
}


@pytest.mark.parametrize("case", sorted(PROMPTS))
def test_prompts_become_an_outline(case: str, url: str, compact: Recognizer) -> None:
    marks = PROMPTS[case]
    (shape,) = shapes(url, OUTLINE, marks=marks)
    assert shape["shape_type"] == "polygon"
    assert shape["points"][0] == shape["points"][-1]
    # X-AnyLabeling asks for the name; the likeliest ones are in words
    assert shape["label"] == UNNAMED
    assert len(shape["description"].split(", ")) == 3
    points = [m["data"] for m in marks if m["type"] == "point"]
    boxes = [m["data"] for m in marks if m["type"] == "rectangle"]
    regions = Regions.from_prompts(
        boxes=boxes or [[np.nan] * 4],
        points=[points or None],
        point_labels=[[m["label"] for m in marks if m["type"] == "point"] or None],
    )
    (expected,) = compact.recognize([photo()], [regions], masks=True)
    assert expected.masks is not None
    polygon = np.ravel(shape["points"]).tolist()
    # the largest part of the mask
    assert mask_iou(segmentation_to_rle([polygon], 120, 160), expected.masks[0]) > 0.8


@pytest.mark.parametrize("model", [OUTLINE, RECTANGLES])
def test_without_a_mark_there_is_nothing(model: str, url: str) -> None:
    assert shapes(url, model) == []
    assert shapes(url, model, marks=[rectangle(*BOX, label=0)]) == []
    assert shapes(url, model, marks=[rectangle(900, 900, 950, 950)]) == []


def test_an_image_may_come_without_its_type(url: str) -> None:
    body = request(RECTANGLES, marks=[rectangle(*BOX)], text_prompt="cat,bus")
    answer = post(url, body)
    body["image"] = body["image"].partition(",")[2]
    assert post(url, body) == answer
    body["image"] = "\n".join(body["image"][i : i + 76] for i in range(0, len(body["image"]), 76))
    assert post(url, body) == answer


def changed(**changes: Any) -> dict[str, Any]:
    return {**request(RECTANGLES, marks=[rectangle(*BOX)]), **changes}


BAD: dict[str, tuple[Any, str, str]] = {
    "another model": (changed(model="yolo"), "MODEL_NOT_FOUND", "yolo"),
    "no model": (changed(model=None), "INFERENCE_ERROR", "model"),
    "no image": (changed(image=None), "INVALID_IMAGE", "base64"),
    "no base64": (changed(image="data:image/png;base64,%%%"), "INVALID_IMAGE", "no base64"),
    "a text": (changed(image="aGVsbG8="), "INVALID_IMAGE", "image"),
    "params": (changed(params=[1]), "INFERENCE_ERROR", "object"),
    "marks": (changed(params={"marks": "x"}), "INFERENCE_ERROR", "list"),
    "a mark": (changed(params={"marks": [rectangle(1, 2)]}), "INFERENCE_ERROR", "mark 0"),
    "a huge mark": (
        changed(params={"marks": [rectangle(1, 2, 3, 1e300)]}), "INFERENCE_ERROR", "mark 0",
    ),
    "too many marks": (
        changed(params={"marks": [rectangle(*BOX)] * 2001}), "INFERENCE_ERROR", "2000 are the most",
    ),
    "words": (changed(params={"text_prompt": ["cat"]}), "INFERENCE_ERROR", "must be a text"),
    "separators": (changed(params={"text_prompt": " , ,"}), "INFERENCE_ERROR", "list of names"),
    "confidence": (
        {**request(FIND), "params": {"conf_threshold": "high"}}, "INFERENCE_ERROR", "0 to 1",
    ),
    "no JSON": (b"{", "INFERENCE_ERROR", "JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_cannot_be_used_is_said_in_the_dialect(case: str, url: str) -> None:
    body, code, text = BAD[case]
    status, answer = post(url, body)
    assert status == 200
    assert answer["success"] is False
    assert answer["error"]["code"] == code
    assert text in answer["error"]["message"]


def test_the_token_is_an_api_key(compact: Recognizer) -> None:
    body = request(RECTANGLES, marks=[rectangle(*BOX)])
    with serving(compact, token="secret-of-a-test") as url:
        assert post(url, body)[0] == 401
        assert post(url, body, {"Token": "another"})[0] == 401
        assert post(url, body, {"Token": "secret-of-a-test"})[0] == 200
        assert call(url, "GET", "/x-anylabeling/v1/models")[0] == 401
        assert call(url, "GET", "/x-anylabeling/health")[0] == 200
        # and opens nothing else
        assert call(url, "GET", "/v1/models", None, {"Token": "secret-of-a-test"})[0] == 401


def test_a_web_page_of_another_origin_may_not(url: str) -> None:
    assert post(url, request(FIND), {"Origin": "https://example.org"})[0] == 403
