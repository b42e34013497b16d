"""`anyregion cvat name` and `restore` against a server that answers as CVAT does."""

from __future__ import annotations

import io
import json
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion.cli.main import main
from anyregion.errors import AnyRegionError, InputError
from anyregion.integrations import cvat_server
from anyregion.integrations.cvat_naming import CvatNameOptions, CvatNameReport, name_task
from anyregion.integrations.cvat_server import CvatConnection, CvatError, CvatServer
from anyregion.integrations.cvat_shapes import shape_box
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from tests.helpers.fake_cvat import PASSWORD, TOKEN, FakeCvat
from tests.unit.integrations.conftest import PHOTOS

KEPT = ("type", "points", "rotation", "frame", "occluded", "outside", "z_order", "group", "source")


def by_place(fake: FakeCvat) -> dict[Any, dict[str, Any]]:
    """Shapes by what no naming changes."""
    return {json.dumps([s[k] for k in KEPT]): s for s in fake.annotations["shapes"]}


def name(
    fake: FakeCvat, compact: Recognizer, tmp_path: Path, *, job: int | None = None, **options: Any
) -> CvatNameReport:
    server = CvatServer.connect(CvatConnection(host=fake.url))
    target = server.target(7, job)
    return name_task(
        server, target, compact, options.pop("vocabulary", None), CvatNameOptions(**options),
        backup=tmp_path / "backup.json",
    )  # fmt: skip


