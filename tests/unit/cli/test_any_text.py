"""Text that is no Unicode, in every place it may come from and every place it ends in."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from anyregion import Regions
from anyregion.cli import terminal
from anyregion.cli.main import main
from anyregion.drawing import draw
from anyregion.files import write_json, write_text
from tests.helpers.colours import colour_recognizer
from tests.helpers.halves import picture
from tests.helpers.runs import lines

HALF = "\ud83d"


def test_halves_in_templates_are_said(
    tmp_path: Path, colours: object, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "one.png", "red", "blue")
    words = ["recognize", str(tmp_path / "one.png"), "--box", "0,0,9,9", "--vocabulary", "red,blue"]
    words += ["--no-pictures", "--out"]
    assert (
        main([*words, str(tmp_path / "a"), "--templates", "a {}", f"--templates={HALF} {{}}"]) == 0
    )
    said = capsys.readouterr().err
    assert said.count("read from the templates (1)") == 1
    assert "'\ufffd {}': halves of characters" in said
    assert (
        main([*words, str(tmp_path / "b"), "--templates", "a {}", "--templates", "ein {} für"]) == 0
    )
    assert "templates" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are no UTF-8")
def test_halves_and_bytes_in_every_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, colours: object
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "one.png", "red", "blue")
    name = os.fsdecode(b"\xff.png")
    shutil.move("one.png", name)
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    content = {
        "images": [{"id": 1, "file_name": name, "width": 40, "height": 30}],
        "annotations": [
            box | {"id": HALF},
            box | {"id": "ok"},
            box | {"id": "bad", "bbox": [HALF]},
        ],
        "categories": [{"id": 1, "name": HALF}],
    }
    Path("regions.json").write_text(json.dumps(content))
    Path("names.json").write_text(json.dumps([f"red{HALF}", "\U0001f600", "猫"]))
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])
    words = ["recognize", name, "--regions", "regions.json", "--vocabulary", "names.json", "--csv"]
    assert main(words) == 3
    for stream in streams:
        stream.flush()
    printed, errors = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert "region" in printed
    assert "entry 1: halves of characters" in errors
    out = Path("anyregion-results")
    for file in out.iterdir():
        if file.is_file():
            file.read_bytes().decode("utf-8")
    (line,) = lines(out / "predictions.jsonl")
    assert line["image"] == name
    assert line["regions"][0]["id"] == HALF
    assert HALF not in "".join(n for r in line["regions"] for n in r["labels"])
    coco = json.loads((out / "predictions.json").read_text())
    assert coco["categories"][0]["name"] == "red\ufffd"
    assert "\\udcff.png" in (out / "predictions.csv").read_text()
    assert (out / "pictures" / name).is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are no UTF-8")
@pytest.mark.parametrize("words", [[], ["--vocabulary", "cat"]])
def test_a_name_that_is_a_folder_of_no_utf_8(
    photos: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, colour in ((os.fsdecode(b"re\xff"), "red"), ("blue", "blue")):
        picture(Path("shown") / folder / "a.png", colour, colour)
    rest = ["--exemplars", "shown", "--no-pictures", *words]
    assert main(["recognize", "photos/one.png", "--box", "0,0,20,30", *rest]) == 0
    printed = capsys.readouterr()
    assert "re\ufffd" in printed.out
    assert "halves of characters" in printed.err


def test_forms_of_predictions(tmp_path: Path) -> None:
    photo = picture(tmp_path / "one.png", "red", "blue")
    regions = Regions.from_boxes([[0, 0, 9, 9]], ids=[HALF])
    (answer,) = colour_recognizer().recognize([photo], [regions], ["red", f"x{HALF}"])
    assert json.loads(answer.to_jsonl().encode())["id"] == HALF
    answer.to_csv(os.fsdecode(b"\xff.png")).encode()
    draw(np.zeros((30, 40, 3), np.uint8), [{"box": [1, 1, 9, 9], "label": HALF, "score": 1.0}])


def test_files_stay_utf_8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": HALF, "other": "猫"}, indent=2)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["name"] == HALF
    write_json(tmp_path / "b.json", {"other": "猫"})
    assert "猫" in (tmp_path / "b.json").read_text(encoding="utf-8")
    write_text(tmp_path / "card.md", f"# {HALF}\n")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == "# \\ud83d\n"


def test_long_tables_are_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(i, "猫" if i % 2 else "[red] cat", 0.5) for i in range(2000)]
    terminal.table(("region", "name", "score"), rows, numbers=(2,))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2001
    assert printed[0] == "region  name       score"
    assert printed[1:3] == [
        "0       [red] cat    0.5",
        "1       猫           0.5",
    ]


def test_a_table_of_one_image_shows_a_hundred_rows(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [word for i in range(130) for word in ("--box", f"0,0,{10 + i / 10},20")]
    words = ["recognize", "photos/one.png", *boxes, "--vocabulary", "red,blue", "--no-pictures"]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[100].split()[0] == "99"
    assert printed[101] == "... and 30 more in anyregion-results/predictions.jsonl"
    assert any(line.split() == ["regions", "130"] for line in printed)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files with control characters")
def test_names_of_files_command_no_terminal(
    tmp_path: Path, colours: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder from elsewhere may hold a name that renames the window, or hides a line."""
    picture(tmp_path / "photos" / "one.png", "red", "blue")
    (tmp_path / "photos" / "\x1b[2Kbad\n\x07.png").write_bytes(b"no image")
    words = ["--box", "0,0,9,9", "--vocabulary", "red,blue", "--no-pictures"]
    run = ["recognize", str(tmp_path / "photos"), *words, "--out", str(tmp_path / "out")]
    assert main(run) == 3
    said = capsys.readouterr()
    assert "\\x1b[2Kbad\\n\\x07.png" in said.err
    assert main(["recognize", str(tmp_path / "\x1b[2K.png"), *words]) == 1
    terminal.table(["image"], [["\x1b[2K.png"]])
    said_more = capsys.readouterr()
    for text in (*said, *said_more):
        assert "\x1b" not in text
        assert "\x07" not in text
