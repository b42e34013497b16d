"""Sheets of a run: which regions are shown, in which order, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion import InputError
from anyregion.cli.main import main
from anyregion.drawing.crops import TILE
from anyregion.drawing.options import PictureOptions
from anyregion.drawing.palette import GREY, Colours, pale
from anyregion.runs import crop_sheets
from anyregion.runs.sheets import write_run_sheets

NAMES = ["rug", "sky"]
# label, score, the second's score, whether it is refused
REGIONS = [
    ("rug", 0.9, 0.05, False),
    ("sky", 0.5, 0.45, False),
    ("rug", 0.6, 0.3, False),
    ("sky", 0.2, 0.1, True),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run over one grey image."""
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    out.mkdir()
    Image.new("RGB", (400, 300), (90, 90, 90)).save(photos / "one.png")
    regions: list[dict[str, Any]] = []
    for i, (label, score, second, refused) in enumerate(REGIONS):
        record: dict[str, Any] = {
            "id": i,
            "box": [100 * i, 50, 100 * i + 60, 110],
            "label": label,
            "score": score,
            "labels": [label, *(name for name in NAMES if name != label)],
            "scores": [score, second],
        }
        regions.append(record | ({"refused": True} if refused else {}))
    line = {"image": "one.png", "height": 300, "width": 400, "regions": regions}
    (out / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    settings = {"root": str(photos), "settings": {}}
    (out / "run.json").write_text(json.dumps({"anyregion": "0", "models": {}, **settings}))
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    coco = {"images": [], "annotations": [], "categories": categories}
    (out / "predictions.json").write_text(json.dumps(coco))
    return out


@pytest.mark.parametrize(
    ("order", "ids"),
    [("doubt", [3, 1, 2, 0]), ("name", [0, 2, 1, 3]), ("score", [3, 1, 2, 0])],
)
def test_sorted_by_doubt_name_or_score(
    run: Path, order: Any, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[tuple[tuple[str, str], ...]]] = []
    sheet = crop_sheets.crop_sheet

    def noted(crops: Any, lines: Any, **options: Any) -> Image.Image:
        shown.append(lines)
        return sheet(crops, lines, **options)

    monkeypatch.setattr(crop_sheets, "crop_sheet", noted)
    report = write_run_sheets(run, run / "sheets", order=order)
    assert (report.sheets, report.regions, report.left) == (1, 4, 0)
    (lines,) = shown
    assert [of_crop[2][1] for of_crop in lines] == [f"#{i}  one.png" for i in ids]
    by_id = dict(zip(ids, lines, strict=True))
    assert by_id[0][:2] == (("rug", " 0.90"), ("sky", " 0.05"))
    assert by_id[3][0] == ("", "none of these (sky 0.20)")


def test_crops_are_outlined_as_regions_are_in_pictures(run: Path) -> None:
    write_run_sheets(run, run / "sheets", order="name")
    sheet = np.asarray(Image.open(run / "sheets" / "001.jpg")).astype(int)
    own = Colours(NAMES)
    expected = [own["rug"], own["rug"], own["sky"], GREY]
    for place, colour in enumerate(expected):
        x = 8 + place * (TILE + 8)
        tile = sheet[8 : 8 + TILE, x : x + TILE]
        assert (np.abs(tile - colour).max(axis=2) < 40).sum() > 50, place
    # below this doubt the second crop is pale
    write_run_sheets(run, run / "sheets", order="name", options=PictureOptions(doubt=0.8))
    sheet = np.asarray(Image.open(run / "sheets" / "001.jpg")).astype(int)
    tile = sheet[8 : 8 + TILE, 16 + TILE : 16 + 2 * TILE]
    assert (np.abs(tile - pale(own["rug"], 0.25)).max(axis=2) < 25).sum() > 50


def test_the_command_says_what_it_shows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sheets", str(run), "--most", "3", "--sort", "score"]) == 0
    assert "3 regions on 1 sheets; 1 are left out" in capsys.readouterr().out
    assert [p.name for p in (run / "sheets").iterdir()] == ["001.jpg"]


def test_what_cannot_be_shown(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the results folder"):
        write_run_sheets(tmp_path, tmp_path / "sheets")
    with pytest.raises(InputError, match="no such folder of images"):
        write_run_sheets(run, tmp_path / "sheets", images=tmp_path / "nowhere")
    with pytest.raises(InputError, match="no regions to show"):
        write_run_sheets(run, tmp_path / "sheets", options=PictureOptions(min_score=0.95))
    (tmp_path / "empty").mkdir()
    report = write_run_sheets(run, tmp_path / "sheets", images=tmp_path / "empty")
    assert "one.png" in str(report.set_aside[0])
