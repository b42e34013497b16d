"""`anyregion recognize`: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anyregion import __version__, factory
from anyregion.cli import terminal
from anyregion.errors import MissingExtraError
from tests.helpers.colours import ColourWords
from tests.helpers.command_line import BOXES, recognize
from tests.helpers.runs import labels, lines


def test_one_photo(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recognize("photos/one.png", *BOXES) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["region", "name", "score", "box"]
    assert "red" in printed.out
    assert "20, 0, 40, 30" in printed.out
    assert "anyregion-results" in printed.out
    assert printed.err == ""
    out = Path("anyregion-results")
    assert labels(out) == {"one.png": ["red", "blue"]}
    assert (out / "pictures" / "one.png").is_file()
    assert json.loads((out / "run.json").read_text())["anyregion"] == __version__


def test_progress_without_a_terminal(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0)
    assert recognize("photos", *BOXES, "--batch-size", "1") == 0
    progress = capsys.readouterr().err
    assert "naming regions: 1/2 images, 0:00 left" in progress
    assert "naming regions: 2/2 images, 0:00 left" in progress


@pytest.mark.parametrize("box", [["--box", "-3,-2.5,20,30"], ["--box=-3,-2.5,20,30"]])
def test_a_box_may_begin_below_zero(photos: Path, box: list[str]) -> None:
    assert recognize("photos/one.png", *box) == 0
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    assert line["regions"][0]["box"] == [0, 0, 20, 30]


def test_points(photos: Path) -> None:
    points = ["--point", "5,5", "--point", "30,5;32,8;2,2,0"]
    assert recognize("photos/one.png", "--box=0,0,40,30", *points) == 0
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    _, first, second = line["regions"]
    assert (first["points"], first["point_labels"]) == ([[5, 5]], [1])
    assert second["points"] == [[30, 5], [32, 8], [2, 2]]
    assert second["point_labels"] == [1, 1, 0]


def test_other_settings_are_an_error(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recognize("photos", *BOXES) == 0
    assert recognize("photos", *BOXES, "--top-k", "2") == 1
    assert "top_k was 5, now 2" in capsys.readouterr().err
    assert recognize("photos", *BOXES, "--top-k", "2", "--overwrite") == 0
    assert recognize("photos", *BOXES, "--out", "elsewhere") == 0


def test_set_aside_is_exit_code_3(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "bad.jpg").write_bytes(b"bad")
    assert recognize("photos", *BOXES) == 3
    assert "bad.jpg: " in capsys.readouterr().err
    (skipped,) = lines(Path("anyregion-results/skipped.jsonl"))
    assert (skipped["image"], skipped["item"]) == ("bad.jpg", "image")
    assert recognize("photos/bad.jpg", *BOXES, "--out", "none") == 1, "nothing useful was done"


def test_regions_from_a_file(photos: Path, colours: list[Any]) -> None:
    boxes = {"one.png": {"boxes": [[0, 0, 20, 30]], "scores": [0.5], "labels": [3]}}
    Path("boxes.json").write_text(json.dumps(boxes))
    assert recognize("photos", "--regions", "boxes.json") == 3, "two.png has no regions"
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    assert line["image"] == "one.png"
    assert 0.4 < line["regions"][0]["score"] <= 0.5, "the detector's score multiplies"
    again = ["photos", "--regions", "boxes.json", "--ignore-scores"]
    assert recognize(*again) == 1, "another setting may not continue"
    assert recognize(*again, "--overwrite") == 3
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    assert line["regions"][0]["score"] > 0.9


def test_the_model_of_the_arguments(photos: Path, colours: list[Any]) -> None:
    assert recognize("photos", *BOXES, "--model", "folder", "--method", "masked-crop",
                     "--localizer", "sam", "--vlm", "clip", "--device", "cuda:1",
                     "--tiles", "9") == 0  # fmt: skip
    assert colours == [
        ((), {"model": "folder", "method": "masked-crop", "localizer": "sam", "vlm": "clip",
              "antialias": None, "device": "cuda:1", "dtype": "float32", "tiles": 9,
              "fast": False})]  # fmt: skip
    assert recognize("photos", *BOXES, "--model", "folder", "--no-antialias", "--out", "o2") == 0
    assert colours[1][1]["antialias"] is False
    settings = json.loads(Path("o2/run.json").read_text())["settings"]
    assert settings["antialias"] is False


def test_prompts_of_the_arguments(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    encode = ColourWords.encode_text
    monkeypatch.setattr(
        ColourWords, "encode_text", lambda self, texts: read.extend(texts) or encode(self, texts)
    )
    words = ["photos", *BOXES, "--vocabulary", "dark_red | ruby, blue", "--templates", "so {}"]
    assert recognize(*words, "--out", "a") == 0
    assert read == ["so dark red", "so ruby", "so blue"]
    read.clear()
    assert recognize(*words, "--out", "b", "--cleaning", "published", "--no-synonyms") == 0
    assert read == ["so dark_red", "so blue"]


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("coco", "80 names (built-in coco)"),
        ("./n.txt", "2 names (file ./n.txt)"),
        ("a", "1 name"),
    ],
)
def test_the_vocabulary_is_named(
    photos: Path, words: str, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("n.txt").write_text("red\nblue\n")
    assert recognize("photos", *BOXES, "--vocabulary", words) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["vocabulary", row] in rows


def test_one_name_under_softmax_is_doubtful(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["photos", *BOXES, "--vocabulary", "red"]
    assert recognize(*words, "--score", "softmax") == 0
    warning = "one name always scores 1 under softmax: use --score sigmoid"
    assert warning in capsys.readouterr().err
    assert recognize(*words, "--score", "sigmoid", "--overwrite") == 0
    assert capsys.readouterr().err == ""


def test_doubtful_names_are_reported(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recognize("photos", *BOXES, "--vocabulary", "red,blue,Red,[bold]zzz") == 0
    error = capsys.readouterr().err
    assert "left out of the vocabulary (1)" in error
    assert "'Red' repeats 'red'" in error
    assert "no words for (1):\n  [bold]zzz" in error


def test_names_in_brackets_are_printed_as_they_are(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognize("photos/one.png", *BOXES, "--vocabulary", "[red],:smile:") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:2] == ["0", "[red]"]


def test_no_pictures_and_csv(photos: Path) -> None:
    assert recognize("photos", *BOXES, "--no-pictures", "--csv") == 0
    assert not Path("anyregion-results/pictures").exists()
    assert len(Path("anyregion-results/predictions.csv").read_text().splitlines()) == 5


def test_a_missing_extra_is_reported(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(**_: Any) -> Any:
        raise MissingExtraError("this needs torch: pip install 'anyregion[torch]'")

    monkeypatch.setattr(factory, "load_recognizer", load)
    assert recognize("photos", *BOXES, "--model", "openai/clip-vit-base-patch16") == 1
    assert "pip install 'anyregion[torch]'" in capsys.readouterr().err


def test_bugs_keep_their_traceback(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "load_recognizer", lambda **_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        recognize("photos", *BOXES)
