"""What `check_data` and `anyregion data check` say of a data set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anyregion.cli.main import main
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.check import DataReport, check_data
from anyregion.errors import InputError
from tests.helpers.coco_files import content, photo, region, write
from tests.helpers.shared import SHARED, needs_shared


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`coco.json` and `images`, with nothing wrong."""
    write(tmp_path / "coco.json", content())
    photo(tmp_path / "images/one.jpg", colour="red")
    photo(tmp_path / "images/two.jpg", colour="lime")
    return tmp_path


def check(folder: Path, value: Any = None, *, masks: bool = False, **options: Any) -> DataReport:
    if value is not None:
        write(folder / "coco.json", value)
    return check_data(
        read_annotations(folder / "coco.json", masks=masks), folder / "images", **options
    )


def wrong(report: DataReport) -> dict[str, str]:
    """The first example of each kind that is wrong."""
    return {f.what: str(f.examples[0]) for f in report.findings if f.wrong}


def known(report: DataReport) -> dict[str, int]:
    return {f.what: f.count for f in report.findings if not f.wrong and "1 to 9" not in f.what}


def test_nothing_wrong(data: Path) -> None:
    report = check(data)
    assert report.wrong == 0
    assert known(report) == {}
    assert (report.images, report.files_checked, report.regions, report.crowd) == (2, 2, 3, 0)
    assert report.by_size == {"small": 3, "medium": 0, "large": 0}
    counts = [(c.name, c.id, c.regions, c.images) for c in report.classes]
    assert counts == [("cat", 5, 2, 2), ("dog", 90, 1, 1)]


def test_missing_and_broken_files(data: Path) -> None:
    (data / "images/one.jpg").unlink()
    (data / "images/two.jpg").write_bytes(b"no image")
    faults = wrong(check(data))
    assert faults["images that are not there"].startswith("one.jpg: not in")
    assert "not an image" in faults["images that cannot be read"]


def test_decoding_shows_a_truncated_file(data: Path) -> None:
    file = data / "images/one.jpg"
    file.write_bytes(file.read_bytes()[:-10])
    assert wrong(check(data, decode=False)) == {}
    assert "truncated" in wrong(check(data))["images that cannot be read"]


@pytest.mark.parametrize("decode", [True, False])
def test_sizes_that_differ(data: Path, decode: bool) -> None:
    photo(data / "images/one.jpg", size=(30, 20))
    photo(data / "images/two.jpg", turn=6)
    faults = wrong(check(data, decode=decode))
    assert faults == {
        "images of another size than stated": "one.jpg: 30 x 20, but stated as 60 x 40",
        "images that EXIF turns, annotated as they are stored": (
            "two.jpg: 40 x 60, but stated as 60 x 40"
        ),
    }
    # annotated upright: as it should be
    value = content()
    value["images"][0].update(height=20, width=30)
    value["images"][1].update(height=60, width=40)
    faults = wrong(check(data, value, decode=decode))
    assert not any("size" in what or "EXIF" in what for what in faults)


def test_the_same_image_twice(data: Path) -> None:
    value = content()
    value["images"] += [
        {"id": 8, "file_name": "old/one.jpg", "height": 40, "width": 60},
        {"id": 9, "file_name": "copy.jpg", "height": 40, "width": 60},
    ]
    (data / "images/copy.jpg").write_bytes((data / "images/two.jpg").read_bytes())
    report = check(data, value)
    assert wrong(report) == {
        "image entries that lead to a file of another entry": (
            "old/one.jpg: its file is one.jpg's too"
        )
    }
    assert known(report)["image files that repeat another's content"] == 1


def test_boxes_outside_an_image_whose_size_is_not_stated(data: Path) -> None:
    value = content()
    for image in value["images"]:
        del image["height"]
    value["annotations"].append(region(9, 7, 5, [100, 0, 5, 5]))
    assert wrong(check(data, value)) == {
        "boxes wholly outside the image": "one.jpg, region 9: cat, box 100, 0, 105, 5 (xyxy)"
    }


