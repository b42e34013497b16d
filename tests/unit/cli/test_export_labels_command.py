"""`anyregion export-labels`: what was drawn in a tool is named, and put back where it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyregion.cli.main import main
from anyregion.io.regions import load_regions
from tests.helpers import tool_files as tools
from tests.helpers.coco_files import photo, write
from tests.helpers.command_line import NAMES, recognize
from tests.helpers.halves import picture

LEFT, RIGHT = [0.0, 0.0, 20.0, 30.0], [20.0, 0.0, 40.0, 30.0]


def rectangle(identity: str, box: list[float], label: str | None = None) -> dict[str, object]:
    """A result on an image of 40 x 30 pixels."""
    x0, y0, x1, y1 = box
    value = {
        "x": x0 / 0.4, "y": y0 / 0.3, "width": (x1 - x0) / 0.4, "height": (y1 - y0) / 0.3,
        "rotation": 0, **({} if label is None else {"rectanglelabels": [label]}),
    }  # fmt: skip
    size = {"original_width": 40, "original_height": 30}
    return {**tools.ls_result(identity, "rectanglelabels", value), **size}


@pytest.fixture
def export(photos: Path) -> Path:
    """Label Studio's export of both photographs: drawn, and half of it named wrongly."""
    tasks = [
        tools.ls_task(
            31, "/data/upload/2/0123abcd-one.png",
            [rectangle("l1", LEFT), rectangle("r1", RIGHT, "sky")],
        ),
        tools.ls_task(32, "/data/upload/2/0123abcd-two.png", [rectangle("l2", LEFT)]),
    ]  # fmt: skip
    return write(Path("export.json"), tasks)


