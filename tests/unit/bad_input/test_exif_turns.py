"""Images that EXIF turns, with boxes that may have been drawn before or after that."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion import factory
from anyregion.cli.main import main
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.check import check_data
from anyregion.data.features import load_sample
from anyregion.errors import InputError, InputWarning
from anyregion.images import Pixels
from anyregion.io.exemplars import load_exemplars
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from tests.helpers.colours import ColourEncoder, colour_recognizer

# what tells the two halves apart, by the place in the upright image
BOX = [0, 0, 20, 30]


class WholeImage:
    """A proposer of one region, the left half."""

    name = fingerprint = "whole"

    def propose(self, image: Pixels) -> Regions:
        return Regions.from_boxes([[0, 0, image.shape[1] / 2, image.shape[0]]])


def data(folder: Path, turn: int, *, stored: tuple[int, int], stated: Any) -> Path:
    """`photos/x.jpg`, turned by EXIF, and a file of regions that states a size, or none."""
    exif = Image.Exif()
    exif[0x0112] = turn
    (folder / "photos").mkdir()
    Image.new("RGB", stored, "red").save(folder / "photos/x.jpg", exif=exif)
    Image.new("RGB", stored, "red").save(folder / "photos/y.jpg")
    images: list[dict[str, Any]] = [{"id": i, "file_name": f"{n}.jpg"} for i, n in ((1, "x"),)]
    if stated is not None:
        images[0] |= {"width": stated[0], "height": stated[1]}
    region = {"id": 7, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 600, "iscrowd": 0}
    path = folder / "coco.json"
    categories = [{"id": 1, "name": "red"}]
    path.write_text(
        json.dumps({"images": images, "annotations": [region], "categories": categories})
    )
    return path


def recognize(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(factory, "load_recognizer", lambda *_, **__: colour_recognizer())
    words = ["recognize", folder / "photos/x.jpg", "--regions", folder / "coco.json"]
    words += ["--vocabulary", "red,blue", "--out", folder / "out", "--no-pictures"]
    return main([str(word) for word in words])


# as stored: the sides are exchanged by 90 degrees
AS_STORED = {"turn": 6, "stored": (60, 40), "stated": (60, 40)}
# of these no size tells: turned by 180 degrees, mirrored, square, no size stated
HIDDEN = [
    {"turn": 3, "stored": (60, 40), "stated": (60, 40)},
    {"turn": 2, "stored": (60, 40), "stated": (60, 40)},
    {"turn": 8, "stored": (40, 40), "stated": (40, 40)},
    {"turn": 6, "stored": (60, 40), "stated": None},
]
# stated upright, or nothing turned
CLEAR = [
    {"turn": 6, "stored": (60, 40), "stated": (40, 60)},
    {"turn": 1, "stored": (60, 40), "stated": (60, 40)},
]


def test_boxes_of_the_stored_image_are_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data(tmp_path, **AS_STORED)
    assert recognize(tmp_path, monkeypatch) == 1
    text = capsys.readouterr().err
    assert "is 40 x 60 upright, but the region file says 60 x 40: so it is stored, before" in text


@pytest.mark.parametrize("case", HIDDEN, ids=str)
def test_a_turn_that_no_size_shows_is_warned_of(
    case: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data(tmp_path, **case)
    assert recognize(tmp_path, monkeypatch) == 0
    text = capsys.readouterr().err
    assert "anyregion: warning: EXIF turns 1 images (x.jpg), and no size says" in text
    assert "were taken to refer to the upright images" in text


@pytest.mark.parametrize("case", CLEAR, ids=str)
def test_a_turn_that_a_size_shows_is_not_warned_of(
    case: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data(tmp_path, **case)
    assert recognize(tmp_path, monkeypatch) == 0
    assert "EXIF" not in capsys.readouterr().err


@pytest.mark.parametrize("turn", [1, 2, 3, 6])
@pytest.mark.parametrize("prompt", [["--box", "0,0,20,30"], ["--point", "5,5"], None], ids=str)
def test_a_turn_under_typed_prompts_is_warned_of(
    prompt: list[str] | None,
    turn: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data(tmp_path, turn, stored=(60, 40), stated=None)
    monkeypatch.setattr(factory, "load_recognizer", lambda *_, **__: colour_recognizer())
    monkeypatch.setattr(factory, "load_proposer", lambda *_, **__: WholeImage())
    words = ["recognize", str(tmp_path / "photos/x.jpg"), *(prompt or ["--regions", "auto"])]
    words += ["--vocabulary", "red,blue", "--out", str(tmp_path / "out"), "--no-pictures"]
    assert main(words) == 0
    warned = "EXIF turns 1 images (x.jpg), and no size says" in capsys.readouterr().err
    # what is proposed, is proposed in the upright image
    assert warned == (turn != 1 and prompt is not None)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("case", [*HIDDEN, *CLEAR], ids=str)
def test_data_check_lists_turns_that_no_size_shows(
    case: dict[str, Any], decode: bool, tmp_path: Path
) -> None:
    annotations = read_annotations(data(tmp_path, **case))
    report = check_data(annotations, tmp_path / "photos", decode=decode)
    listed = [f for f in report.findings if "before or after that" in f.what]
    assert bool(listed) == (case in HIDDEN)
    assert report.wrong == 0


@pytest.mark.parametrize("case", [AS_STORED, *HIDDEN, *CLEAR], ids=str)
def test_what_a_training_reads_is_warned_of_too(case: dict[str, Any], tmp_path: Path) -> None:
    annotations = read_annotations(data(tmp_path, **case))
    path = tmp_path / "photos/x.jpg"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if case is AS_STORED:
            with pytest.raises(InputError, match="annotations say 60 x 40: so it is stored"):
                load_sample(path.read_bytes(), path, annotations, 0)
        else:
            load_sample(path.read_bytes(), path, annotations, 0)
    assert [w.category for w in seen] == [InputWarning] * (case in HIDDEN)


def test_exemplars_of_another_size_than_stated_are_refused(tmp_path: Path) -> None:
    shown = load_exemplars(data(tmp_path, **AS_STORED), images=tmp_path / "photos")
    recognizer = Recognizer(ColourEncoder(), cache=None)
    with pytest.raises(InputError, match="40 x 60, but its regions were drawn on 60 x 40: so it"):
        recognizer.encode_vocabulary(shown)
