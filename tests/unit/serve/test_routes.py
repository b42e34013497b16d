"""Routes of the service, through its client: equal to the recogniser, and as OpenAPI describes."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

jsonschema = pytest.importorskip("jsonschema")

from anyregion import Regions  # noqa: E402
from anyregion.masks import encode_mask  # noqa: E402
from anyregion.recognizer import Recognizer  # noqa: E402
from anyregion.serve.client import Client, ServiceError  # noqa: E402
from tests.unit.serve.conftest import photo, serving  # noqa: E402

BOXES = [[5, 8, 60, 70], [40.5, 20, 150, 110]]
NAMES = ["cat", "bus", "a red hat"]


def regions(**more: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "box": box, **more} for i, box in enumerate(BOXES)]


def call(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers, content."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def described(url: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(call(url, "GET", "/openapi.json")[2])
    return description


def check(described: dict[str, Any], name: str, value: Any) -> None:
    """Hold an answer to its schema."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_regions_are_named_as_by_the_recogniser(
    compact: Recognizer, client: Client, described: dict[str, Any]
) -> None:
    image = client.add_image(photo())
    answers = client.name(image, regions(), NAMES, top_k=2)
    check(described, "NamedRegions", {"image": image, "regions": answers})
    (expected,) = compact.recognize(
        [photo()], [Regions.from_boxes(BOXES, ids=["r0", "r1"])], NAMES, top_k=2
    )
    assert [{**record, "refused": False} for record in expected.to_records()] == answers


def test_prompts_of_every_kind(
    compact: Recognizer, client: Client, described: dict[str, Any]
) -> None:
    image = client.add_image(photo(1))
    mask = np.zeros((120, 160), dtype=bool)
    mask[30:80, 20:100] = True
    outline = [[20, 30, 100, 30, 100, 80, 20, 80]]
    prompts = [
        {"points": [[50, 50], [100, 20]], "labels": [1, 0]},
        {"mask": encode_mask(mask)},
        {"mask": outline},
        {"box": BOXES[0], "points": [[20, 20]]},
    ]
    answers = client.name(image, prompts, NAMES, masks=True)
    check(described, "NamedRegions", {"image": image, "regions": answers})
    assert [a["id"] for a in answers] == [0, 1, 2, 3]
    assert all(a["mask"]["size"] == [120, 160] for a in answers)
    # two rows of one product may differ in their last bit
    polygon = pytest.approx(answers[2]["scores"], abs=2e-6)
    assert answers[1]["scores"] == polygon, "a polygon is its mask"
    (expected,) = compact.recognize(
        [photo(1)],
        [
            Regions.from_prompts(
                boxes=[*np.full((3, 4), np.nan), BOXES[0]],
                points=[[[50, 50], [100, 20]], None, None, [[20, 20]]],
                point_labels=[[1, 0], None, None, None],
                masks=[None, mask, mask, None],
            )
        ],
        NAMES,
        masks=True,
    )
    assert [a["scores"] for a in answers] == [r["scores"] for r in expected.to_records()]
    assert client.name(image, [], NAMES) == []


def test_vocabularies(client: Client, url: str, described: dict[str, Any]) -> None:
    image = client.add_image(photo())
    known = client.name(image, regions())  # the names that the model knows
    assert known[0]["labels"] == client.name(image, regions(), "coco")[0]["labels"]
    check(described, "Vocabulary", client.make_vocabulary("mine", NAMES))
    with pytest.raises(ServiceError, match="already") as error:
        client.make_vocabulary("mine", ["dog"])
    assert error.value.status == 400
    listed = json.loads(call(url, "GET", "/v1/vocabularies")[2])
    check(described, "Vocabularies", listed)
    assert listed["vocabularies"] == ["mine"]
    assert listed["built_in"]["coco"] == 80
    assert client.name(image, regions(), "mine") == client.name(image, regions(), NAMES)
    client.delete_vocabulary("mine")
    with pytest.raises(ServiceError, match="no vocabulary 'mine'"):
        client.vocabulary("mine")
    with pytest.raises(ServiceError, match="no vocabulary 'mine'"):
        client.name(image, regions(), "mine")
    for name in ("../evil", "coco", "x" * 65, ".hidden"):
        with pytest.raises(ServiceError):
            client.make_vocabulary(name, NAMES)


def test_teaching_counts_at_once_and_is_kept(
    compact: Recognizer, tmp_path: Path, described: dict[str, Any]
) -> None:
    folder = tmp_path / "vocabularies"
    with serving(compact, folder=folder) as url, Client(url) as client:
        client.make_vocabulary("mine", NAMES)
        images = [client.add_image(photo(seed)) for seed in range(3)]
        before = client.name(images[2], regions(), "mine")
        for image in images[:2]:
            right = [
                {**r, "label": label} for r, label in zip(regions(), ["rug", None], strict=True)
            ]
            taught = client.teach("mine", image, right)
        check(described, "Taught", taught)
        assert (taught["added"], taught["corrections"]) == (2, 4)
        assert taught["names"] == [*NAMES, "rug"]
        after = client.name(images[2], regions(), "mine")
        check(described, "NamedRegions", {"image": images[2], "regions": after})
        assert after != before
        assert after[0]["label"] == "rug"
        assert all(0 <= a["none"] <= 1 for a in after)
        again = client.teach("mine", images[0], right)
        assert (again["added"], again["corrections"]) == (0, 4), "known regions are named anew"
        with pytest.raises(ServiceError, match="correction"):
            client.forget("mine", images[2])
        assert client.forget("mine", images[1])["corrections"] == 2
    # another process
    with serving(compact, folder=folder) as url, Client(url) as client:
        assert client.vocabulary("mine")["corrections"] == 2
        with pytest.raises(ServiceError) as error:
            client.name(images[2], regions(), "mine")
        assert error.value.status == 404, "images are of one run"
        client.add_image(photo(2))
        assert client.name(images[2], regions(), "mine")[0]["labels"]
        assert client.teach("mine", client.add_image(photo(1)), right)["corrections"] == 4


