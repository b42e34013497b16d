"""`anyregion index`, `name`, `search` and `stats`, with the recogniser of colours as the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyregion.cli.main import main
from tests.helpers.coco_files import region, write

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")


@pytest.fixture
def index(photos: Path, tmp_path: Path) -> Path:
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 30, "width": 40}
            for i, name in enumerate(("one", "two"), 1)
        ],
        "categories": [{"id": 1, "name": "half"}],
        "annotations": [
            region(10 * i + side, i, 1, [20 * side, 0, 20, 30]) for i in (1, 2) for side in (0, 1)
        ],
    }
    regions = write(tmp_path / "regions.json", content)
    out = tmp_path / "index"
    assert main(["index", str(photos), "--regions", str(regions), "--out", str(out)]) == 0
    return out


def test_from_photos_to_counts(
    index: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "red,blue,lime,white"
    assert main(["name", str(index), "--vocabulary", names, "--out", "out", "--csv"]) == 0
    predictions = json.loads(Path("out/predictions.json").read_text())
    labels = {a["region_id"]: a["labels"][0] for a in predictions["annotations"]}
    assert labels == {10: "red", 11: "blue", 20: "lime", 21: "white"}
    assert {image["id"] for image in predictions["images"]} == {1, 2}
    capsys.readouterr()
    assert main(["search", str(index), "lime", "--top", "1", "--out", "found"]) == 0
    assert "two.png" in capsys.readouterr().out
    (line,) = Path("found/matches.jsonl").read_text().splitlines()
    assert (json.loads(line)["image"], json.loads(line)["id"]) == ("two.png", 20)
    assert main(["search", str(index), "--like", f"{photos}/one.png:20,0,40,30", "--top", "1"]) == 0
    assert "one.png" in capsys.readouterr().out
    assert main(["stats", str(index), "--vocabulary", names, "--out", "counts"]) == 0
    assert Path("counts/names.csv").read_text().count("\n") == 5
    assert "regions" in capsys.readouterr().out


def test_all_images_with_something(
    index: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["search", str(index), "red", "--min-similarity", "0.9", "--by", "image"]
    assert main([*words, "--out", "found"]) == 0
    printed = capsys.readouterr().out
    assert "regions" in printed
    assert "matches     1" in printed
    (row,) = [json.loads(line) for line in Path("found/matches.jsonl").read_text().splitlines()]
    assert (row["image"], row["id"], row["regions"]) == ("one.png", 10, 1)
    assert Path("found/images.txt").read_text() == f"{(photos / 'one.png').absolute()}\n"
    recognize = ["recognize", "found/images.txt", "--vocabulary", "red,blue", "--box", "0,0,20,30"]
    assert main([*recognize, "--out", "again"]) == 0
    content = json.loads(Path("again/predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["one.png"]
    assert main(["search", str(index), "yellow", "--min-similarity", "1", "--out", "none"]) == 0
    assert main(["recognize", "none/images.txt", "--vocabulary", "red", "--box", "0,0,2,3"]) == 1
    assert "no image" in capsys.readouterr().err


def test_taught_and_asked_without_an_image(
    index: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regions = tmp_path / "regions.json"
    assert main(
        ["index", str(photos), "--regions", str(regions), "--out", "features", "--features"]
    ) == 0  # fmt: skip
    names = "red,blue,lime,white"
    photos.rename(tmp_path / "gone")
    capsys.readouterr()
    assert main(["queue", "features", "--vocabulary", names, "--out", "asked", "--count", "2"]) == 0
    assert "2, in" in capsys.readouterr().out
    content = json.loads(Path("asked/queue.json").read_text())
    assert len(content["annotations"]) == 2
    teach = ["teach", "asked/queue.json", "--vocabulary", names, "--out", "my.vocab"]
    assert main([*teach, "--index", "features"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["of", "the", "index", "2"] in printed
    assert ["images", "seen", "0"] in printed
    assert main(["name", "features", "--vocabulary", "my.vocab"]) == 0
    assert main([*teach, "--index", str(index)]) == 1
    assert "index with --features" in capsys.readouterr().err
    assert main(["queue", "features", "--vocabulary", names]) == 1
    assert "say where to write" in capsys.readouterr().err


def test_what_makes_no_sense_is_refused(
    index: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, reason in (
        (["index", str(photos), "--out", "x", "--score", "softmax"], "an index has no scores"),
        (["index", "nothing", "--out", "x"], "no image there"),
        (["name", str(index), "--vocabulary", "red,blue", "--csv"], "--csv: only with --out"),
        (["name", "nothing", "--vocabulary", "red,blue"], "not an index"),
        (["search", str(photos), "red"], "`anyregion index PHOTOS --out INDEX` makes one"),
        (["name", str(index), "--vocabulary", "red", "--out", "y", "--masks"], "has no masks"),
        (["search", str(index)], "give either words"),
        (["search", str(index), "--like", "one.png:1,2,3"], "is not x0,y0,x1,y1"),
    ):
        capsys.readouterr()
        assert main(words) == 1, words
        assert reason in capsys.readouterr().err
