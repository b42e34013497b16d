"""`anyregion teach`, and what takes the vocabulary that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anyregion import load_vocabulary
from anyregion.cli.main import main
from tests.helpers.halves import picture

COLOURS = [("tomato", "navy"), ("navy", "olive"), ("olive", "tomato")]
NAMES = ["fruit", "sea", "leaf", "none of these"]
OF = {"tomato": 1, "navy": 2, "olive": 3, "gray": 4}


def write(folder: str, pairs: list[tuple[str, str]], start: int = 1) -> str:
    """Pictures of two halves, and a COCO file that says what each half is."""
    images, annotations = [], []
    for i, pair in enumerate(pairs, start=start):
        name = f"{i}.png"
        picture(Path(folder) / name, *pair)
        images.append({"id": i, "file_name": name})
        for half, colour in enumerate(pair):
            number = 2 * i + half
            annotations.append(
                {"id": number, "image_id": i, "bbox": [20 * half, 0, 20, 30],
                 "category_id": OF[colour]}
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    path = Path(f"{folder}.json")
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    corrections = write("photos", COLOURS)
    assert main(["teach", corrections, "--images", "photos", "--out", "my.vocab"]) == 0
    return "my.vocab"


def labels(out: str) -> list[str]:
    lines = Path(out, "predictions.jsonl").read_text().splitlines()
    return [region["label"] for line in lines for region in json.loads(line)["regions"]]


def test_what_was_taught_is_named(taught: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teach", "photos.json", "--images", "photos", "--out", taught]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"regions new +6\n", printed)
    assert "right without own image: the share of these examples" in printed
    regions = write("more", [("navy", "tomato")], start=50)
    command = ["recognize", "more", "--regions", regions, "--vocabulary", taught, "--csv"]
    assert main([*command, "--out", "run"]) == 0
    assert labels("run") == ["sea", "fruit"]
    header, row, _ = Path("run/predictions.csv").read_text().splitlines()
    assert header.split(",")[8:10] == ["margin", "none"]
    assert 0 <= float(row.split(",")[9]) < 0.5
    annotation = json.loads(Path("run/predictions.json").read_text())["annotations"][0]
    assert annotation["labels"][0] == "sea"
    assert len(annotation["scores"]) == 3
    assert "none" in annotation


def test_evaluations_take_it(taught: str, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = write("held_out", [("navy", "tomato"), ("gray", "olive")], start=50)
    data = ["--annotations", held_out, "--images", "held_out", "--vocabulary", taught, "--json"]
    capsys.readouterr()
    assert main(["evaluate", "classification", *data]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["regions"], report["top1"], report["outside_vocabulary"]) == (3, 1, 1)
    assert main(["evaluate", "detection", *data]) == 0
    # the grey half has none of the names, and is a false alarm of one of them
    assert json.loads(capsys.readouterr().out)["boxes"]["AP"] > 0.7
    assert main(["evaluate", "calibration", *data]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["top1"], report["regions"]) == (1, 4)
    (refusal,) = report["refusals"]
    assert (refusal["present"], refusal["absent"]) == (3, 1)
    # scores are for this vocabulary
    assert report["auroc"] == refusal["auroc"]
    assert main(["evaluate", "calibration", *data[:4], "--vocabulary", "sea, leaf"]) == 1
    assert "only a taught one" in capsys.readouterr().err


def test_teaching_again_needs_no_image(
    taught: str, colours: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path("photos").iterdir():
        path.unlink()
    content = json.loads(Path("photos.json").read_text())
    content["annotations"][0]["category_id"] = 3
    Path("photos.json").write_text(json.dumps(content))
    again = ["teach", "photos.json", "--vocabulary", taught, "--out", "again.vocab"]
    assert main(again) == 0
    assert re.search(r"regions known +6\n", capsys.readouterr().out)
    before, after = (load_vocabulary(name) for name in (taught, "again.vocab"))
    assert (before.counts.tolist(), after.counts.tolist()) == ([2, 2, 2], [1, 2, 3])
    # with the folder too, which holds none of them
    assert main([*again, "--images", "photos"]) == 0


def test_more_corrections_join_and_others_are_forgotten(taught: str) -> None:
    more = write("more", [("gray", "navy")], start=50)
    command = ["teach", more, "--images", "more", "--vocabulary", taught, "--out", "more.vocab"]
    assert main(command) == 0
    vocabulary = load_vocabulary("more.vocab")
    assert vocabulary.corrections.labels.tolist() == [0, 1, 1, 2, 2, 0, -1, 1]
    assert vocabulary.vocabulary.names == ("fruit", "sea", "leaf")
    forget = ["teach", "--vocabulary", "more.vocab", "--out", "less.vocab", "--forget"]
    assert main([*forget, "50.png:100", "--forget", "1.png"]) == 0
    assert load_vocabulary("less.vocab").corrections.labels.tolist() == [1, 2, 2, 0, 1]
    assert main([*forget, "nothing.png"]) == 1


def test_a_precision_refuses(taught: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recognize", "photos", "--regions", "photos.json", "--vocabulary", taught]
    # six corrections cannot tell of such a precision
    assert main([*command, "--precision", "0.999999", "--out", "run"]) == 0
    assert "refused     6" in capsys.readouterr().out
    assert json.loads(Path("run/predictions.json").read_text())["annotations"] == []
    plain = ["recognize", "photos", "--regions", "photos.json", "--vocabulary", "a, b"]
    assert main([*plain, "--precision", "0.9", "--out", "run2"]) == 1
    assert "needs a taught vocabulary" in capsys.readouterr().err


def test_an_edited_run_is_a_file_of_corrections(
    taught: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["recognize", "photos", "--regions", "photos.json", "--vocabulary", "olive, navy"]
    assert main([*command, "--out", "run"]) == 0
    path = Path("run/predictions.json")
    assert main(["teach", str(path), "--images", "photos", "--out", "same.vocab"]) == 0
    assert "nothing was corrected" in capsys.readouterr().err
    content = json.loads(path.read_text())
    first = next(a for a in content["annotations"] if a["category_id"] == 2)
    first["category_id"] = 1
    path.write_text(json.dumps(content))
    assert main(["teach", str(path), "--images", "photos", "--out", "few.vocab"]) == 0
    assert "5 of 6 names are as they were answered, and count as right" in capsys.readouterr().err
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    path.write_text(json.dumps(content))
    assert main(["teach", str(path), "--images", "photos", "--out", "edited.vocab"]) == 0
    assert load_vocabulary("edited.vocab").counts.tolist() == [6, 0]
    assert "nothing was corrected" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos.json", "--out", "x.json"], "is called FILE.vocab"),
        (["--out", "x.vocab"], "nothing to learn"),
        (["--forget", "1.png", "--out", "x.vocab"], "--forget needs a taught vocabulary"),
        (["photos.json", "--out", "x.vocab"], "not seen before"),
        (["names.json", "--images", "photos", "--out", "x.vocab"], "no categories"),
    ],
)
def test_wrong_arguments(
    taught: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("names.json").write_text('{"1.png": {"boxes": [[0, 0, 20, 30]]}}')
    assert main(["teach", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not Path("x.vocab").exists()


def change(path: str, **changes: Any) -> dict[str, Any]:
    """A file of corrections with other parts."""
    content = json.loads(Path(path).read_text()) | changes
    Path(path).write_text(json.dumps(content))
    return content


def test_of_two_names_for_one_region_the_later_counts_and_it_is_said(
    taught: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path("photos.json").read_text())
    again = content["annotations"][0] | {"id": 99, "category_id": 2}
    # a copy of the image under another name is the same image
    Path("photos/copy.png").write_bytes(Path("photos/1.png").read_bytes())
    copied = [
        {"id": 100 + i, "image_id": 9, "bbox": [20 * i, 0, 20, 30], "category_id": 3}
        for i in (0, 1)
    ]
    change(
        "photos.json",
        images=[*content["images"], {"id": 9, "file_name": "copy.png"}],
        annotations=[*content["annotations"], again, *copied],
    )
    command = ["teach", "photos.json", "--images", "photos", "--out", "two.vocab"]
    # seen now, and seen before
    for known in ([], ["--vocabulary", taught], ["--vocabulary", "two.vocab"]):
        assert main([*command, *known]) == 3
        error = capsys.readouterr().err
        assert "1.png, region 2: called 'fruit', but the same region is called 'sea' later" in error
        assert "1.png, region 99: called 'sea', but the same region is called 'leaf'" in error
        assert load_vocabulary("two.vocab").corrections.labels.tolist() == [2, 2, 1, 2, 2, 0]


def test_names_that_are_one_and_names_that_are_none(
    taught: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path("photos.json").read_text())
    rows = content["annotations"]
    rows[0]["category_id"], rows[1]["category_id"], rows[2]["category_id"] = 5, 6, 7
    more = [{"id": 5, "name": "FRUIT"}, {"id": 6, "name": " "}, {"id": 7, "name": "Fruit "}]
    change("photos.json", annotations=rows, categories=content["categories"] + more)
    command = ["teach", "photos.json", "--images", "photos", "--out", "x.vocab"]
    assert main(command) == 3
    error = capsys.readouterr().err
    assert "category 5: 'FRUIT' repeats 'fruit'" in error
    assert "1.png: 1 of 2 regions have no category that the file names" in error
    assert load_vocabulary("x.vocab").counts.tolist() == [3, 0, 2]
    # and where names of the vocabulary are others, and these join them
    assert main([*command, "--vocabulary", "a, b"]) == 3
    assert load_vocabulary("x.vocab").vocabulary.names == ("a", "b", "FRUIT", "leaf")


def test_regions_that_are_none_of_these_are_answered_rightly_too(
    taught: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = [(colour, "gray") for colour in ("tomato", "navy", "olive")] * 4
    corrections = write("grey", [(a, b) for a, b in grey], start=20)
    for i, name in enumerate(sorted(Path("grey").iterdir())):
        # images of equal bytes are one
        picture(name, *grey[i], size=(40, 30 + i))
    assert main(["teach", corrections, "--images", "grey", "--out", "g.vocab"]) == 0
    # none of these is no name, but it is what half of them are
    assert "right without own image  100.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos.json", "--images", "gone"], "gone: there is no such folder of images"),
        (["photos.json", "--images", "photos.json"], "there is no such folder of images"),
        (["my.vocab", "--images", "photos"], "a taught vocabulary, not corrections"),
        (["photos.json", "--images", "photos", "--out", "photos.vocab"], "a folder"),
        (["photos.json", "--images", "photos", "--out", "photos.json/x.vocab"], "be written"),
        (["photos.json", "--vocabulary", "my.vocab", "--score", "softmax"], "by probability"),
    ],
)
def test_what_cannot_work_is_said_before_an_image_is_seen(
    taught: str, colours: list[Any], arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("photos.vocab").mkdir()
    out = [] if "--out" in arguments else ["--out", "x.vocab"]
    assert main(["teach", *arguments, *out]) == 1
    assert message in capsys.readouterr().err
    assert not Path("x.vocab").exists()


def test_a_score_of_another_kind_sets_no_image_aside(
    taught: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["recognize", "photos", "--regions", "photos.json", "--vocabulary", taught]
    assert main([*command, "--score", "softmax", "--out", "run"]) == 1
    assert "a taught vocabulary scores by probability" in capsys.readouterr().err
    assert not Path("run").exists()
