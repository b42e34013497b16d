"""`anyregion evaluate classification`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anyregion.cli.main import main


@pytest.fixture
def annotated(photos: Path) -> list[str]:
    content = {
        "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [0, 0, 20, 30], "category_id": 1},
            {"id": 2, "image_id": 1, "bbox": [20, 0, 20, 30], "category_id": 2},
            {"id": 3, "image_id": 2, "bbox": [0, 0, 20, 30], "category_id": 2},
        ],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
    Path("coco.json").write_text(json.dumps(content))
    return ["evaluate", "classification", "--annotations", "coco.json", "--images", "photos"]


def test_evaluate_json(annotated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*annotated, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["regions"] == 3
    assert report["top5"] == 1
    # lime is as far from red as from blue: the earlier name has it
    assert report["top1"] == pytest.approx(2 / 3)
    assert report["mean_class_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_evaluate_prints(annotated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*annotated, "--per-class", "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "100.0%" in printed
    assert "blue" in printed
    assert main([*annotated, "--limit", "1"]) == 0
    assert "blue" not in capsys.readouterr().out


def test_evaluate_takes_the_same_words(
    annotated: list[str], colours: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--templates", "so {}", "--cleaning", "published", "--no-synonyms", "--no-antialias"]
    assert main([*annotated, *words]) == 0
    assert "2 names (the annotations' categories)" in capsys.readouterr().out
    assert colours[0][1]["antialias"] is False
    assert main([*annotated, *words, "--vocabulary", "red | ruby, blue"]) == 0
    assert main([*annotated, "--templates", "{} or {}"]) == 1
    assert "must hold one {}" in capsys.readouterr().err


def test_evaluate_without_an_image(annotated: list[str]) -> None:
    Path("photos/two.png").unlink()
    assert main([*annotated, "--json"]) == 3
    Path("photos/one.png").unlink()
    assert main([*annotated, "--json"]) == 1


def test_evaluate_fair(annotated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Kinds of a class are right by a list; COCO's has none of these categories."""
    Path("kinds.json").write_text(json.dumps({"classes": {"red": ["lime"]}}))
    words = [*annotated, "--vocabulary", "lime, blue"]
    assert main([*words, "--fair", "kinds.json", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["regions"], report["outside_vocabulary"]) == (3, 0)
    assert list(report["by_class"]) == ["red", "blue"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outside_vocabulary"] == 1
    assert main([*words, "--fair", "kinds.json"]) == 0
    assert "by the list kinds.json" in capsys.readouterr().out
    assert main([*words, "--fair"]) == 1
    assert "coco: lists none of the categories; 'red', for one" in capsys.readouterr().err
