"""README's Python and its first command do what its words say."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.cli.main import main
from anyregion.predictions import Predictions
from tests.helpers.docs import ROOT, words_of


def run_block(block: str) -> tuple[dict[str, Any], list[Any]]:
    """Run Python, and give its names and the value of every bare expression."""
    names: dict[str, Any] = {}
    values = []
    for statement in ast.parse(block).body:
        if isinstance(statement, ast.Expr):
            values.append(eval(compile(ast.Expression(statement.value), "README", "eval"), names))
        else:
            exec(compile(ast.Module([statement], []), "README", "exec"), names)
    return names, values


def test_the_python_of_readme(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path))
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names, values = run_block(block)
    (predictions,) = (v for v in names.values() if isinstance(v, Predictions))
    # the cup, and the bowl of the spoon
    assert predictions.labels == ["cup", "spoon"]
    stated = re.findall(r"# (cup) ([\d.]+), then (spoon) ([\d.]+)", block)[0]
    printed = " ".join(capsys.readouterr().out.split()).split(" ")
    assert printed[::2] == list(stated[::2])
    assert [float(x) for x in printed[1::2]] == pytest.approx(
        [float(x) for x in stated[1::2]], abs=0.02
    )
    (picture,) = (v for v in values if isinstance(v, Image.Image))
    photograph = Image.open("examples/coffee.jpg")
    assert picture.width / picture.height == pytest.approx(photograph.width / photograph.height)
    resized = np.asarray(photograph.resize(picture.size)).astype(int)
    changed = np.abs(np.asarray(picture).astype(int) - resized).max(axis=2) > 60
    assert 0.01 < changed.mean() < 0.2, "outlines and labels, and else the photograph"
    (coco,) = (v for v in values if isinstance(v, list))
    boxes = [[172, 18, 253, 290], [320, 225, 84, 111]]  # x, y, width, height
    assert [item["bbox"] for item in coco] == boxes
    assert {item["image_id"] for item in coco} == {1}


def test_what_the_first_command_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table under the first command is what it prints: names, places, scores to 0.02."""
    readme = (ROOT / "README.md").read_text("utf-8")
    command, table = re.findall(
        r"<!-- try it -->\n```sh\n(.*?)```.*?```text\n(.*?)```", readme, re.DOTALL
    )[0]
    lines = re.sub(r"\\\n", " ", command).splitlines()
    (words,) = (found for line in lines if (found := words_of(line)))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path))
    out = words.index("--out") + 1
    assert main([*words[:out], str(tmp_path / "out"), *words[out + 1 :]]) == 0

    def rows(text: str) -> list[tuple[str, ...]]:
        return re.findall(r"^(\d+) +(.+?) +(0\.\d+) +(.+?) *$", text, re.MULTILINE)

    printed, stated = rows(capsys.readouterr().out), rows(table)
    assert len(stated) == 5
    assert [(r[0], r[1], r[3]) for r in printed] == [(r[0], r[1], r[3]) for r in stated]
    scores = [[float(row[2]) for row in r] for r in (printed, stated)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert (tmp_path / "out/pictures/launch.jpg").is_file()
