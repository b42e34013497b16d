"""Sets to train on, made of a run's sure names, and the list of what is to be looked at."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from anyregion.cli.main import main
from anyregion.data import read_annotations
from anyregion.errors import InputError
from anyregion.io.labels import LabelledRegion
from anyregion.io.regions import load_regions
from anyregion.runs.dataset import DatasetOptions, DatasetReport, doubt, make_dataset
from tests.helpers.halves import picture
from tests.helpers.runs import run

SURE = [("red", "blue"), ("lime", "white"), ("blue", "red"), ("red", "lime"), ("white", "blue")]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run over five photographs of pure colours, and one whose right half is between colours."""
    for i, pair in enumerate(SURE):
        picture(tmp_path / "photos" / f"{i}.png", *pair)
    picture(tmp_path / "photos" / "sub" / "grey.png", "red", "#7a6f30")
    run(tmp_path / "photos", tmp_path / "run", pictures=False)
    return tmp_path / "run"


def scores(results: Path) -> dict[tuple[str, int], float]:
    lines = (results / "predictions.jsonl").read_text().splitlines()
    return {
        (line["image"], r["id"]): r["score"]
        for line in map(json.loads, lines)
        for r in line["regions"]
    }


@pytest.fixture
def cut(results: Path) -> float:
    """A score that only the grey half lies below."""
    listed = scores(results)
    low = listed.pop(("sub/grey.png", 1))
    assert low < min(listed.values())
    return (low + min(listed.values())) / 2


def build(results: Path, **options: object) -> DatasetReport:
    return make_dataset(results, results.parent / "set", DatasetOptions(**options))  # type: ignore[arg-type]


def test_sure_names_are_a_set_and_doubtful_ones_a_list(results: Path, cut: float) -> None:
    report = build(results, min_score=cut)
    assert (sum(report.images.values()), sum(report.regions.values())) == (6, 11)
    assert report.images == {"train": 5, "val": 1}
    assert (report.doubtful, report.empty, report.copies) == (1, 0, 0)
    out = results.parent / "set"
    file = load_regions(out)
    assert len(file.images) == 6
    assert not file.set_aside
    assert sum(len(e.regions) for e in file.images.values()) == 11
    assert file.categories[0] == "red"
    assert report.classes["red"] == {
        split: sum(
            file.categories[c] == "red"
            for e in file.images.values()
            if f"/{split}/" in str(e.file_name)
            for c in e.regions.categories.tolist()  # type: ignore[union-attr]
        )
        for split in ("train", "val")
    }
    with (out / "review.csv").open(newline="") as table:
        (row,) = csv.DictReader(table)
    assert (row["image"], row["id"]) == ("sub/grey.png", "1")
    assert "is below" in row["why"]
    assert row["split"] in ("train", "val")
    review = load_regions(out / "review.json").images["1"]
    assert review.file_name == "sub/grey.png"
    assert review.regions.boxes.tolist() == [[20, 0, 40, 30]]
    summary = json.loads((out / "dataset.json").read_text())
    assert summary["settings"]["min_score"] == cut
    assert summary["doubtful"] == 1


def test_whole_images_and_background(results: Path, cut: float) -> None:
    report = build(results, min_score=cut, whole_images=True)
    assert sum(report.images.values()) == 5
    assert (report.doubtful, report.doubtful_images, report.sure_left_out) == (1, 1, 1)
    with pytest.raises(InputError, match=r"1 is needed, and 0\.\d+ the highest"):
        build(results, min_score=1.0)
    assert (results.parent / "set" / "data.yaml").is_file(), "the set before is as it was"
    top = sorted(scores(results).values())[-1]
    few = build(results, min_score=top, keep_empty=False)
    all_kept = build(results, min_score=top, keep_empty=True)
    assert few.empty == 6 - sum(few.images.values()) > 0
    assert (sum(all_kept.images.values()), all_kept.empty) == (6, 0)


