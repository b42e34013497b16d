"""A CVAT task of two photographs, served as CVAT does, and the built-in model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cvat_sdk")

from anyregion.factory import load_recognizer
from anyregion.recognizer import Recognizer
from tests.helpers.fake_cvat import (
    TOKEN,
    FakeCvat,
    attribute,
    full_shape,
    label,
    serving,
)

ROOT = Path(__file__).parents[3]
PHOTOS = sorted((ROOT / "examples").rglob("*.jpg"))[:2]


@pytest.fixture(scope="session")
def compact() -> Recognizer:
    return load_recognizer(cache=None)


def street() -> FakeCvat:
    """The task: what is in it stands in the tests' expectations."""
    from PIL import Image

    sizes = []
    for photo in PHOTOS:
        with Image.open(photo) as image:
            sizes.append((image.height, image.width))
    labels = [
        label(1, "object", "any", attribute(11, "colour", "select", ["red", "blue"]),
              attribute(12, "note", "text", [])),
        label(2, "cat", "any", attribute(21, "score", "number", ["0", "100", "1"]),
              attribute(22, "colour", "select", ["red", "blue", "green"])),
        label(3, "cup", "any", attribute(31, "score", "text", [])),
        label(4, "person", "any"),
        label(5, "outline only", "polygon"),
    ]  # fmt: skip
    height, width = sizes[0]
    middle = [width / 2, height / 2]
    values = [{"spec_id": 11, "value": "blue"}, {"spec_id": 12, "value": "by hand"}]
    shapes: list[dict[str, Any]] = [
        {"id": 1, "points": [10.5, 12.0, *middle], "attributes": values,
         "occluded": True, "z_order": 3, "group": 5},
        {"id": 2, "type": "polygon", "points": [5, 5, width - 5, 9, width / 2, height - 4]},
        {"id": 3, "type": "mask", "points": [2, 4, 2, 4, 20, 30, 23, 32], "source": "file"},
        {"id": 4, "type": "ellipse", "points": [*middle, width / 2 + 40, height / 2 - 20],
         "rotation": 30.0},
        {"id": 5, "rotation": 45.0, "points": [40, 40, 120, 90], "label_id": 4},
        {"id": 6, "type": "polyline", "points": [1, 1, 50, 50]},
        {"id": 7, "type": "points", "points": [9, 9]},
        {"id": 8, "frame": 1, "points": [0, 0, sizes[1][1], sizes[1][0]]},
    ]  # fmt: skip
    track = {"id": 90, "frame": 0, "label_id": 1, "group": 0, "source": "manual", "attributes": [],
             "elements": [], "shapes": []}  # fmt: skip
    tag = {"id": 91, "frame": 0, "label_id": 1, "group": 0, "source": "manual", "attributes": []}
    annotations = {
        "version": 0, "tags": [tag], "tracks": [track], "shapes": [full_shape(s) for s in shapes],
        "a key of a later version": {"of": "CVAT"},
    }  # fmt: skip
    frames = {photo.name: photo.read_bytes() for photo in PHOTOS}
    return FakeCvat(frames, sizes, labels, annotations, job_start=1)


@pytest.fixture
def cvat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCvat]:
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    # cvat-sdk keeps profiles and frames in folders of the user
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(street()) as fake:
        yield fake