def test_a_failed_lesson_teaches_nothing(compact: Recognizer, tmp_path: Path) -> None:
    for folder in (None, tmp_path / "kept"):
        with serving(compact, folder=folder) as url, Client(url) as client:
            client.make_vocabulary("mine", NAMES)
            image = client.add_image(photo())
            right = [{**r, "label": "cat"} for r in regions()]
            client.teach("mine", image, right)
            body = {
                "vocabulary": "mine",
                "corrections": [
                    {"image": image, "regions": [{"box": [1, 1, 50, 50], "label": "bus"}]},
                ],
                "forget": [{"image": image}, {"image": "0" * 64}],
            }
            headers = {"Content-Type": "application/json"}
            status, _, content = call(url, "POST", "/v1/teach", json.dumps(body).encode(), headers)
            assert status == 400, content
            assert client.vocabulary("mine")["corrections"] == 2


def test_two_services_of_one_folder_do_not_overwrite_each_other(
    compact: Recognizer, tmp_path: Path
) -> None:
    with (
        serving(compact, folder=tmp_path) as first,
        serving(compact, folder=tmp_path) as second,
        Client(first) as one,
        Client(second) as two,
    ):
        one.make_vocabulary("mine", NAMES)
        for i, client in enumerate((one, two, one, two)):
            image = client.add_image(photo(i))
            client.teach("mine", image, [{"box": BOXES[0], "label": "cat"}])
        assert one.vocabulary("mine")["corrections"] == two.vocabulary("mine")["corrections"] == 4


def test_regions_are_found_and_named(
    client: Client, described: dict[str, Any], compact: Recognizer
) -> None:
    from anyregion.factory import load_proposer
    from anyregion.images import read_image

    image = client.add_image(photo(4))
    plain = client.find(image)
    check(described, "FoundRegions", {"image": image, "regions": plain})
    expected = load_proposer(recognizer=compact).propose(read_image(photo(4)))
    assert expected.scores is not None
    np.testing.assert_allclose([r["box"] for r in plain], expected.boxes, atol=1e-3)
    np.testing.assert_allclose([r["objectness"] for r in plain], expected.scores, atol=1e-5)
    few = client.find(image, most=2, min_objectness=0.0)
    assert len(few) == 2
    named = client.find(image, vocabulary=NAMES, most=20, min_objectness=0.0, top_k=1)
    check(described, "FoundRegions", {"image": image, "regions": named})
    assert 0 < len(named) <= 20
    assert {r["label"] for r in named} <= set(NAMES)


def test_small_memory_encodes_again(compact: Recognizer) -> None:
    with serving(compact, image_memory=1) as url, Client(url) as client:
        images = [client.add_image(photo(seed)) for seed in range(3)]
        first = [client.name(image, regions(), NAMES) for image in images]
        assert [client.name(image, regions(), NAMES) for image in images] == first
        text = call(url, "GET", "/metrics")[2].decode()
        assert "anyregion_images 1\n" in text
    with serving(compact, image_memory=1, upload_space=1) as url, Client(url) as client:
        images = [client.add_image(photo(seed)) for seed in range(2)]
        with pytest.raises(ServiceError, match="send it again"):
            client.name(images[0], regions(), NAMES)


def test_every_route_is_described(url: str, described: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(
        {"components": described["components"], "$ref": "#/components/schemas/Region"}
    )
    for path, operations in described["paths"].items():
        at = path.replace("{image}", "0" * 64).replace("{name}", "nothing")
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            status, _, content = call(url, method, at, b"{}" if method in ("POST", "PUT") else None)
            if method.lower() in operations:
                assert status != 405, (method, path)
            else:
                assert status == 405, (method, path)
            if status >= 400:
                check(described, "Error", json.loads(content))
    assert call(url, "GET", "/nothing")[0] == 404


def test_status_and_metrics(url: str, client: Client, described: dict[str, Any]) -> None:
    client.name(client.add_image(photo()), regions(), NAMES)
    check(described, "Health", client.health())
    assert client.health()["status"] == "ok"
    models = json.loads(call(url, "GET", "/v1/models")[2])
    check(described, "Models", models)
    assert models["models"][0]["names"] == 80
    status, headers, content = call(url, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = content.decode().splitlines()
    route = "/v1/images/{image}/regions"
    counted = f'anyregion_requests_total{{method="POST",route="{route}",status="200"}} '
    assert any(line.startswith(counted) for line in lines)
    assert not any("0" * 64 in line for line in lines), "ids are no labels"
    for line in lines:
        assert line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0


@pytest.fixture
def closed(compact: Recognizer) -> Iterator[str]:
    with serving(compact, token="a long secret") as url:
        yield url


def test_a_token(closed: str) -> None:
    assert call(closed, "GET", "/health")[0] == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "a long secret"}):
        status, answered, _ = call(closed, "GET", "/v1/models", headers=headers)
        assert (status, answered["www-authenticate"]) == (401, "Bearer")
    with Client(closed, token="a long secret") as client:
        assert client.name(client.add_image(photo()), regions(), NAMES)