def test_label_studios_rectangles_are_named_and_put_back(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognize("photos", "--regions", str(export), "--out", "run") == 0
    assert main(["export-labels", "run", "--into", str(export), "--out", "named"]) == 0
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert {"regions 3", "left as they were 0", "set aside 0"} <= printed
    tasks = json.loads(Path("named/tasks.json").read_text())
    names = {
        r["id"]: r["value"]["rectanglelabels"][0]
        for task in tasks
        for r in task["predictions"][0]["result"]
    }
    assert names == {"l1": "red", "r1": "blue", "l2": "lime"}
    predictions = json.loads(Path("named/predictions.json").read_text())
    assert [p["task"] for p in predictions] == [31, 32]
    assert all(0 < p["score"] <= 1 for p in predictions)


def test_cvats_boxes_are_named_and_put_back(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = "".join(tools.cvat_box("?", box) for box in (LEFT, RIGHT))
    page = tools.CVAT.format(images=tools.cvat_image(0, "one.png", shapes))
    Path("annotations.xml").write_text(
        page.replace('width="60" height="40"', 'width="40" height="30"')
    )
    assert recognize("photos/one.png", "--regions", "annotations.xml", "--out", "run") == 0
    assert main(["export-labels", "run", "--into", "annotations.xml", "--out", "named"]) == 0
    assert "names that annotations.xml did not list" in capsys.readouterr().err
    file = load_regions("named/annotations.xml")
    regions = file.images["0"].regions
    assert regions.ids == ("0:0", "0:1")
    assert regions.categories is not None
    assert [file.categories[i] for i in regions.categories.tolist()] == ["red", "blue"]


@pytest.mark.parametrize("to", ["yolo", "voc", "coco", "labelme", "cvat", "csv", "label-studio"])
def test_a_run_in_every_format_is_taught_by(export: Path, to: str) -> None:
    assert recognize("photos", "--regions", str(export), "--out", "run") == 0
    assert main(["export-labels", "run", "--to", to, "--out", "labels"]) == 0
    files = {"coco": "annotations.json", "csv": "labels.csv", "label-studio": "tasks.json"}
    labels = str(Path("labels") / files.get(to, ""))
    assert main(["data", "check", labels, "photos"]) == 0
    words = ["teach", labels, "--images", "photos", "--out", "my.vocab"]
    assert main(words) == 0


def test_crops_that_were_sorted_are_corrections(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognize("photos", "--regions", str(export), "--out", "run") == 0
    assert main(["export-labels", "run", "--to", "crops", "--out", "crops"]) == 0
    (crop,) = Path("crops/lime").iterdir()
    Path("crops/leaf").mkdir()
    crop.rename(Path("crops/leaf") / crop.name)
    assert main(["teach", "crops", "--images", "photos", "--out", "my.vocab"]) == 0
    assert "leaf" in capsys.readouterr().out


def test_refused_regions_and_low_scores_are_left_out(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recognize("photos", "--regions", str(export), "--out", "run", "--min-score", "0.999999")
    assert main(["export-labels", "run", "--to", "csv", "--out", "a"]) == 0
    assert "refused, left out" in capsys.readouterr().out
    assert len(Path("a/labels.csv").read_text().splitlines()) < 4


def test_what_cannot_be_exported_is_said(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export-labels", str(export), "--out", "out"]
    assert main(command) == 1
    assert "one of the two" in capsys.readouterr().err
    write(Path("boxes.json"), [{"image_id": 1, "bbox": [1, 1, 5, 5]}])
    assert main(["export-labels", "boxes.json", "--to", "csv", "--out", "out"]) == 1
    assert "no categories" in capsys.readouterr().err
    # a file of annotations is exported as a run is; a region that nobody named is set aside
    assert main([*command, "--to", "csv"]) == 3
    assert "it has no name" in capsys.readouterr().err
    assert "sky" in Path("out/labels.csv").read_text()
    assert recognize("photos", "--regions", str(export), "--out", "run") == 0
    # names of other images than the file's
    picture(Path("others/three.png"), "red", "blue")
    assert (
        main(["recognize", "others", "--vocabulary", NAMES, "--box", "0,0,9,9", "--out", "r"]) == 0
    )
    assert main(["export-labels", "r", "--into", str(export), "--out", "out"]) == 3
    assert "no image of export.json" in capsys.readouterr().err
    twice = json.loads(export.read_text())
    write(export, [*twice, {**twice[0], "id": 99}])
    assert main(["export-labels", "run", "--into", str(export), "--out", "out"]) == 3
    assert "lists one.png twice" in capsys.readouterr().err
    assert len(json.loads(Path("out/predictions.json").read_text())) == 1


def test_a_layout_is_forced(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crops = picture(Path("crops/red/one.png"), "red", "red")
    assert recognize(str(crops), "--regions", "crops", "--out", "a") == 1
    assert "a folder without annotations" in capsys.readouterr().err
    words = ["--regions-format", "crops"]
    assert recognize(str(crops), "--regions", "crops", *words, "--out", "a") == 0
    assert recognize("photos", "--regions", "auto", *words, "--out", "b") == 1
    assert "--regions-format needs a file" in capsys.readouterr().err


def test_photographs_that_exif_turns_and_that_were_annotated_as_stored(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label Studio and CVAT show them upright; what states the stored size was made elsewhere."""
    photo(photos / "turned.jpg", size=(60, 40), turn=6)
    stored = tools.cvat_image(0, "turned.jpg", tools.cvat_box("?", [0, 0, 30, 20]))
    Path("stored.xml").write_text(tools.CVAT.format(images=stored))
    upright = stored.replace('width="60" height="40"', 'width="40" height="60"')
    Path("upright.xml").write_text(tools.CVAT.format(images=upright))
    assert recognize("photos/turned.jpg", "--regions", "stored.xml", "--out", "a") == 1
    assert "so it is stored, before EXIF turns it" in capsys.readouterr().err
    assert recognize("photos/turned.jpg", "--regions", "upright.xml", "--out", "b") == 0


@pytest.mark.parametrize("to", ["yolo", "voc", "labelme", "crops"])
def test_labels_of_an_earlier_export_are_not_mixed_in(
    export: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    assert recognize("photos", "--regions", str(export), "--out", "run") == 0
    assert main(["export-labels", "run", "--to", to, "--out", "set"]) == 0
    before = {path: path.read_bytes() for path in Path("set").rglob("*") if path.is_file()}
    assert main(["export-labels", "run", "--to", to, "--out", "set"]) == 1
    assert "set: there are labels already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("set").rglob("*") if path.is_file()} == before
    assert main(["export-labels", "run", "--to", "coco", "--out", "set"]) == 0, "one file: replaced"