def test_what_is_worth_knowing(data: Path) -> None:
    names = ["cat", "class_3", "n02119789", "/m/0k4j", "7", "??", "caf\ufffd", "iPhone 7", "4x4"]
    value = content(
        images=[*content()["images"], {"id": 1, "file_name": "two.jpg"}],
        categories=[{"id": k, "name": name} for k, name in enumerate(names)],
        annotations=[
            region(1, 7, 0, [0, 0, 1.5, 20]),
            region(2, 7, 0, [0, 0, 1.5, 20]),
            region(3, 3, 0, [0, 0, 20, 20]),
            region(4, 3, 7, [0, 0, 20, 20], iscrowd=1),
        ],
    )
    report = check(data, value)
    assert known(report) == {
        "boxes with a side under 2 pixels": 2,
        "regions that repeat another's box and class": 1,
        "images without regions": 1,
        "classes without regions": 8,
        "names that say little": 6,
    }
    assert report.crowd == 1
    assert report.regions == 3


def test_masks_are_checked_where_they_were_read(data: Path) -> None:
    rows = [
        region(1, 7, 5, [0, 0, 9, 9], segmentation=[[0, 0, 9, 0, 9, 9]]),
        region(2, 7, 5, [0, 0, 8, 8], segmentation=[[0, 0, 9, 0]]),
        region(3, 7, 5, [0, 0, 7, 7], segmentation={"size": [60, 40], "counts": [2400]}),
    ]
    report = check(data, content(annotations=rows), masks=True)
    assert [(f.what, f.count) for f in report.findings if f.wrong] == [
        ("masks that are malformed", 2)
    ]
    assert check(data).wrong == 0


def test_it_includes_what_reading_sets_apart(data: Path) -> None:
    value = content()
    value["annotations"].append(region(9, 99, 5, [0, 0, 5, 5]))
    assert wrong(check(data, value)) == {
        "regions of unknown images": "region 9: unknown image id 99"
    }


def test_limits_and_refusals(data: Path) -> None:
    (data / "images/two.jpg").unlink()
    seen: list[tuple[int, int]] = []
    report = check(data, limit=1, progress=lambda done, total: seen.append((done, total)))
    assert report.wrong == 0
    assert report.files_checked == 1
    assert seen == [(1, 1)]
    with pytest.raises(InputError, match="at least 1"):
        check(data, limit=0)
    annotations = read_annotations(data / "coco.json")
    with pytest.raises(InputError, match="no such folder"):
        check_data(annotations, data / "none")


def test_the_command(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "check", str(data / "coco.json"), str(data / "images")]
    assert main(words) == 0
    assert "nothing wrong" in capsys.readouterr().out
    (data / "images/two.jpg").unlink()
    assert main([*words, "--per-class"]) == 3
    printed = capsys.readouterr().out
    assert "two.jpg: not in" in printed
    assert "1 wrong" in printed
    assert main([*words, "--fast", "--limit", "1"]) == 0
    assert "headers only" in capsys.readouterr().out
    assert main(["data", "check", str(data / "none.json"), str(data / "images")]) == 1
    assert "none.json" in capsys.readouterr().err


def test_names_that_cannot_be_printed_or_opened_are_reported(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = content()
    value["images"][0]["file_name"] = "half \ud800.jpg"
    value["images"][1]["file_name"] = "long" * 100
    value["categories"][0]["name"] = "cat \udc00"
    write(data / "coco.json", value)
    assert main(["data", "check", str(data / "coco.json"), str(data / "images")]) == 3
    printed = capsys.readouterr().out
    assert "half \\ud800.jpg: not in" in printed
    assert "cat \ufffd" in printed


def test_the_command_in_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images/two.jpg").unlink()
    words = ["data", "check", str(data / "coco.json"), str(data / "images"), "--json", "--masks"]
    assert main(words) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["wrong"] == 1
    assert report["findings"][0]["examples"][0]["item"] == "two.jpg"
    assert report["classes"][0] == {
        "id": 5, "name": "cat", "regions": 2, "images": 2, "frequency": "",
    }  # fmt: skip


def test_a_check_needs_no_torch(data: Path) -> None:
    code = (
        "import sys; from anyregion.cli.main import main; "
        f"main(['data', 'check', {str(data / 'coco.json')!r}, {str(data / 'images')!r}]); "
        "sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@needs_shared
@pytest.mark.parametrize(
    "name",
    ["coco/annotations/instances_val_masks", "odinw_style/chess/annotations/instances_train"],
)
def test_the_shared_data_are_sound(name: str) -> None:
    path = SHARED / f"data/{name}.json"
    report = check_data(read_annotations(path, masks=True), path.parents[1] / "images")
    assert report.wrong == 0
    assert report.regions > 1000
