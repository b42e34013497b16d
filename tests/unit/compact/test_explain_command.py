"""`anyregion explain` with the built-in model, on an example photograph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyregion.cli.main import main

COFFEE = str(Path(__file__).parents[3] / "examples" / "coffee.jpg")
WORDS = ["--vocabulary", "espresso, cup, saucer, spoon"]


def test_words_numbers_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, numbers = tmp_path / "e.png", tmp_path / "e.json"
    box = ["--box", "172,18,425,308"]
    assert main(["explain", COFFEE, *box, *WORDS, "--out", str(out), "--json", str(numbers)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(numbers.read_text())
    assert content["labels"][:2] == ["cup", "espresso"]
    assert content["image"] == COFFEE
    assert content["calibrated_stacking"]["applied"] is True
    sums = np.sum(list(content["parts"].values()), axis=0)
    np.testing.assert_allclose(sums, content["cosines"], atol=1e-5)
    for text in ("= conse", "= trained head", "coffee mug", "layer 2 of 2", "ahead by"):
        assert text in printed
    # an even grey would have no bright and no dark parts
    picture = np.asarray(Image.open(out).convert("L"), dtype=float)
    assert picture.shape == (480, 720)
    assert picture.std() > 20


def test_a_point_and_the_first_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e.jpg"
    words = ["explain", COFFEE, "--point", "300,100", *WORDS, "--layer", "1", "--out", str(out)]
    assert main(words) == 0
    assert "layer 1 of 2" in capsys.readouterr().out
    assert Image.open(out).format == "JPEG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no region"),
        (["--box", "0,0,9,9", "--out", "picture.txt"], "a picture ends in"),
        (["--box", "0,0,9,9", "--method", "dense"], "no attention to show"),
        (["--box", "0,0,9,9", "--layer", "3"], "2 layers"),
        (["--box", "700,700,800,800"], "the image"),
        (["--box", "0,0,9,9", "--box", "5,5,20,20"], "give --box once"),
        (["--point", "3,3", "--point", "5,5"], "several points of it: 'x,y;x,y'"),
        (["--box", "0,0,9,9", "--out", "a.png", "--json", "./a.png"], "are one file"),
    ],
)
def test_what_cannot_be_explained(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", COFFEE, *words, *WORDS]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
