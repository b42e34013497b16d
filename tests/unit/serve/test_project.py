"""A project's folder: events that add up, files that survive, and what is written out of it."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion import Regions, load_recognizer
from anyregion.errors import InputError
from anyregion.io.vocabulary import load_vocabulary
from anyregion.recognizer import Recognizer
from anyregion.serve.options import ServeOptions
from anyregion.serve.project.events import ProjectState
from anyregion.serve.project.store import ProjectStore
from tests.unit.serve.conftest import photo, serving
from tests.unit.serve.test_routes import BOXES, call

LIMITS = ServeOptions()
JSON = {"Content-Type": "application/json"}


def post(url: str, path: str, body: Any, status: int = 200) -> Any:
    answered, _, content = call(url, "POST", path, json.dumps(body).encode(), JSON)
    assert answered == status, content
    return json.loads(content)


def get(url: str, path: str) -> Any:
    status, _, content = call(url, "GET", path)
    assert status == 200, content
    return json.loads(content)


def add(image: str, region: str, box: list[float] = BOXES[0]) -> dict[str, Any]:
    return {"kind": "add", "image": image, "region": region, "prompt": {"box": box}}


def named(image: str, region: str, label: str | None) -> dict[str, Any]:
    return {"kind": "name", "image": image, "region": region, "label": label}


def test_events_add_up() -> None:
    state = ProjectState()
    events = [
        {"kind": "words", "added": ["cat", "cow"], "removed": []},
        {"kind": "words", "added": ["cat"], "removed": ["cow"]},
        add("i", "a"),
        add("i", "b"),
        named("i", "a", "dog"),
        named("i", "b", None),
        {"kind": "move", "image": "i", "region": "a", "prompt": {"box": [1, 2, 3, 4]}},
        {"kind": "unname", "image": "i", "region": "b"},
        {"kind": "remove", "image": "i", "region": "nothing"},
        named("i", "nothing", "cat"),
    ]
    for event in events:
        state.apply(event)
    assert state.words == ["cat", "dog"]
    first, second = state.regions["i"].values()
    assert (first.named, first.label, first.prompt) == (True, "dog", {"box": [1, 2, 3, 4]})
    assert not second.named
    state.apply({"kind": "remove", "image": "i", "region": "a"})
    assert list(state.regions["i"]) == ["b"]


def test_all_events_of_a_request_or_none(tmp_path: Path) -> None:
    store = ProjectStore(tmp_path / "p", LIMITS)
    image = store.add_file("a.png", photo()).id
    bad: list[tuple[Any, str]] = [
        (3, "kind must be"),
        ({"kind": "paint"}, "kind must be"),
        (add("f" * 64, "a"), "no image"),
        (add([], "a"), "no image"),  # type: ignore[arg-type]
        (add(image, "../a"), "region must be an id"),
        (add(image, "a", [500, 500, 600, 600]), "outside"),
        ({**add(image, "a"), "prompt": {"boks": 1}}, "unknown 'boks'"),
        ({**add(image, "a"), "source": "heaven"}, "source must be"),
        (named(image, "a", ""), "label must be"),
        ({"kind": "words", "added": "cat"}, "list of names"),
        ({**named(image, "a", "cat"), "sure": 1}, "unknown 'sure'"),
    ]
    for event, message in bad:
        with pytest.raises(InputError, match=message) as error:
            store.append([add(image, "fine"), event], "t")
        assert str(error.value).startswith("event 1: ")
    assert store.events == []
    assert not (tmp_path / "p" / "corrections.jsonl").exists()


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    store = ProjectStore(tmp_path / "p", LIMITS)
    image = store.add_file("C:\\photos\\a.PNG", photo())
    assert (image.name, image.size) == ("a.png", (120, 160))
    assert store.add_file("again.png", photo()) == image, "by content"
    other = store.add_file("a.png", photo(1))
    assert other.name == "a-2.png"
    kept = store.append([add(image.id, "a"), named(image.id, "a", "cat")], "t")
    assert [event["seq"] for event in kept] == [1, 2]
    assert (tmp_path / "p").stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="another service"):
        ProjectStore(tmp_path / "p", LIMITS)
    store.close()
    journal = tmp_path / "p" / "corrections.jsonl"
    with journal.open("ab") as file:  # a kill in the middle of a line
        file.write(b'{"seq": 3, "kind": "rem')
    again = ProjectStore(tmp_path / "p", LIMITS)
    assert again.state.regions[image.id]["a"].label == "cat"
    assert again.images == store.images
    assert again.read(image.id) == photo()
    again.append([{"kind": "unname", "image": image.id, "region": "a"}], "t")
    again.close()
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["add", "name", "unname"]
    whole = journal.read_bytes()
    for line in (
        b"no json",
        b"[]",
        b"null",
        b'{"kind": "add"}',
        b'{"kind": "remove", "image": []}',
    ):
        journal.write_bytes(line + b"\n" + whole)
        with pytest.raises(InputError, match="line 1: damaged"):
            ProjectStore(tmp_path / "p", LIMITS)
    journal.write_bytes(whole)
    photographs = tmp_path / "p" / "images.jsonl"
    photographs.write_bytes(photographs.read_bytes() + b'{"id": "1"}\n')
    with pytest.raises(InputError, match=r"images\.jsonl, line 3: damaged"):
        ProjectStore(tmp_path / "p", LIMITS)


def test_a_folder_of_photographs_by_reference(tmp_path: Path) -> None:
    photographs = tmp_path / "photos"
    (photographs / "deep").mkdir(parents=True)
    (photographs / "a.png").write_bytes(photo())
    (photographs / "deep" / "b.png").write_bytes(photo(1))
    (photographs / "broken.jpg").write_bytes(b"no image")
    (photographs / "notes.txt").write_text("no image either")
    store = ProjectStore(tmp_path / "p", LIMITS)
    names = [None if image is None else image.name for image in store.add_folder(photographs)]
    assert names == ["a.png", None, "deep/b.png"]
    assert not (tmp_path / "p" / "photographs").exists()
    store.close()
    store = ProjectStore(tmp_path / "p", LIMITS)
    assert [image for image in store.add_folder(photographs) if image] == [], "known already"
    image = next(i for i in store.images.values() if i.name == "a.png")
    preview = store.preview(image.id, 240)
    assert preview is not None
    assert Image.open(io.BytesIO(preview)).size == (160, 120), "small ones are not enlarged"
    (photographs / "a.png").write_bytes(photo(7))
    assert store.read(image.id) is None, "another photograph under its name"


def test_names_of_photographs_can_be_written(tmp_path: Path) -> None:
    photographs, other = tmp_path / "photos", tmp_path / "other"
    photographs.mkdir()
    other.mkdir()
    (photographs / "a.png").write_bytes(photo())
    (other / "a.png").write_bytes(photo(1))
    (other / os.fsdecode(b"caf\xe9.png")).write_bytes(photo(2))
    store = ProjectStore(tmp_path / "p", LIMITS)
    for folder in (photographs, other):
        assert all(store.add_folder(folder))
    assert [image.name for image in store.images.values()] == ["a.png", "a-2.png", "caf\ufffd.png"]
    long = ("\u732b" * 90 + ".png", "\u732b" * 66 + ".png")
    for i, (name, kept) in enumerate([("..", "photograph"), (".", "photograph-2"), long]):
        assert store.add_file(name, photo(10 + i)).name == kept
    store.close()
    # the folder was moved: its photographs are found again by their content
    moved = photographs.rename(tmp_path / "moved")
    store = ProjectStore(tmp_path / "p", LIMITS)
    assert not list(store.add_folder(moved))
    store.close()
    store = ProjectStore(tmp_path / "p", LIMITS)
    first = next(iter(store.images.values()))
    assert (first.name, store.read(first.id)) == ("a.png", photo())


def test_no_photograph_is_called_as_a_folder_is(tmp_path: Path) -> None:
    """An export, which writes both, was a fault of the service from then on."""
    photographs = tmp_path / "photos"
    for i, name in enumerate(("a.png", "b.png")):
        (photographs / name / "deep").mkdir(parents=True)
        (photographs / name / "deep" / "c.png").write_bytes(photo(i))
    store = ProjectStore(tmp_path / "p", LIMITS)
    assert store.add_file("a.png", photo(5)).name == "a.png"
    added = [image.name for image in store.add_folder(photographs) if image]
    assert added == ["a.png-2/deep/c.png", "b.png/deep/c.png"]
    assert store.add_file("b.png", photo(6)).name == "b-2.png"
    names = [image.name for image in store.images.values()]
    store.close()
    again = ProjectStore(tmp_path / "p", LIMITS)
    assert [image.name for image in again.images.values()] == names


def test_nothing_that_cannot_be_answered_is_kept(compact: Recognizer, tmp_path: Path) -> None:
    with serving(compact, project=tmp_path / "p") as url:
        _, _, content = call(url, "POST", "/v1/project/images", photo(), {"X-Name": ".."})
        image = json.loads(content)["id"]
        for event, message in [
            (named(image, "a", "x\ud800"), "half a character"),
            ({**add(image, "a"), "objectness": "high"}, "objectness"),
            ({**add(image, "a"), "objectness": float(10**9)}, "objectness"),
        ]:
            body = {"since": 0, "tab": "t", "events": [event]}
            answer = post(url, "/v1/project/events", body, 400)
            assert message in answer["error"]["message"]
        body = b'{"since": 0, "tab": "\xed\xa0\x80", "events": []}'
        assert call(url, "POST", "/v1/project/events", body, JSON)[0] == 400
        whole = [add(image, "a"), named(image, "a", "\U0001f600")]
        post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": whole})
        assert get(url, "/v1/project")["words"] == ["\U0001f600"]
        # a photograph that was called ".." is written, too
        status, _, archive = call(
            url, "POST", "/v1/project/export", b'{"format": "yolo", "images": true}', JSON
        )
        assert status == 200
        for kind in (["coco"], {"coco": 1}, None):
            answer = post(url, "/v1/project/export", {"format": kind}, 400)
            assert "format must be one of" in answer["error"]["message"]
        assert "images/photograph" in zipfile.ZipFile(io.BytesIO(archive)).namelist()


def wait_for(url: str, corrections: int) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        status: dict[str, Any] = get(url, "/v1/project")
        if not status["learning"] and status["lesson"]["corrections"] == corrections:
            return status
        assert time.monotonic() < end, status
        time.sleep(0.05)


def test_names_are_learnt_and_kept(compact: Recognizer, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    with serving(compact, project=folder) as url:
        images = []
        for seed in range(3):
            headers = {"Content-Type": "application/octet-stream", "X-Name": f"{seed}.png"}
            status, _, content = call(url, "POST", "/v1/project/images", photo(seed), headers)
            assert status == 200
            images.append(json.loads(content)["id"])
        first, second, third = images
        events = [{"kind": "words", "added": ["cat", "bus"]}]
        events += [add(image, f"r{i}", box) for image in images for i, box in enumerate(BOXES)]
        answer = post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": events})
        assert answer["seq"] == len(answer["events"]) == 7
        wait_for(url, 0)
        before = post(url, f"/v1/project/images/{third}/names", {})
        assert set(before["regions"]) == {"r0", "r1"}
        (expected,) = compact.recognize([photo(2)], [Regions.from_boxes(BOXES)], ["cat", "bus"])
        assert before["regions"]["r0"]["labels"] == list(expected[0].labels)
        assert before["regions"]["r0"]["scores"] == pytest.approx(expected[0].scores, abs=1e-5)
        for image in (first, second):
            post(url, f"/v1/project/images/{image}/names", {})
        queue = get(url, "/v1/project/queue")["regions"]
        assert len(queue) == 6
        lesson = [named(first, "r0", "rug"), named(first, "r1", None), named(second, "r0", "rug")]
        post(url, "/v1/project/events", {"since": 7, "tab": "t", "events": lesson})
        status = wait_for(url, 3)
        by_words = compact.recognize(
            [photo(0), photo(1)], [Regions.from_boxes(BOXES[:1])] * 2, ["cat", "bus", "rug"]
        )
        right = sum(p.labels == ["rug"] for p in by_words) / 2
        assert status["lesson"]["by_words"] == right
        assert status["words"] == ["cat", "bus", "rug"]
        after = post(url, f"/v1/project/images/{third}/names", {})
        assert after["revision"] > before["revision"]
        assert after["regions"]["r0"]["labels"][0] == "rug"
        alike = post(url, "/v1/project/alike", {"image": first, "region": "r0"})["regions"]
        assert {(a["image"], a["region"]) for a in alike} == {
            (second, "r1"), (third, "r0"), (third, "r1")
        }  # fmt: skip
        assert [a["likeness"] for a in alike] == sorted(
            (a["likeness"] for a in alike), reverse=True
        )
        # taken back, and moved
        undone = [
            {"kind": "unname", "image": second, "region": "r0"},
            {"kind": "move", "image": first, "region": "r0", "prompt": {"box": [1, 1, 80, 80]}},
        ]
        post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": undone})
        wait_for(url, 2)
    # the same from its files alone, and the vocabulary for the command line
    with serving(compact, project=folder) as url:
        status = wait_for(url, 2)
        assert [image["named"] for image in status["images"]] == [2, 0, 0]
        again = post(url, f"/v1/project/images/{third}/names", {})
    taught = load_vocabulary(folder / "vocabulary.vocab")
    (names,) = compact.recognize([photo(2)], [Regions.from_boxes(BOXES)], taught)
    assert again["regions"]["r0"]["labels"][0] == names[0].label


def test_export_masks_found_regions_and_previews(compact: Recognizer, tmp_path: Path) -> None:
    with serving(compact, project=tmp_path / "p") as url:
        headers = {"Content-Type": "application/octet-stream", "X-Name": "a%20b.png"}
        image = json.loads(call(url, "POST", "/v1/project/images", photo(), headers)[2])["id"]
        post(url, "/v1/project/export", {"format": "coco"}, 400)
        events = [
            add(image, "a"),
            {**add(image, "p"), "prompt": {"points": [[80, 60]], "labels": [1]}},
            add(image, "n", BOXES[1]),
            named(image, "a", "cat"),
            named(image, "p", "dog"),
            named(image, "n", None),
        ]
        post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": events})
        masks = post(url, f"/v1/project/images/{image}/masks", {})["regions"]
        assert set(masks) == {"a", "p", "n"}
        found = post(url, f"/v1/project/images/{image}/find", {})["regions"]
        assert all(len(region["box"]) == 4 for region in found)
        for name in get(url, "/v1/project")["formats"]:
            body = {"format": name, "masks": True, "images": True}
            status, answered, content = call(
                url, "POST", "/v1/project/export", json.dumps(body).encode(), JSON
            )
            assert status == 200, (name, content)
            assert answered["content-type"] == "application/zip"
            files = zipfile.ZipFile(io.BytesIO(content))
            assert files.testzip() is None
            if name == "coco":
                coco = json.loads(files.read("annotations.json"))
                labels = {c["id"]: c["name"] for c in coco["categories"]}
                written = [labels[a["category_id"]] for a in coco["annotations"]]
                assert sorted(written) == ["cat", "dog"], "none of these is none of them"
                assert coco["images"][0]["file_name"] == "a b.png"
        status, headers, content = call(url, "GET", f"/v1/project/images/{image}/file?side=240")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert call(url, "GET", f"/v1/project/images/{image}/file?side=9999")[0] == 400
        assert call(url, "GET", "/v1/project/images/nothing/file")[0] == 404
    assert list(Path("/tmp").glob("anyregion-export-*")) == []


def test_a_photograph_that_is_gone_ends_no_export(compact: Recognizer, tmp_path: Path) -> None:
    photographs = tmp_path / "photos"
    photographs.mkdir()
    for i in range(2):
        (photographs / f"{i}.png").write_bytes(photo(i))
    with serving(compact, project=tmp_path / "p", photographs=photographs) as url:
        wait_for(url, 0)
        while len(images := get(url, "/v1/project")["images"]) < 2:
            time.sleep(0.05)
        (photographs / "0.png").unlink()
        events = [e for i in images for e in (add(i["id"], "a"), named(i["id"], "a", "cat"))]
        post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": events})
        body = b'{"format": "coco", "masks": true}'
        status, _, content = call(url, "POST", "/v1/project/export", body, JSON)
    assert status == 200, content
    files = zipfile.ZipFile(io.BytesIO(content))
    assert len(json.loads(files.read("annotations.json"))["annotations"]) == 2
    assert files.read("left-out.txt").decode().startswith("0.png: no masks: its file is gone")


def test_the_page_and_nothing_else_of_the_disk(compact: Recognizer, tmp_path: Path) -> None:
    with serving(compact, project=tmp_path / "p") as url:
        status, headers, content = call(url, "GET", "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'self'" in headers["content-security-policy"]
        assert b"http://" not in content.replace(b'xmlns="http://', b"")
        for name in ("main.js", "style.css", "icon.svg"):
            assert call(url, "GET", f"/page/{name}")[0] == 200
        for path in ("/page/../page.py", "/page/%2e%2e/page.py", "/page/", "/page/nothing.js"):
            assert call(url, "GET", path)[0] == 404, path
        words = get(url, "/v1/words")["words"]
        assert ["traffic light"] in [word[:1] for word in words]
    with serving(compact) as url:
        assert call(url, "GET", "/")[0] == 404, "no project, no page"


def test_one_name_alone_floods_nothing(compact: Recognizer, tmp_path: Path) -> None:
    """The first correction says what one region is, not that all others are the same."""
    from anyregion.teaching.teacher import Teacher

    recognizer = load_recognizer(cache=None)
    example = Path(__file__).parents[3] / "examples"
    teacher = Teacher(recognizer, ["person", "helmet", "cat", "cup"])
    astronaut = Regions.from_boxes([[322, 355, 492, 498]])
    teacher.add(example / "astronaut.jpg", astronaut, ["helmet"])
    (cat,) = recognizer.recognize(
        [example / "cat.jpg"], [Regions.from_boxes([[20, 20, 400, 280]])], teacher.vocabulary()
    )
    assert cat.labels == ["cat"]
