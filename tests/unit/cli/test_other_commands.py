"""`models`, `convert` and the help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyregion import factory
from anyregion.cli.main import COMMANDS, main
from anyregion.factory import ModelInfo
from tests.helpers.command_line import code_of


def test_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ModelInfo("some/model-with-a-very-long-name" * 5, "vlm", 12.0, "MIT", "torch", False)]
    monkeypatch.setattr(factory, "list_models", lambda: rows)
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert rows[0].name in printed, "a long name is not broken in a pipe"
    assert "lvis" in printed
    assert main(["models", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["models"][0]["licence"] == "MIT"
    assert report["vocabularies"]["coco"] == 80


def test_convert_refuses_what_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    (tmp_path / "no.pth").write_bytes(b"no")
    assert main(["convert", str(tmp_path / "no.pth"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("anyregion: error: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*name.split(), "--help") == 0
    printed = capsys.readouterr().out
    assert "exit codes:" in printed
