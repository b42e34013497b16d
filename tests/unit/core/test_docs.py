"""The Python of pages of the documentation runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.docs import link_examples, run_blocks


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return link_examples(tmp_path, monkeypatch)


def test_python(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("guides/python.md")
    assert [len(names[n]) for n in ("regions", "large", "predictions")] == [2, 1, 2]
    assert [r["id"] for r in names["records"]] == ["cup", "spoon"][: len(names["best"])]
    first, *per_region, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 cup [325.")
    assert [line.split()[:2] for line in per_region] == [["cup", "cup"], ["spoon", "spoon"]]
    assert last == "['cup', 'spoon'] Apache-2.0"


def test_exemplars() -> None:
    assert run_blocks("guides/exemplars.md")["labels"] == ["my cup"]


def test_teaching(tmp_path: Path) -> None:
    names = run_blocks("guides/teaching.md")
    assert names["teacher"].vocabulary().vocabulary.names == ("cup", "spoon", "my cup")
    assert (tmp_path / "my.vocab").is_file()


def test_what_an_answer_is_made_of(tmp_path: Path) -> None:
    names = run_blocks("guides/explain.md")
    assert names["explanation"].labels[0] == "helmet"
    assert (tmp_path / "helmet.png").is_file()