def test_the_split_follows_content_and_seed(results: Path) -> None:
    def split(**options: object) -> dict[str, str]:
        build(results, min_score=0, **options)
        images = results.parent / "set" / "images"
        return {p.name: p.relative_to(images).parts[0] for p in images.rglob("*.png")}

    first = split()
    assert split() == first
    assert any(split(seed=seed) != first for seed in range(1, 5))
    assert list(split(split=0.5).values()).count("train") == 3
    # a copy of a photograph is where it is
    for name in list(first):
        source = next((results.parent / "photos").rglob(name))
        (source.parent / f"copy of {name}").write_bytes(source.read_bytes())
    run(results.parent / "photos", results, pictures=False)
    for seed in range(3):
        listed = split(split=0.5, seed=seed)
        assert len(listed) == 12
        assert all(listed[name] == listed[f"copy of {name}"] for name in first)
    assert build(results, min_score=0).copies == 6


def test_images_that_exif_turns_are_written_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, turn in (("a.jpg", exif), ("b.jpg", Image.Exif())):
        path = picture(tmp_path / "photos" / name, "red", "blue")
        with Image.open(path) as image:
            image.copy().save(path, exif=turn, quality=95)
    run(tmp_path / "photos", tmp_path / "run", pictures=False)
    build(tmp_path / "run", min_score=0)
    copies = sorted((tmp_path / "set" / "images").rglob("*.jpg"), key=lambda p: p.name)
    with Image.open(copies[0]) as image:
        assert (image.size, image.getexif().get(0x0112)) == ((30, 40), None)
    assert copies[1].read_bytes() == (tmp_path / "photos" / "b.jpg").read_bytes()
    file = load_regions(tmp_path / "set")
    assert {e.size for e in file.images.values()} == {(40, 30), (30, 40)}


def test_sets_of_coco(results: Path) -> None:
    report = build(results, min_score=0, to="coco")
    for split in ("train", "val"):
        path = results.parent / "set" / "annotations" / f"instances_{split}.json"
        annotations = read_annotations(path)
        assert len(annotations) == report.images[split]
        assert len(annotations.labels) == report.regions[split]
        for name in annotations.file_names:
            assert (results.parent / "set" / "images" / split / name).is_file()


def test_why_a_name_is_doubtful() -> None:
    region = LabelledRegion(1, (0, 0, 9, 9), "cat", 0.5, None, ("cat", "dog"), (0.5, 0.45))
    assert doubt(region, DatasetOptions()) is None
    assert "score 0.500 is below 0.6" in str(doubt(region, DatasetOptions(min_score=0.6)))
    assert "0.050 ahead of 'dog'" in str(doubt(region, DatasetOptions(min_margin=0.1)))
    refused = LabelledRegion(1, (0, 0, 9, 9), "cat", 0.9, refused=True)
    assert doubt(refused, DatasetOptions()) == "refused by the run"


def test_what_no_set_can_be_made_of(results: Path) -> None:
    with pytest.raises(InputError, match="not empty, and not a set"):
        make_dataset(results, results.parent / "photos")
    with pytest.raises(InputError, match="not the folder of a run"):
        make_dataset(results / "predictions.json", results.parent / "set")
    with pytest.raises(InputError, match="split must lie between"):
        DatasetOptions(split=1.0)
    (results.parent / "photos" / "0.png").unlink()
    report = build(results, min_score=0)
    assert [a.item for a in report.set_aside] == ["0.png"]
    assert sum(report.images.values()) == 5


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from anyregion import factory
    from tests.helpers.colours import colour_recognizer

    monkeypatch.setattr(factory, "load_recognizer", lambda *_, **__: colour_recognizer())
    monkeypatch.chdir(tmp_path)
    for i, pair in enumerate(SURE):
        picture(tmp_path / "photos" / f"{i}.png", *pair)
    boxes = {f"{i}.png": {"boxes": [[0, 0, 20, 30], [20, 0, 40, 30]]} for i in range(5)}
    Path("boxes.json").write_text(json.dumps(boxes))
    command = ["dataset", "photos", "--vocabulary", "red, lime, blue, white", "--out", "out"]
    command += ["--regions", "boxes.json", "--min-score", "0.1"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "images 4 train, 1 val" in printed
    assert "classes 4 of 4 have regions" in printed
    assert Path("out/set/data.yaml").is_file()
    assert main([*command, "--to", "coco"]) == 0
    assert not Path("out/set/data.yaml").exists(), "no labels of an earlier set stay"
