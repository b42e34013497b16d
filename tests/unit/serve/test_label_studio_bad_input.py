"""What the back end of Label Studio refuses, and how it says so."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")

from anyregion.recognizer import Recognizer
from tests.helpers.label_studio import (
    RECORDED,
    FakeLabelStudio,
    interface,
    post,
    predict,
    recorded,
    tag,
)
from tests.unit.serve.conftest import place, serving
from tests.unit.serve.test_routes import call


def test_the_token_may_be_a_password(compact: Recognizer, studio: FakeLabelStudio) -> None:
    secret = "a long secret"

    def basic(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    with serving(compact, label_studio=place(studio), token=secret) as url:
        for headers in (
            {}, basic("any:wrong"), basic(secret), {"Authorization": "Basic ?"},
            {"Authorization": f"Basic {secret}"},
        ):  # fmt: skip
            for method, path in (("GET", "health"), ("POST", "predict"), ("POST", "webhook")):
                assert call(url, method, f"/label-studio/{path}", headers=headers)[0] == 401
        assert call(url, "GET", "/label-studio/health", headers=basic(f"any:{secret}"))[0] == 200
        assert post(url, "setup", recorded("setup"), **basic(f":{secret}"))
        bearer = {"Authorization": f"Bearer {secret}"}
        assert call(url, "GET", "/label-studio/health", headers=bearer)[0] == 200
        assert call(url, "GET", "/v1/models", headers=basic(f"any:{secret}"))[0] == 401


def test_pages_of_others_may_not_use_it(backend: str) -> None:
    body = json.dumps(recorded("predict")).encode()
    plain = {"Content-Type": "text/plain"}
    assert call(backend, "POST", "/label-studio/predict", body, plain)[0] == 400
    foreign = {"Content-Type": "application/json", "Origin": "https://example.org"}
    assert call(backend, "POST", "/label-studio/webhook", body, foreign)[0] == 403
    assert call(backend, "GET", "/label-studio/health", headers={"Host": "evil.example"})[0] == 421


BOX = RECORDED["predict"]["tasks"][0]["annotations"][0]["result"][0]


def changed(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        for key in path[:-1]:
            body = body[key]
        if value is KeyError:
            del body[path[-1]]
        else:
            body[path[-1]] = value

    return change


TASK = ("tasks", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(5, "project"), "project must be"),
        (changed("../evil", "project"), "project must be"),
        (changed(None, "label_config"), "label_config must be a text"),
        (changed({}, "tasks"), "tasks must be a list"),
        (changed([5], "tasks"), "tasks must be a list"),
    ],
)
def test_a_request_that_is_none(backend: str, change: Callable[[Any], None], message: str) -> None:
    body = recorded("predict")
    change(body)
    headers = {"Content-Type": "application/json"}
    status, _, content = call(
        backend, "POST", "/label-studio/predict", json.dumps(body).encode(), headers
    )
    assert status == 400
    assert message in json.loads(content)["error"]["message"]


RESULT = (*TASK, "annotations", 0, "result")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("<View>", "label_config"), "malformed XML"),
        (changed('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "label_config"), "document type"),
        (changed("<View/>", "label_config"), "no Image"),
        (changed(interface('<Image name="b" value="$b"/>'), "label_config"), "several images"),
        (changed(interface().replace("value=", "valueList="), "label_config"), "several"),
        (changed(interface().replace("$image", "image"), "label_config"), r"must be \$"),
        (changed(interface(tag("RectangleLabels", more='model_score_threshold="x"')),
                 "label_config"), "model_score_threshold"),
        (changed(interface(tag("RectangleLabels")), "label_config"), "no labels"),
        (changed(interface('<Choices name="c" toName="img"><Choice value="a"/></Choices>'),
                 "label_config"), "no tag that regions"),
        (changed(interface(tag("RectangleLabels", "a", more='model_vocabulary="none"')),
                 "label_config"),
         "no vocabulary 'none'"),
        (changed(KeyError, *TASK, "data"), "no address"),
        (changed({"image": ["a.jpg", "b.jpg"]}, *TASK, "data"), "only tasks of one image"),
        (changed({"other": "/data/upload/1/a.jpg"}, *TASK, "data"), "no address"),
        (changed({"image": "data:image/png;base64,AAAA"}, *TASK, "data"), "image"),
        (changed([{**BOX, "value": {}}, {**BOX, "id": "b", "value": {**BOX["value"], "x": None}}],
                 *RESULT), "not a finite number"),
        (changed([{**BOX, "value": {**BOX["value"], "x": 120}}], *RESULT), "outside"),
        (changed([{**BOX, "value": {**BOX["value"], "x": 1e300}}], *RESULT), "no place"),
        (changed([{**BOX, "image_rotation": 90}], *RESULT), "turned by 90"),
        (changed([{**BOX, "type": "brushlabels", "from_name": "brush",
                   "value": {"format": "rle", "rle": [0, 0]}}], *RESULT), "rle ends"),
        (changed([{**BOX, "type": "brushlabels", "from_name": "brush",
                   "value": {"format": "png", "rle": [0, 0]}}], *RESULT), "not rle"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_named(
    backend: str, change: Callable[[Any], None], message: str
) -> None:

    body = recorded("predict")
    body["tasks"] = body["tasks"][:1]
    change(body)
    (answer,) = predict(backend, body)
    assert set(answer) == {"error"}
    assert re.search(message, answer["error"]), answer["error"]
    body["params"]["context"] = {"result": recorded("predict_interactive")["params"]["context"]}
    (answer,) = predict(backend, body)
    assert answer["result"] == [] or "error" not in answer, "a page that draws takes a list"


def test_one_region_of_many_that_is_wrong(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    body = recorded("predict")
    body["tasks"] = body["tasks"][:1]
    results = body["tasks"][0]["annotations"][0]["result"]
    wrong: list[Any] = [
        5, None, {"type": "relation", "from_id": "a", "to_id": "b"},
        {**BOX, "id": "tall", "value": {**BOX["value"], "height": "x"}},
        {**BOX, "id": "listed", "value": [1]},
        {"id": "c", "type": "choices", "from_name": "x", "value": {"choices": ["a"]}},
    ]  # fmt: skip
    body["tasks"][0]["annotations"][0]["result"] = [*wrong, *results]
    with caplog.at_level(logging.WARNING, "anyregion.serve"):
        (answer,) = predict(backend, body)
    assert [r["id"] for r in answer["result"]] == [r["id"] for r in results]
    assert "region tall" in caplog.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (changed("SOMETHING_ELSE", "action"), "ignored"),
        (changed(KeyError, "action"), "ignored"),
        (changed(KeyError, "project"), 400),
        (changed(KeyError, "project", "created_at"), 400),
        (changed("x", "project", "id"), 400),
        (changed("<View/>", "project", "label_config"), "ignored"),
        (changed(KeyError, "annotation"), 400),
        (changed([], "annotation"), 400),
        (changed("x", "annotation", "id"), 400),
        (changed({}, "annotation", "result"), 400),
        (changed([], "task", "data"), 400),
    ],
)
def test_a_webhook_that_teaches_nothing(
    backend: str, change: Callable[[Any], None], status: int | str
) -> None:
    body = recorded("ANNOTATION_CREATED")
    change(body)
    if isinstance(status, str):
        assert post(backend, "webhook", body) == {"status": status}
        return
    headers = {"Content-Type": "application/json"}
    answer = call(backend, "POST", "/label-studio/webhook", json.dumps(body).encode(), headers)
    assert answer[0] == status
    assert json.loads(answer[2])["error"]["code"] == "bad_input"
