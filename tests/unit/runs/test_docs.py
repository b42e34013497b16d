"""The Python of the guides to runs, evaluation and pictures runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.docs import link_examples, run_blocks


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example photographs, where results may be written."""
    return link_examples(tmp_path, monkeypatch)


def test_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("guides/runs.md")
    assert (names["report"].images, names["report"].regions) == (1, 2)
    assert len((place / "out" / "predictions.csv").read_text().splitlines()) == 3
    assert not (place / "out" / "pictures").exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "1 2 ()"
    assert [line.split()[0] for line in printed[1:]] == ["a", "pixels", "[]"]
    assert printed[1].removeprefix("a file ") == printed[2].removeprefix("pixels ")


def test_evaluation(place: Path) -> None:
    names = run_blocks("guides/evaluation.md")
    assert names["report"].regions == 2


def test_pictures(place: Path) -> None:
    names = run_blocks("guides/pictures.md")
    assert names["picture"].width == 900
    assert (place / "coffee-named.png").is_file()
