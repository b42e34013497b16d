"""`anyregion queue`, and `evaluate teaching`, which asks it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from anyregion import load_vocabulary
from anyregion.cli.main import main
from tests.unit.cli.test_teach_command import write

# nine halves of one colour, and one of another
PAIRS = [("tomato", "tomato")] * 4 + [("tomato", "navy")]
NAMES = "fruit, sea, leaf"


def vary(folder: str, start: int = 0) -> None:
    """Make every picture another one: a pixel of a grey of its own."""
    for number, path in enumerate(sorted(Path(folder).iterdir()), start=start):
        with Image.open(path) as image:
            image.putpixel((39, 29), (number, number, number))
            image.save(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    regions = write("photos", PAIRS)
    vary("photos")
    command = ["recognize", "photos", "--regions", regions, "--vocabulary", NAMES]
    assert main([*command, "--out", "run"]) == 0
    return "run"


def queued() -> list[tuple[str, str]]:
    """The file and id of each region, in order."""
    with Path("run/queue.csv").open(newline="") as file:
        return [(row["image"], row["id"]) for row in csv.DictReader(file)]


def test_rounds_of_asking_and_teaching(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["queue", run, "--vocabulary", NAMES, "--count", "2", "--crops"]) == 0
    printed = capsys.readouterr().out
    assert "stands for 9 regions" in printed
    assert "unlike what was corrected" not in printed, "nothing was corrected"
    assert "seen now, and kept" in printed
    first = queued()
    assert ("5.png", "11") in first, "the one of another colour is among the first two"
    with Image.open("run/queue_sheets/001.jpg") as sheet:
        assert sheet.size[0] > 400
    # corrected in any tool for COCO, which may say that it is none of these
    content = json.loads(Path("run/queue.json").read_text())
    assert [a["region_id"] for a in content["annotations"]] == [int(i) for _, i in first]
    assert all(a["why"] and 0 <= a["gain"] <= 1 for a in content["annotations"])
    ids = {c["name"]: c["id"] for c in content["categories"]}
    assert set(ids) == {"fruit", "sea", "leaf", "none of these"}
    for annotation in content["annotations"]:
        is_navy = annotation["region_id"] == 11
        annotation["category_id"] = ids["sea" if is_navy else "none of these"]
    Path("run/queue.json").write_text(json.dumps(content))
    teach = ["teach", "run/queue.json", "--images", "photos", "--vocabulary", NAMES]
    assert main([*teach, "--out", "my.vocab"]) == 0
    # neither the images nor what was corrected is needed again
    for path in Path("photos").iterdir():
        path.unlink()
    capsys.readouterr()
    assert main(["queue", run, "--vocabulary", "my.vocab"]) == 0
    printed = capsys.readouterr().out
    assert "kept by an earlier call" in printed
    assert "not corrected  8" in printed
    assert len(queued()) == 8
    assert not set(queued()) & set(first)


def test_a_file_of_regions(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["queue", "photos.json", "--images", "photos", "--vocabulary", NAMES]
    assert main(command) == 1
    assert "say where to write" in capsys.readouterr().err
    assert main([*command, "--out", "asked", "--count", "3"]) == 0
    assert len(json.loads(Path("asked/queue.json").read_text())["annotations"]) == 3
    # other regions are seen anew
    content = json.loads(Path("photos.json").read_text())
    content["annotations"][0]["bbox"] = [0, 0, 10, 10]
    Path("photos.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main([*command, "--out", "asked"]) == 0
    assert "seen now, and kept" in capsys.readouterr().out


def test_refused_regions_are_asked_about(run: str) -> None:
    again = ["recognize", "photos", "--regions", "photos.json", "--vocabulary", NAMES]
    assert main([*again, "--min-score", "0.999999", "--out", "run", "--overwrite"]) == 0
    assert json.loads(Path("run/predictions.json").read_text())["annotations"] == []
    assert main(["queue", "run", "--vocabulary", NAMES]) == 0
    assert len(queued()) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--vocabulary", NAMES, "--count", "5000"], "1 to 3,000 regions"),
        (["nowhere", "--vocabulary", NAMES], "there is no such folder or file"),
        (["nowhere", "--vocabulary", NAMES, "--out", "x"], "nowhere"),
        (["run", "--vocabulary", "all.vocab"], "nothing to ask"),
        (["run", "--vocabulary", NAMES, "--use-masks"], "does not keep the masks"),
        (["run", "--vocabulary", NAMES, "--images", "empty"], "no region that can be used"),
    ],
)
def test_wrong_arguments(
    run: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert main(["teach", "photos.json", "--images", "photos", "--out", "all.vocab"]) == 0
    capsys.readouterr()
    assert main(["queue", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_an_edited_journal_is_refused(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Path("run/predictions.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:2], '{"image": 3}\n']))
    capsys.readouterr()
    assert main(["queue", run, "--vocabulary", NAMES]) == 1
    assert "line 3 is malformed" in capsys.readouterr().err


def test_learning_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [("tomato", "navy"), ("navy", "olive"), ("olive", "tomato")] * 5
    annotations = write("photos", pairs)
    held_out = write("held", pairs[:3], start=50)
    vary("photos")
    vary("held", start=100)
    command = ["evaluate", "teaching", "--annotations", annotations, "--images", "photos"]
    held = ["--held-out", held_out, "--held-out-images", "held", "--seeds", "2", "--batch", "4"]
    capsys.readouterr()
    assert main([*command, *held, "--out", "curves", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["curves"].keys() == {"random", "queue"}
    for curve in report["curves"].values():
        assert [point["corrections"] for point in curve] == [0, 4, 8, 12, 18, 24]
        assert curve[-1]["top1"] == curve[-1]["mean_class_accuracy"] == 1
        assert curve[0]["exemplars_top1"] is None
        assert curve[-1]["exemplars_top1"] == 1
        assert curve[0]["top1"] < 1, "no name is a colour"
    assert report["all_corrections"]["corrections"] == 30
    assert (report["regions"], report["held_out"]) == (30, 6)
    assert {s["metric"] for s in report["saved"]} == {"top1", "mean_class_accuracy"}
    assert json.loads(Path("curves/report.json").read_text())["saved"] == report["saved"]
    with Image.open("curves/curves.png") as drawn:
        assert drawn.size[0] == 3 * 360
    # what is held out is not taught, whatever it is called
    Path("photos/1.png").write_bytes(Path("held/50.png").read_bytes())
    assert main([*command, *held, "--out", "curves", "--trained", "other"]) == 3
    printed, warned = capsys.readouterr()
    assert "1.png: held out, so it is not taught" in warned
    assert "same accuracy" in printed
    assert "all corrections" in printed
    # the same model by words alone, which stands for another one here
    assert f"trained          top-1 {report['curves']['queue'][0]['top1']:.1%}" in printed
    assert len(load_vocabulary("curves/taught.vocab").labels) == 28
    vary("photos")
    assert main([*command, "--held-out", "every:3:1", "--seeds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["held_out_images"]) == (10, 5)
    for wrong in ("every:1:0", "every:3", "every:3:3"):
        assert main([*command, "--held-out", wrong]) == 1
        assert "every:3" in capsys.readouterr().err or wrong == "every:1:0"
