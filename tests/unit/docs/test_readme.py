"""README's Python does what its words say."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.predictions import Predictions
from tests.helpers.docs import ROOT


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
    # the cup fills the first box; the second holds its right half with the spoon before it
    assert predictions.labels == ["cup", "spoon"]
    assert capsys.readouterr().out.startswith("['cup', 'spoon'] [0.")
    (picture,) = (v for v in values if isinstance(v, Image.Image))
    photograph = Image.open("examples/coffee.jpg")
    assert picture.width / picture.height == pytest.approx(photograph.width / photograph.height)
    resized = np.asarray(photograph.resize(picture.size)).astype(int)
    changed = np.abs(np.asarray(picture).astype(int) - resized).max(axis=2) > 60
    assert 0.01 < changed.mean() < 0.2, "outlines and labels, and else the photograph"
    (coco,) = (v for v in values if isinstance(v, list))
    boxes = [[76, 66, 404, 322], [325, 66, 101, 261]]  # x, y, width, height
    assert [item["bbox"] for item in coco] == boxes
    assert {item["image_id"] for item in coco} == {1}
