"""The built-in model on real photographs, through the command line."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from anyregion.cli.main import main
from tests.helpers.shared import SHARED, needs_shared

pytestmark = needs_shared
needs_compact = pytest.mark.skipif(
    find_spec("anyregion.compact.model") is None, reason="the built-in model is not here"
)
ANNOTATIONS = SHARED / "data" / "coco" / "annotations" / "instances_val.json"
IMAGES = SHARED / "data" / "coco" / "images"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos() -> list[str]:
    names = [image["file_name"] for image in json.loads(ANNOTATIONS.read_text())["images"][:3]]
    return [str(IMAGES / name) for name in names]


@needs_compact
def test_recognize_writes_what_coco_reads(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["recognize", *photos, "--vocabulary", "coco", "--regions", str(ANNOTATIONS)]
    assert main([*command, "--masks", "--out", str(out)]) == 0
    annotations, predictions = COCO(str(ANNOTATIONS)), COCO(str(out / "predictions.json"))
    assert [
        Path(i["file_name"]).name for i in predictions.loadImgs(predictions.getImgIds())
    ] == sorted(Path(p).name for p in photos)
    for image_id in predictions.getImgIds():
        regions = annotations.loadAnns(annotations.getAnnIds(imgIds=[image_id], iscrowd=False))
        named = predictions.loadAnns(predictions.getAnnIds(imgIds=[image_id]))
        assert [a["region_id"] for a in named] == [a["id"] for a in regions], "ids are the file's"
        for before, after in zip(regions, named, strict=True):
            assert after["bbox"] == pytest.approx(before["bbox"], abs=0.6)
            assert 0 < after["score"] <= 1
            assert after["category_id"] in predictions.cats
            if after["segmentation"]:
                size = predictions.imgs[image_id]
                assert predictions.annToMask(after).shape == (size["height"], size["width"])
    for photo in photos:
        with Image.open(out / "pictures" / Path(photo).name) as drawn:
            drawn.verify()
    assert main([*command, "--masks", "--out", str(out)]) == 0, "nothing is left to do"
    assert "0 and 3 from an earlier run" in capsys.readouterr().out


@needs_compact
def test_one_photo_is_named_on_the_terminal(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recognize", photos[0], "--vocabulary", "dog, bus, traffic light"]
    assert main([*words, "--box", "0,0,200,200", "--out", str(tmp_path / "out")]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert any(name in row for name in ("dog", "bus", "traffic light"))


@needs_compact
def test_evaluate_classification(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "classification", "--annotations", str(ANNOTATIONS)]
    assert main([*words, "--images", str(IMAGES), "--limit", "12", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 12
    assert report["regions"] > 50
    assert 1 / 80 < report["top1"] <= report["top5"] <= 1, "better than chance"
    assert sum(size["regions"] for size in report["by_size"].values()) == report["regions"]


@needs_compact
def test_doctor_finds_the_model_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"].startswith("ok")


def test_convert_and_recognize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    checkpoint = SHARED / "fixtures" / "regionspot" / "checkpoint.pth"
    assert main(["convert", str(checkpoint), str(tmp_path / "model")]) == 0
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    photo = str(IMAGES / "000000000009.jpg")
    words = ["recognize", photo, "--vocabulary", "bowl,orange", "--model", str(tmp_path / "model")]
    boxes = ["--box", "10,10,200,200", "--point", "300,100"]
    out = ["--masks", "--multimask", "--out", str(tmp_path / "out")]
    assert main([*words, *boxes, *out]) == 0
    coco = COCO(str(tmp_path / "out" / "predictions.json"))
    named = coco.loadAnns(coco.getAnnIds())
    assert [a["region_id"] for a in named] == [0, 0, 0, 1, 1, 1], "three candidates a region"
    assert {coco.annToMask(a).shape for a in named} == {(384, 512)}
