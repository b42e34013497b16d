"""The Python of docs/runs.md and docs/evaluation.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example photographs, where results may be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    return tmp_path


def run_blocks(page: str) -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    return names


def test_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("runs.md")
    assert (names["report"].images, names["report"].regions) == (1, 2)
    assert len((place / "out" / "predictions.csv").read_text().splitlines()) == 3
    assert not (place / "out" / "pictures").exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "1 2 ()"
    assert [line.split()[0] for line in printed[1:]] == ["a", "pixels", "[]"]
    assert printed[1].removeprefix("a file ") == printed[2].removeprefix("pixels ")


def test_evaluation(place: Path) -> None:
    names = run_blocks("evaluation.md")
    assert names["report"].regions == 2
