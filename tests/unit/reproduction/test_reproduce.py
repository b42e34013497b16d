"""`anyregion reproduce`: every table is whole, its commands are read, a small one is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for package in ("torch", "torchvision", "transformers", "jsonargparse", "lightning_fabric"):
    pytest.importorskip(package)

from anyregion.cli.main import main  # noqa: E402
from anyregion.cli.reproduce import command_error  # noqa: E402
from anyregion.errors import InputError  # noqa: E402
from anyregion.reproduction import run as runs  # noqa: E402
from anyregion.reproduction.check import check_table  # noqa: E402
from anyregion.reproduction.run import markdown, shown  # noqa: E402
from anyregion.reproduction.tables import (  # noqa: E402
    Places,
    list_tables,
    read_needs,
    read_table,
)
from tests.helpers.shared import SHARED, needs_shared  # noqa: E402

ROOT = Path(__file__).parents[3]
TABLES = list_tables()


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Every data set's files and folders, each with next to nothing in it."""
    root = tmp_path_factory.mktemp("layouts")
    places = Places(root / "data", root / "weights", root / "work")
    for need in read_needs().values():
        for part in need.parts:
            path = Path(places.fill(part.path))
            if part.hub:
                continue
            if part.images:
                path.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(path / "one.png")
            elif path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            else:
                path.mkdir(parents=True, exist_ok=True)
    return places


@pytest.mark.parametrize("name", TABLES)
def test_a_table(name: str, layouts: Places) -> None:
    """Its needs are known and found in their layouts, its commands and recipes are read."""
    table, needs = read_table(name), read_needs()
    for tier, rows in table.rows.items():
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert set(row.figures) <= set(table.columns)
            assert set(row.published or {}) <= set(table.columns)
            assert "$COMMON" not in " ".join(row.steps)
            assert "--json" in row.steps[-1]
        check = check_table(rows, needs, layouts, command_error=command_error)
        assert check.errors == []
        hubs = {part.hub for need in needs.values() for part in need.parts}
        assert set(check.missing) <= hubs, "all but models of the hub"
        assert table.notes[tier]


def test_a_command_that_is_not_read() -> None:
    assert command_error(["evaluate", "detection", "--nonsense"]) is not None
    train = ["train", "regionspot_b16_stage1", "--out", "x"]
    assert command_error(train) is None
    assert "layrs" in str(command_error([*train, "--regionspot.adapter.layrs", "2"]))


def test_published_figures_stand_in_the_docs() -> None:
    """The tables' figures are in docs/results/reproduce.md; nothing else is called published."""
    page = (ROOT / "docs/results/reproduce.md").read_text(encoding="utf-8")
    for name in TABLES:
        assert f"`{name}`" in page
        for row in read_table(name).rows.get("full", ()):
            for figure in (row.published or {}).values():
                assert f"{figure:.1f}" in page, f"{name}, {row.name}"


@needs_shared
@pytest.mark.parametrize("name", [n for n in TABLES if "scaled" in read_table(n).rows])
def test_the_scaled_tier_finds_the_photographs(name: str, tmp_path: Path) -> None:
    places = Places(SHARED / "data", tmp_path, tmp_path)
    rows = read_table(name).rows["scaled"]
    check = check_table(rows, read_needs(), places, command_error=lambda words: None)
    assert check.missing == []


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Two birds in CUB-200-2011's layout, below `data`."""
    root = tmp_path / "data" / "CUB_200_2011"
    draw = np.random.default_rng(0)
    for name in ("001.Bird/a", "001.Bird/b"):
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, 15:40] = 255
        pixels = draw.integers(0, 90, (40, 50, 3), dtype=np.uint8)
        pixels[mask > 0] += np.uint8(160)
        for folder, array in (("images", pixels), ("segmentations", mask)):
            path = root / folder / f"{name}.{'jpg' if folder == 'images' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "images.txt").write_text("1 001.Bird/a.jpg\n2 001.Bird/b.jpg\n")
    (root / "train_test_split.txt").write_text("1 0\n2 0\n")
    (root / "bounding_boxes.txt").write_text("1 15 10 25 20\n2 15 10 25 20\n")
    return tmp_path


def test_checked_and_run(
    birds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(birds)
    command = ["reproduce", "r2o-cub", "--row", "random weights"]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 11,788 images" in printed
    assert "evaluate discovery data/CUB_200_2011 --foreground" in printed
    assert not Path("reproduction").exists(), "nothing is run"
    assert main(["reproduce", "r2o-cub", "--dry-run", "--json"]) == 3
    checked = json.loads(capsys.readouterr().out)
    assert [p["state"] for p in checked["needs"]["r2o_resnet50"]] == ["missing"]
    assert main(["reproduce", "r2o-cub"]) == 1, "weights are missing"
    assert "r2o_resnet50.pth is missing" in capsys.readouterr().err

    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    assert row["figures"].keys() == {"foreground IoU", "mean IoU", "pixels right", "box IoU"}
    assert row["figures"]["pixels right"] > 0.2
    names = {Path(path).name for path in result["inputs"]}
    assert names == {"images.txt", "train_test_split.txt", "bounding_boxes.txt"}
    page = Path("reproduction/r2o-cub-full.md").read_text()
    assert f"| {shown(row['figures']['pixels right'], 'points')} |" in page
    assert f"anyregion {' '.join(row['commands'][0])}" in page
    assert next(iter(result["inputs"].values())) in page

    def refuse(*words: Any, **options: Any) -> None:
        pytest.fail("a step that was run is run again")

    monkeypatch.setattr(runs.subprocess, "run", refuse)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_a_row_that_fails_is_set_aside(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, needs = read_table("r2o-cub"), read_needs()
    places = Places(birds / "data", birds / "weights", birds / "work")

    figures = {"foreground_iou": 0.5, "mean_iou": None, "pixel_accuracy": 0.7, "box_iou": 0.2}

    def answer(words: list[str], **options: Any) -> Any:
        code = 0 if "random" in words else 1
        said = json.dumps({"figures": figures})
        return type("Process", (), {"returncode": code, "stdout": f"progress\n{said}\n"})()

    monkeypatch.setattr(runs.subprocess, "run", answer)
    result = runs.run_table(table, "full", table.rows["full"], places, needs)
    assert [each.item for each in result.set_aside] == ["R2O, ResNet-50"]
    assert "exit code 1" in result.set_aside[0].reason
    assert [row.row.name for row in result.rows] == ["random weights"]
    assert "| random weights | 50.0 | - | 70.0 | 20.0 |" in markdown(result)
    del figures["box_iou"]
    with pytest.raises(InputError, match=r"no row could be run .*no figures\.box_iou"):
        runs.run_table(table, "full", table.rows["full"], places, needs, overwrite=True)
