"""`anyregion cache`: filling, going on, verifying, repairing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyregion import factory
from anyregion.cli.main import main
from anyregion.data.store.store import Store
from tests.helpers.feature_store import SmallExtractor
from tests.helpers.halves import picture


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A data set of two photos and one that is not there; a small extractor for every model."""
    monkeypatch.setattr(factory, "load_extractor", lambda *_, **__: SmallExtractor())
    monkeypatch.chdir(tmp_path)
    names = ["one.png", "two.png", "gone.png"]
    for name in names[:2]:
        picture(tmp_path / "photos" / name, "red", "blue")
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": 10 + i, "image_id": i, "category_id": 7, "bbox": [2, 3, 10, 12], "area": 120}
            for i in range(3)
        ],
        "categories": [{"id": 7, "name": "cup"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return ["--annotations", "a.json", "--images", "photos"]


def cache(*words: str) -> int:
    return main(["cache", "--out", "store", *words])


def test_fill_go_on_verify_repair(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cache(*data, "--images-per-shard", "1") == 3
    printed = capsys.readouterr()
    assert "gone.png: there is no such file" in printed.err
    assert "3, 3 computed now" in printed.out
    assert "bytes a region" in printed.out
    assert Store("store").usable().tolist() == [0, 1]
    assert cache(*data, "--images-per-shard", "1") == 3
    assert "3, 0 computed now" in capsys.readouterr().out
    assert cache("--verify") == 0
    shard = Store("store").shards.specs[1].path
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    capsys.readouterr()
    assert cache("--verify") == 1
    assert str(shard) in capsys.readouterr().out
    assert shard.read_bytes() == whole[:-1], "looking changes nothing"
    assert cache("--verify", "--repair") == 3
    assert "3, 1 computed now" in capsys.readouterr().out
    assert cache("--verify") == 0
    Store("store").read(1)


def test_a_store_that_is_there_needs_no_data(data: list[str]) -> None:
    assert cache(*data, "--no-mirror") == 3
    shard = Store("store").shards.specs[0].path
    shard.unlink()
    assert cache() == 3
    assert shard.is_file()
    assert not Store("store").info.mirrored


def test_an_image_that_changed(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cache(*data) == 3
    picture(Path("photos/gone.png"), "red", "lime")
    picture(Path("photos/one.png"), "lime", "red")
    assert cache("--verify") == 1
    printed = capsys.readouterr().out
    assert "gone.png: could not be read when the store was filled" in printed
    assert "one.png: changed" in printed
    assert cache("--verify", "--repair") == 0
    assert cache("--verify") == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--repair"], "give both"),
        (["--verify"], "no store there yet"),
        ([], "give --annotations"),
        (["--annotations", "a.json"], "--images"),
        (["--annotations", "none.json", "--images", "photos"], "none.json"),
        (["--annotations", "a.json", "--images", "none"], "no such folder"),
    ],
)
def test_what_is_missing_is_said(
    data: list[str], words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache(*words) == 1
    assert reason in capsys.readouterr().err


def test_models_are_loaded_as_noted(data: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    def load(*args: Any, **options: Any) -> SmallExtractor:
        calls.append((args, options))
        return SmallExtractor()

    monkeypatch.setattr(factory, "load_extractor", load)
    fill: Callable[..., int] = cache
    models = ["--localizer", "sam", "--vlm", "clip", "--features", "--no-antialias"]
    models += ["--source", "prompt"]
    assert fill(*data, *models, "--image-size", "336", "--dtype", "bfloat16") == 3
    assert cache("--device", "cuda") == 3
    assert cache("--dtype", "float16") == 3, "a store keeps its precision"
    noted = {"localizer": "sam", "vlm": "clip", "features": True, "antialias": False}
    first, second, third = ({**options, "model": args[0]} for args, options in calls)
    noted |= {"image_size": 336, "model": None, "dtype": "bfloat16", "source": "prompt"}
    assert first == {**noted, "device": "cpu"}
    assert second == {**first, "device": "cuda"}
    assert third == first


def change(**changes: Any) -> None:
    """Other values in the data set's file."""
    path = Path("a.json")
    content = json.loads(path.read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = content["annotations"][:2]
    content["annotations"][0].update(changes)
    path.write_text(json.dumps(content))


def test_what_the_annotations_lack_is_counted(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """When the store is made, and when it is gone on with."""
    change(bbox=[2, 3, float("nan"), 12])
    for words in (data, data, []):
        assert cache(*words) == 3
        assert "set aside        1 (1 of the annotations)" in capsys.readouterr().out


def test_malformed_masks_are_counted(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    change(segmentation={"size": [30, 40], "counts": [7]})
    assert cache(*data, "--masks") == 3
    printed = capsys.readouterr()
    assert "warning: 1 masks that are malformed" in printed.err
    assert "set aside        1" in printed.out


def test_boxes_beyond_images_of_no_stated_size_are_counted(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path("a.json").read_text())
    for image in content["images"]:
        del image["width"], image["height"]
    content["annotations"] = [
        {"id": i, "image_id": i % 2, "category_id": 7, "bbox": [4, 3, 60 + i, 50]} for i in range(4)
    ]
    Path("a.json").write_text(json.dumps(content))
    assert cache(*data) == 3
    printed = capsys.readouterr()
    assert "4 of 4 reach beyond their images by more than a tenth" in printed.err
    assert "(1 of the annotations)" in printed.out


def test_a_store_of_no_images_is_an_error(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one.png", "two.png"):
        Path("photos", name).unlink()
    assert cache(*data) == 1
    error = capsys.readouterr().err
    assert "no image that can be used, so no features (gone.png: there is no such file" in error


def test_a_store_of_no_regions_is_refused(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change()
    content = json.loads(Path("a.json").read_text())
    for region in content["annotations"]:
        region["iscrowd"] = 1
    Path("a.json").write_text(json.dumps(content))
    assert cache(*data) == 1
    assert "no region that can be used" in capsys.readouterr().err
    assert not Path("store").exists()
