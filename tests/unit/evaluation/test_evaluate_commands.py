"""`anyregion evaluate detection`, `odinw`, `calibration`; and `--unseen` of all of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from anyregion import factory
from anyregion.cli.main import main
from tests.helpers.colours import colour_recognizer
from tests.helpers.halves import Halves, annotate, make_set


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Colours in place of every model; returns which proposers were asked for."""
    proposers: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(factory, "load_recognizer", colour_recognizer)
    monkeypatch.setattr(
        factory,
        "load_proposer",
        lambda *a, **k: proposers.append((a, k)) or Halves(),
        raising=False,
    )
    annotate(tmp_path)
    return proposers


DATA = ["--annotations", "coco.json", "--images", "photos"]


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["evaluate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_detection(capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "detection", *DATA, "--masks", "--save", "results.json")
    assert report["boxes"]["AP"] == report["masks"]["AP"] == pytest.approx(1)
    assert (report["model"], report["regions"]) == ("compact", 8)
    assert report["regions_from"] == "ground-truth"
    words = ["detection", "--annotations", "coco.json", "--predictions", "results.json"]
    again = answer(capsys, *words, "--masks")
    assert again["boxes"] == report["boxes"]
    assert again["model"] is None
    assert main(["evaluate", *words, "--unseen", "red,lime", "--per-class"]) == 0
    printed = capsys.readouterr().out
    assert "harmonic mean       100.0" in printed
    assert "yellow" in printed


def test_detection_with_proposed_regions(
    capsys: pytest.CaptureFixture[str], loaded: list[Any]
) -> None:
    report = answer(capsys, "detection", *DATA, "--regions", "auto", "--proposer", "compact")
    assert report["regions"] == 10, "a whole that is named as its half is left out"
    assert report["things"]["duplicates"] == 2
    assert report["things"]["at_most_one"] == 0.75
    assert report["things"]["at_most_one_named"] == report["things"]["named_once"] == 1
    assert report["boxes"]["AP"] == pytest.approx(1)
    assert loaded[0][0] == ("compact",)
    assert main(["evaluate", "detection", *DATA, "--proposer", "sam"]) == 1
    assert "--proposer needs --regions auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotations", "coco.json"], "give --images, or --predictions"),
        ([*DATA, "--predictions", "x.json"], "--images: not with --predictions"),
        ([*DATA, "--regions", "nothing.json"], "nothing.json: there is no such file"),
        ([*DATA, "--unseen", "every:4"], "every:STEP:FIRST"),
    ],
)
def test_detection_mistakes(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "detection", *words]) == 1
    assert message in capsys.readouterr().err


def test_odinw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_set(tmp_path / "sets" / "one", "valid")
    make_set(tmp_path / "sets" / "two", "test")
    report = answer(capsys, "odinw", "sets", "--unseen", "every:2:0")
    figures = [report[name] for name in ("ap", "top1", "harmonic_mean")]
    assert figures == pytest.approx([1, 1, 1])
    assert main(["evaluate", "odinw", "sets", "--unseen", "red"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("average") and "100.0" in line for line in lines)
    (tmp_path / "sets" / "one" / "valid" / "1.png").unlink()
    assert main(["evaluate", "odinw", "sets"]) == 3


def test_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibration", *DATA, "--size", "2", "--distractors", "orange,pink"]
    report = answer(capsys, *words, "--absent", "red,blue", "--unseen", "lime")
    assert report["absent_classes"] == ["red", "blue"]
    assert [r["vocabulary"] for r in report["refusals"]] == ["all", "half", "2"]
    assert report["split"]["unseen_top1"] == 1
    assert main(["evaluate", *words, "--unseen", "lime"]) == 0
    printed = capsys.readouterr().out
    assert "AUROC of refusing" in printed
    assert "ECE, unseen classes" in printed
    assert main(["evaluate", *words, "--size", "9"]) == 3, "9 names cannot be made, which is said"


def test_classification_split(capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "classification", *DATA, "--unseen", "lime")
    assert report["split"]["unseen"]["regions"] == 1
    assert main(["evaluate", "classification", *DATA, "--unseen", "lime"]) == 0
    assert "unseen classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["calibration", *DATA],
        ["classification", *DATA],
        ["classification", *DATA, "--vocabulary", "red,blue,lime,white"],
        ["detection", *DATA],
        ["detection", *DATA, "--regions", "auto", "--proposer", "compact"],
        ["odinw", "sets"],
    ],
    ids=" ".join,
)
def test_a_report_of_what_is_wrong(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "sets" / "one", "test")
    assert main(["evaluate", *words, "--report", "report"]) == 0
    folder = Path("report/one") if words[0] == "odinw" else Path("report")
    files = {path.name for path in folder.iterdir()}
    assert {"confusion.png", "confusion.csv", "confusions.csv", "errors.csv"} <= files
    (_, *names), *rows = csv.reader((folder / "confusion.csv").open())
    cells = [
        (true, named, int(count))
        for true, *counts in rows
        for named, count in zip(names, counts, strict=True)
    ]
    wrong = sum(n for true, named, n in cells if true != named)
    assert len(list(csv.reader((folder / "errors.csv").open()))) - 1 == wrong
    assert (folder / "errors" / "001.jpg").is_file() == (wrong > 0)
    if words[0] != "odinw":
        assert f"{wrong} of {sum(n for *_, n in cells)}" in capsys.readouterr().out
