"""Images of tasks are read from Label Studio's own host and mapped folders, and nowhere else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from anyregion.errors import AnyRegionError, InputError
from anyregion.serve.label_studio.images import TaskImages, UnreachableError
from anyregion.serve.options import LabelStudioOptions
from tests.helpers.label_studio import (
    LEGACY,
    REFRESH,
    FakeLabelStudio,
    fake_label_studio,
    jwt,
)

UPLOAD = "/data/upload/1/0a1b2c3d-a b.jpg"
MOST = 1000


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with fake_label_studio() as running:
        running.files["/data/upload/1/0a1b2c3d-a%20b.jpg"] = b"picture"
        yield running


def images(studio: FakeLabelStudio, key: str | None = LEGACY) -> TaskImages:
    return TaskImages(LabelStudioOptions(url=studio.url, key=key), MOST)


def test_paths_and_own_addresses_are_fetched_with_the_token(studio: FakeLabelStudio) -> None:
    reader = images(studio)
    assert reader.read(UPLOAD, 1) == b"picture"
    assert reader.read(f"{studio.url}{UPLOAD}", 1) == b"picture"
    assert reader.read(f"{studio.url.upper().replace('HTTP', 'http')}{UPLOAD}", 1) == b"picture"
    assert {a for _, _, a in studio.requests} == {f"Token {LEGACY}"}
    studio.files["/data/local-files/"] = b"local"
    assert reader.read("/data/local-files/?d=a/b.jpg", 1) == b"local"
    assert studio.requests[-1][1] == "/data/local-files/?d=a/b.jpg"


def test_a_storages_address_is_read_through_label_studio(studio: FakeLabelStudio) -> None:
    studio.files["/tasks/7/resolve/"] = b"from s3"
    assert images(studio).read("s3://bucket/a.jpg", 7) == b"from s3"
    encoded = studio.requests[-1][1].rpartition("fileuri=")[2]
    assert base64.urlsafe_b64decode(encoded) == b"s3://bucket/a.jpg"


def test_a_personal_access_token_is_exchanged_and_renewed(studio: FakeLabelStudio) -> None:
    reader = images(studio, REFRESH)
    assert reader.read(UPLOAD, 1) == b"picture"
    assert reader.read(UPLOAD, 1) == b"picture"
    assert [(m, p.rpartition("/")[2] or p) for m, p, _ in studio.requests] == [
        ("POST", "/api/token/refresh/"),
        ("GET", "0a1b2c3d-a%20b.jpg"),
        ("GET", "0a1b2c3d-a%20b.jpg"),
    ]
    studio.access = jwt(token_type="access", n=2)  # the old one has expired
    assert reader.read(UPLOAD, 1) == b"picture"
    assert studio.requests[-1][2] == f"Bearer {studio.access}"
    with pytest.raises(UnreachableError, match="may be revoked"):
        images(studio, jwt(token_type="refresh", n=3)).read(UPLOAD, 1)


def test_the_token_of_the_project_counts_where_there_is_no_other(studio: FakeLabelStudio) -> None:
    assert images(studio, None).read(UPLOAD, 1, LEGACY) == b"picture"
    assert images(studio).read(UPLOAD, 1, "another") == b"picture"
    with pytest.raises(UnreachableError, match="401: set LABEL_STUDIO_API_KEY"):
        images(studio, None).read(UPLOAD, 1)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("http://169.254.169.254/latest/meta-data/", "another host"),
        ("http://127.0.0.1:1/a.jpg", "another host"),
        ("https://127.0.0.1/a.jpg", "another host"),
        ("http://{place}@evil.example/a.jpg", "another host"),
        ("http://evil.example#@{place}/a.jpg", "another host"),
        ("http://{place}.evil.example/a.jpg", "another host"),
        ("http://{place}:99999/a.jpg", "another host"),
        ("//evil.example/a.jpg", "not read"),
        ("file:///etc/passwd", "not read"),
        ("ftp://{place}/a.jpg", "not read"),
        ("gopher://{place}/a.jpg", "not read"),
        ("a.jpg", "not read"),
        ("", "not read"),
        ("http://[::1/a.jpg", "no address"),
        ("data:text/html;base64,AAAA", "data:image"),
        ("data:image/png;base64,?", "no base64"),
        ("/data/redirect", "answers 303"),
        ("/tasks/1/redirect", "answers 303, a redirect"),
        ("/data/large.jpg", "more than 1000 bytes"),
        ("/data/upload/1/other.jpg", "answers 404"),
        ("/data/a\r\nHost: evil.example\r\n\r\n", "answers 404"),
    ],
)
def test_nothing_else_is_fetched(studio: FakeLabelStudio, reference: str, message: str) -> None:
    with fake_label_studio() as other:
        for path in ("/data/redirect", "/tasks/1/redirect"):
            studio.redirects[path] = f"{other.url}/data/secret"
        other.files["/data/secret"] = b"secret"
        studio.files["/data/large.jpg"] = bytes(MOST + 1)
        place = studio.url.removeprefix("http://")
        with pytest.raises(AnyRegionError, match=message):
            images(studio).read(reference.format(place=place), 1)
        assert other.requests == []


def test_data_in_the_task_itself() -> None:
    reader = TaskImages(LabelStudioOptions(), MOST)
    address = "data:image/png;base64," + base64.b64encode(b"picture").decode()
    assert reader.read(address, 1) == b"picture"
    with pytest.raises(InputError, match="start with --label-studio-url"):
        reader.read(UPLOAD, 1)
    with pytest.raises(InputError, match="another host than --label-studio-url"):
        reader.read("http://localhost/a.jpg", 1)


def test_a_host_that_does_not_answer() -> None:
    reader = TaskImages(LabelStudioOptions(url="http://127.0.0.1:1"), MOST)
    with pytest.raises(UnreachableError, match="does not answer"):
        reader.read(UPLOAD, 1)


def test_mapped_folders(tmp_path: Path) -> None:
    files, uploads = tmp_path / "files", tmp_path / "uploads"
    (files / "cam 1").mkdir(parents=True)
    (uploads / "1").mkdir(parents=True)
    (files / "cam 1" / "a.jpg").write_bytes(b"local")
    (uploads / "1" / "0a1b2c3d-a b.jpg").write_bytes(b"upload")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (files / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (files / "large.jpg").write_bytes(bytes(MOST + 1))
    reader = TaskImages(LabelStudioOptions(files=files, uploads=uploads), MOST)
    for address in ("/data/local-files/?d=cam%201/a.jpg", "/data/local-files?d=cam+1%2Fa.jpg"):
        assert reader.read(address, 1) == b"local"
    assert reader.read("/data/upload/1/0a1b2c3d-a%20b.jpg", 1) == b"upload"
    assert reader.read(UPLOAD, 1) == b"upload"
    for name in (
        "../secret.jpg", "link.jpg", str(tmp_path / "secret.jpg"), "cam 1", "", "no.jpg", "a%00b",
        "cam%201/../../secret.jpg", "x" * 5000,
    ):  # fmt: skip
        with pytest.raises(InputError, match="no such file in the mapped folder"):
            reader.read(f"/data/local-files/?d={name}", 1)
    with pytest.raises(InputError, match="no such file"):
        reader.read("/data/upload/../../secret.jpg", 1)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        reader.read("/data/local-files/?d=large.jpg", 1)
    # without its folder an upload is fetched, and there is no host
    with pytest.raises(InputError, match="--label-studio-url"):
        TaskImages(LabelStudioOptions(files=files), MOST).read(UPLOAD, 1)


def test_an_address_with_a_path(studio: FakeLabelStudio) -> None:
    studio.files["/tool/data/upload/1/a.jpg"] = b"below"
    options = LabelStudioOptions(url=f"{studio.url}/tool/", key=LEGACY)
    reader = TaskImages(options, MOST)
    for path in ("/data/upload/1/a.jpg", "/tool/data/upload/1/a.jpg"):
        assert reader.read(path, 1) == b"below"
        assert reader.read(f"{studio.url}{path}", 1) == b"below"


def test_json(studio: FakeLabelStudio) -> None:
    studio.export = [{"id": 1}]
    assert images(studio).get_json("/api/projects/1/export?exportType=JSON") == [{"id": 1}]
    studio.files["/api/x"] = json.dumps({})[:1].encode()
    with pytest.raises(UnreachableError, match="no JSON"):
        images(studio).get_json("/api/x")


@pytest.mark.parametrize(
    "url",
    ["localhost:8080", "ftp://localhost", "http://", "http://a:b@localhost", "http://localhost:x",
     "http://localhost/?a=1", "http://localhost/#a", "http://[::1", ""],
)  # fmt: skip
def test_addresses_of_label_studio_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="the address of Label Studio must be"):
        LabelStudioOptions(url=url)