def test_shapes_get_the_names_of_the_recogniser(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    before, original = by_place(cvat), json.loads(json.dumps(cvat.annotations))
    report = name(cvat, compact, tmp_path, only_labels=("object",))
    after = by_place(cvat)
    # everything but label, attributes and the server's own id is as it was
    assert after.keys() == before.keys()
    assert report.shapes == 8
    assert report.named == 5
    assert report.others == 3  # a polyline, points, and a shape that is a person already
    assert (report.tracks, report.tags) == (1, 1)
    assert cvat.annotations["tracks"] == original["tracks"]
    assert cvat.annotations["tags"] == original["tags"]
    names = {label["id"]: label["name"] for label in cvat.labels}
    for place, shape in before.items():
        label = names[after[place]["label_id"]]
        if shape["type"] in ("polyline", "points") or shape["label_id"] != 1:
            assert after[place] == shape
            continue
        words = ["cat", "cup", "person"] + ["outline only"] * (shape["type"] == "polygon")
        with Image.open(PHOTOS[shape["frame"]]) as image:
            (expected,) = compact.recognize(
                [image], [Regions.from_boxes([shape_box(shape)])], words
            )
        assert label == expected.labels[0]
    # one request, of the shapes that change alone
    (patch,) = cvat.patches
    assert patch["query"] == {"action": "update"}
    assert {s["id"] for s in patch["body"]["shapes"]} == {1, 2, 3, 4, 8}
    backup = json.loads((tmp_path / "backup.json").read_text())
    assert backup["annotations"] == original
    assert stat.S_IMODE((tmp_path / "backup.json").stat().st_mode) == 0o600
    assert report.backup == tmp_path / "backup.json"


@pytest.mark.parametrize("label", ["cat", "cup", "person"])
def test_attributes_stay_where_the_label_can_hold_them(
    label: str, cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    # the one label that there is, so that it is the name
    cvat.labels[:] = [entry for entry in cvat.labels if entry["name"] in ("object", label)]
    cvat.annotations["shapes"] = cvat.annotations["shapes"][:1]
    report = name(cvat, compact, tmp_path, only_labels=("object",), score="softmax")
    (shape,) = cvat.annotations["shapes"]
    values = {v["spec_id"]: v["value"] for v in shape["attributes"]}
    # the one name of a softmax scores 1
    expected = {"cat": {21: "100", 22: "blue"}, "cup": {31: "1.000"}, "person": {}}
    assert values == expected[label]
    lost = {"note": 1} if label == "cat" else {"note": 1, "colour": 1}
    assert report.lost_attributes == lost


def test_nothing_is_written_in_a_dry_run(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    report = name(cvat, compact, tmp_path, dry_run=True)
    assert report.named == 6
    assert {method for method, _ in cvat.requests} == {"GET"}
    assert list(tmp_path.glob("backup*")) == []


def test_refused_shapes_stay_and_are_counted(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    before = json.loads(json.dumps(cvat.annotations))
    report = name(cvat, compact, tmp_path, min_score=1.0)
    assert (report.refused, report.named, report.backup) == (6, 0, None)
    assert cvat.annotations == before


def test_a_name_that_is_no_label_changes_nothing(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    report = name(cvat, compact, tmp_path, vocabulary=["a word that is no label"])
    assert report.no_label == {"a word that is no label": 6}
    assert cvat.patches == []
    # names are compared as everywhere; a label that is for outlines alone names no rectangle
    report = name(cvat, compact, tmp_path, vocabulary=["Outline_only"])
    assert report.no_label == {"Outline_only": 5}
    assert report.names == {"outline only": 1}


def test_only_the_shapes_of_a_job(cvat: FakeCvat, compact: Recognizer, tmp_path: Path) -> None:
    report = name(cvat, compact, tmp_path, job=70)
    assert (report.shapes, report.named) == (1, 1)
    assert ("PATCH", "/api/jobs/70/annotations") in cvat.requests
    assert ("PATCH", "/api/tasks/7/annotations") not in cvat.requests


def test_what_others_change_meanwhile_is_not_touched(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    def meanwhile(fake: FakeCvat) -> None:
        shapes = fake.annotations["shapes"]
        shapes[0]["points"] = [1.0, 1.0, 30.0, 30.0]
        del shapes[1]

    cvat.meanwhile = meanwhile
    report = name(cvat, compact, tmp_path)
    assert (report.changed, report.named) == (2, 4)
    written = {s["id"] for s in cvat.patches[0]["body"]["shapes"]}
    assert not written & {1, 2}
    assert [s["points"] for s in cvat.annotations["shapes"] if s["id"] == 1] == [[1, 1, 30, 30]]


def test_shapes_and_frames_that_are_broken_are_set_aside(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    shapes = cvat.annotations["shapes"]
    shapes[0]["points"] = [5, 5]
    shapes[1]["points"] = [9, 9, 9, 9, 9, 9]
    cvat.frames[PHOTOS[1].name] = b"no image"
    report = name(cvat, compact, tmp_path)
    assert len(report.set_aside) == 3
    assert {item.item for item in report.set_aside} == {
        f"{PHOTOS[0].name}, shape 1", f"{PHOTOS[0].name}, shape 2", PHOTOS[1].name,
    }  # fmt: skip
    assert report.named == 3


def test_an_image_of_another_size_is_set_aside(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    cvat.sizes[1] = (11, 12)
    report = name(cvat, compact, tmp_path)
    (item,) = report.set_aside
    assert "CVAT says 12 x 11" in item.reason


def test_deleted_frames_are_left(cvat: FakeCvat, compact: Recognizer, tmp_path: Path) -> None:
    cvat.deleted = [1]
    report = name(cvat, compact, tmp_path)
    assert report.others == 3
    assert ("GET", "/api/tasks/7/data") in cvat.requests
    assert cvat.requests.count(("GET", "/api/tasks/7/data")) == 1


def test_masks_are_prompts_if_wanted(cvat: FakeCvat, compact: Recognizer, tmp_path: Path) -> None:
    report = name(cvat, compact, tmp_path, use_masks=True)
    assert (report.named, report.set_aside) == (6, [])


def run(cvat: FakeCvat, *words: str) -> int:
    return main(["cvat", *words, "--host", cvat.url])


def test_the_command_names_and_restores(
    cvat: FakeCvat,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    original = by_place(cvat)
    assert run(cvat, "name", "7", "--only-label", "object", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["named"] == 5
    changed = by_place(cvat)
    # the server gave new ids: shapes are known by their place
    assert {s["id"] for s in changed.values()} != {s["id"] for s in original.values()}
    # one is moved by hand since: it is not put back
    moved = next(s for s in cvat.annotations["shapes"] if s["type"] == "mask")
    moved["points"] = [0, 1, 5, 5, 5, 5]
    assert run(cvat, "restore", report["backup"], "--json", "--dry-run") == 3
    assert json.loads(capsys.readouterr().out) == {"restored": 4, "same": 0, "gone": 1}
    assert run(cvat, "restore", report["backup"]) == 3
    assert "put back" in capsys.readouterr().out
    restored = by_place(cvat)
    for place, shape in original.items():
        if shape["type"] != "mask":
            assert {**restored[place], "id": 0} == {**shape, "id": 0}
    assert run(cvat, "restore", report["backup"], "--json") == 3
    assert json.loads(capsys.readouterr().out) == {"restored": 0, "same": 4, "gone": 1}


def test_a_backup_that_was_edited_puts_nothing_back(
    cvat: FakeCvat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = tmp_path / "saved.json"
    assert run(cvat, "name", "7", "--only-label", "object", "--backup", str(backup)) == 0
    whole = json.loads(backup.read_text())
    shape = whole["annotations"]["shapes"][0]
    named = by_place(cvat)
    for change in (
        {"host": None}, {"task": "7"}, {"job": []}, {"named": [[]]}, {"named": 3},
        {"annotations": []}, {"annotations": {"shapes": [{**shape, "frame": None}]}},
        {"annotations": {"shapes": [{**shape, "attributes": [{"value": "x"}]}]}},
        {"annotations": {"shapes": [{**shape, "rotation": "x"}]}},
    ):  # fmt: skip
        backup.write_text(json.dumps({**whole, **change}))
        assert run(cvat, "restore", str(backup)) == 1
        assert "edited or damaged" in capsys.readouterr().err
    assert by_place(cvat) == named
    whole["annotations"]["shapes"][0]["points"] = True
    backup.write_text(json.dumps(whole))
    assert run(cvat, "restore", str(backup)) == 3  # a shape of that place is gone


def test_the_command_prints_what_was_done(
    cvat: FakeCvat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    backup = tmp_path / "saved.json"
    words = ("name", "7", "--vocabulary", "cat, dragon", "--backup", str(backup))
    assert run(cvat, *words) == 0
    printed = capsys.readouterr()
    assert "cat" in printed.out
    assert str(backup) in printed.out
    assert TOKEN not in printed.out + printed.err
    # a second time the backup is there already
    assert run(cvat, *words) == 1
    assert "overwrites nothing" in capsys.readouterr().err


REFUSED = {
    "no such task": ({}, ("name", "8"), "task 8: CVAT knows none"),
    "another task's job": ({}, ("name", "7", "--job", "71"), "job 71: CVAT knows none"),
    "no such label": ({}, ("name", "7", "--only-label", "cat!"), "no label 'cat!': it has object"),
    "forbidden": (
        {("GET", "/api/tasks/7/annotations"): (403, '{"detail": "no"}')},
        ("name", "7"), "CVAT refuses (403)",
    ),
    "broken server": (
        {("PATCH", "/api/tasks/7/annotations"): (500, "<html>oops</html>")},
        ("name", "7"), "Written until then: 0 of",
    ),
    "no JSON": (
        {("GET", "/api/tasks/7/annotations"): (200, "<html>")}, ("name", "7"), "not what cvat-sdk",
    ),
    "shapes without a frame": (
        {("GET", "/api/tasks/7/annotations"): (200, '{"shapes": [{"id": 1, "type": "mask"}]}')},
        ("name", "7"), "not in CVAT's form",
    ),
    "shapes that are lists": (
        {("GET", "/api/tasks/7/annotations"): (200, '{"shapes": [[]]}')},
        ("name", "7"), "not in CVAT's form",
    ),
    "a task without what the SDK needs": (
        {("GET", "/api/tasks/7"): (200, '{"id": 7, "jobs": {"count": 1}}')},
        ("name", "7"), "not what cvat-sdk",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refusals_are_said_without_secrets(
    case: str,
    cvat: FakeCvat,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse, words, text = REFUSED[case]
    cvat.refuse = dict(refuse)
    assert run(cvat, *words) == 1
    printed = capsys.readouterr()
    assert text in printed.err
    assert "cookie-of-this-test" not in printed.out + printed.err
    assert TOKEN not in printed.out + printed.err


def test_who_asks_has_to_be_said(
    cvat: FakeCvat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "another-secret")
    assert run(cvat, "name", "7") == 1
    error = capsys.readouterr().err
    assert "CVAT refuses (401)" in error
    assert "another-secret" not in error
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    with pytest.raises(InputError, match="variable CVAT_ACCESS_TOKEN to a personal access token"):
        CvatServer.connect(CvatConnection(host=cvat.url))
    assert run(cvat, "name", "7") == 1
    error = capsys.readouterr().err
    for way in ("Profile, Security", "--auth USER", "variable PASS", "--profile NAME"):
        assert way in error
    monkeypatch.delenv("PASS", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InputError, match="no password for ann"):
        CvatServer.connect(CvatConnection(host=cvat.url, user="ann"))


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "x")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(CvatError, match="cannot be reached"):
        CvatServer.connect(CvatConnection(host="http://127.0.0.1:9")).target(7)
    with pytest.raises(AnyRegionError, match="schema"):
        CvatServer.connect(CvatConnection(host="ftp://127.0.0.1"))


@pytest.mark.parametrize("user", [None, "ann:secret-of-this-test"])
def test_a_server_that_does_not_answer(user: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token the first call waits, with a password the login does."""
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "x")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cvat_server, "READ_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait, none is answered
        connection = CvatConnection(host=f"http://127.0.0.1:{silent.getsockname()[1]}", user=user)
        with pytest.raises(CvatError, match="gave no answer in time") as caught:
            CvatServer.connect(connection).target(7)
    assert "secret" not in str(caught.value)


def test_a_write_without_an_answer_may_have_been_done(
    cvat: FakeCvat, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = CvatServer.connect(CvatConnection(host=cvat.url))
    target = server.target(7)
    monkeypatch.setattr(cvat_server, "WRITE_SECONDS", 0.1)
    answer = cvat.answer
    monkeypatch.setattr(cvat, "answer", lambda *args: (time.sleep(0.5), answer(*args))[1])
    with pytest.raises(CvatError, match=r"writing to task 7.*may be written all the same"):
        server.update(target, cvat.annotations["shapes"][:1])
    server.close()


def test_a_user_logs_in_with_a_password(cvat: FakeCvat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    monkeypatch.setenv("PASS", PASSWORD)
    server = CvatServer.connect(CvatConnection(host=cvat.url, user="ann"))
    assert server.target(7).name == "street"
    assert cvat.requests[0] == ("POST", "/api/auth/login")
    with pytest.raises(CvatError, match=r"refuses \(401\)"):
        CvatServer.connect(CvatConnection(host=cvat.url, user="ann:wrong"))


def test_a_point_cloud_is_refused(cvat: FakeCvat, compact: Recognizer, tmp_path: Path) -> None:
    cvat.dimension = "3d"
    with pytest.raises(InputError, match="point clouds"):
        name(cvat, compact, tmp_path)


def test_another_file_is_no_backup(
    cvat: FakeCvat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1]")
    assert run(cvat, "restore", str(path)) == 1
    assert "no backup" in capsys.readouterr().err
    saved: dict[str, Any] = {
        "format": "anyregion-cvat-backup", "version": 1, "host": "http://elsewhere",
        "task": 7, "job": None, "named": [], "annotations": {"shapes": []},
    }  # fmt: skip
    path.write_text(json.dumps(saved))
    assert run(cvat, "restore", str(path)) == 1
    assert "elsewhere" in capsys.readouterr().err
