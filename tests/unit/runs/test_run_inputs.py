"""Which images a run names, under which names, and with which regions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyregion.errors import InputError
from anyregion.io.regions import load_regions
from anyregion.runs.recognize import name_images
from tests.helpers.halves import picture
from tests.helpers.runs import labels, lines, run


def test_results_inside_the_photos_are_no_input(photos: Path) -> None:
    run(photos, photos / "results")
    assert run(photos, photos / "results").earlier == 5


def test_pictures_of_other_runs_are_no_input(photos: Path) -> None:
    run(photos, photos / "o1")
    picture(photos / "pictures" / "mine.png", "red", "blue")
    assert run(photos, photos / "o2").images == 6, "five, and the user's own `pictures`"
    assert run([photos / "**" / "*.png"], photos / "o3").images == 2
    pictures = photos / "o1" / "pictures"
    with pytest.raises(InputError, match="pictures that a run of anyregion drew"):
        run(pictures, photos / "o4")
    assert run(pictures / "y.png", photos / "o4").images == 1, "named outright"
    (photos / "o1" / "run.json").write_text("{")
    assert run(pictures, photos / "o5").images == 5, "not a results folder"


def test_regions_of_a_file_keep_their_ids(photos: Path, tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 70, "file_name": "b/x.jpg", "height": 30, "width": 40},
            {"id": 50, "file_name": "y.png", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 901, "image_id": 70, "bbox": [20, 0, 20, 30], "category_id": 1},
            {"id": 902, "image_id": 50, "bbox": [0, 0, 20, 30], "category_id": 1},
            {"id": 903, "image_id": 50, "bbox": [5, 5, -2, 4], "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = tmp_path / "regions.json"
    file.write_text(json.dumps(content))
    report = run(photos, tmp_path / "out", source=load_regions(file))
    assert report.images == 2
    reasons = {a.item: a.reason for a in report.set_aside}
    assert reasons.pop("y.png, region 903").startswith("region 903: box [5.0, 5.0, 3.0, 9.0]")
    assert "lists b/x.jpg: another folder's image" in reasons.pop("a/x.jpg")
    assert reasons == dict.fromkeys(["z.webp", "z.webp.jpg"], "no regions for this image")
    coco = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(i["id"], i["file_name"]) for i in coco["images"]] == [(70, "b/x.jpg"), (50, "y.png")]
    assert [(a["image_id"], a["region_id"]) for a in coco["annotations"]] == [(70, 901), (50, 902)]


@pytest.mark.parametrize(
    ("inputs", "root", "names"),
    [
        (["."], ".", ["a/x.jpg", "b/x.jpg", "y.png", "z.webp", "z.webp.jpg"]),
        (["a"], "a", ["x.jpg"]),
        (["a", "b"], ".", ["a/x.jpg", "b/x.jpg"]),
        (["a/x.jpg", "./a/x.jpg", "a/../a/x.jpg"], "a", ["x.jpg"]),
        (["*/x.jpg"], ".", ["a/x.jpg", "b/x.jpg"]),
        (["a/*.jpg", "y.png"], ".", ["a/x.jpg", "y.png"]),
        (["**/*.png"], ".", ["y.png"]),
    ],
)
def test_names_of_images(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[str],
    root: str,
    names: list[str],
) -> None:
    monkeypatch.chdir(photos)
    start, images, set_aside = name_images(inputs, pictures=Path("results"))
    assert start == (photos / root)
    assert list(images) == names
    assert all(path == start / name for name, path in images.items())
    assert set_aside == []


def test_lists_of_images(photos: Path, tmp_path: Path) -> None:
    (photos / "lists").mkdir()
    listed = photos / "lists" / "few.txt"
    listed.write_text("../a/x.jpg\n\n  ../y.png \n../gone.png\ns3://bucket/photo.jpg\n")
    report = run(listed, tmp_path / "out")
    assert report.images == 2
    assert {Path(a.item).name: a.reason for a in report.set_aside} == {
        "gone.png": "no image there",
        "photo.jpg": "an address, which `anyregion index` alone reads",
    }
    names = [image["image"] for image in lines(tmp_path / "out" / "predictions.jsonl")]
    assert sorted(names) == ["a/x.jpg", "y.png"]
    (photos / "lists" / "broken.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"broken\.txt"):
        run(photos / "lists" / "broken.txt", tmp_path / "other")


def test_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image there"):
        run(tmp_path / "nothing", tmp_path / "out")


def test_regions_of_another_size_are_not_named(photos: Path, tmp_path: Path) -> None:
    """Boxes drawn on a 20 x 15 copy would name other places of the 40 x 30 image."""
    boxes = {
        "images": [
            {"id": 1, "file_name": "y.png", "height": 15, "width": 20},
            {"id": 2, "file_name": "z.webp", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9]},
            {"id": 2, "image_id": 2, "bbox": [0, 0, 9, 9]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    source = load_regions(tmp_path / "boxes.json")
    report = run([photos / "y.png", photos / "z.webp"], tmp_path / "out", source=source)
    assert labels(tmp_path / "out") == {"z.webp": ["blue"]}
    (skipped,) = report.set_aside
    assert (skipped.item, "40 x 30 upright" in skipped.reason) == ("y.png", True)


@pytest.fixture
def scored(photos: Path, tmp_path: Path) -> Path:
    boxes = {"y.png": {"boxes": [[0, 0, 20, 30]], "scores": [0.5], "labels": [1]}}
    (tmp_path / "scored.json").write_text(json.dumps(boxes))
    return tmp_path / "scored.json"


@pytest.mark.parametrize(("scores", "at_most"), [(True, 0.5), (False, 1.0)])
def test_scores_of_a_file(
    photos: Path, tmp_path: Path, scored: Path, scores: bool, at_most: float
) -> None:
    run(photos / "y.png", tmp_path / "out", source=load_regions(scored, scores=scores))
    (line,) = lines(tmp_path / "out" / "predictions.jsonl")
    assert at_most * 0.9 < line["regions"][0]["score"] <= at_most


def test_regions_of_another_camera_are_not_taken(tmp_path: Path) -> None:
    """`cam1.json` lists `cam1/0001.jpg`; the image of that name is another camera's."""
    picture(tmp_path / "cam2" / "0001.jpg", "red", "blue")
    picture(tmp_path / "cam1" / "0001.jpg", "red", "blue")
    content = {
        "images": [{"id": 1, "file_name": "cam1/0001.jpg", "height": 30, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "cam1.json").write_text(json.dumps(content))
    source = load_regions(tmp_path / "cam1.json")
    report = run([tmp_path / "cam1", tmp_path / "cam2"], tmp_path / "out", source=source)
    assert list(labels(tmp_path / "out")) == ["cam1/0001.jpg"]
    (skipped,) = report.set_aside
    assert skipped.item == "cam2/0001.jpg"
    assert "cam1/0001.jpg" in skipped.reason
