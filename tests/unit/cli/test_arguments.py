"""What the command line understands, and its one line for what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyregion.cli.recognize import parse_box, parse_points, prompts
from tests.helpers.command_line import BOXES, code_of, recognize


def test_prompts_are_one_region_each() -> None:
    regions = prompts([parse_box("1,2,3,4")], [parse_points("5,6"), parse_points("7,8,1;9,9,0")])
    assert len(regions) == 3
    assert np.isfinite(regions.boxes[:, 0]).tolist() == [True, False, False]
    assert [len(p) for p in regions.points] == [0, 1, 2]


@pytest.mark.parametrize(
    "words",
    [
        ["--box", "1,2,3"],
        ["--box", "a,b,c,d"],
        ["--box", ""],
        ["--point", "1"],
        ["--point", "1,2,5"],
        ["--point", "1,2;x,y"],
        ["--top-k", "0"],
        ["--score", "tanh"],
        ["--method", "magic"],
        ["--nonsense"],
        ["--out", ""],
        ["--out="],
    ],
)
def test_what_is_not_understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("recognize", "x.jpg", "--vocabulary", "dog", *words) == 2
    assert words[0].rstrip("=") in capsys.readouterr().err


@pytest.mark.parametrize("command", [("recognize",), ("data", "check"), ("review",)])
def test_an_unknown_option_shows_the_usage_of_its_command(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {"recognize": ["x.jpg", "--vocabulary", "dog"], "data": ["x.json", "x"]}
    assert code_of(*command, *needed.get(command[0], ["run"]), "--nonsense", "a") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"usage: anyregion {' '.join(command)} [-h]")
    assert "error: unrecognized arguments: --nonsense a" in printed


@pytest.mark.parametrize("words", [[], ["evaluate"], ["fly"], ["recognize"], ["evaluate", "x"]])
def test_commands_that_are_not_there(words: list[str]) -> None:
    assert code_of(*words) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "or --regions auto to find them"),
        (["photos", *BOXES, "--proposer", "sam"], "--proposer needs --regions auto"),
        (["photos", "--regions", "r2o:x", "--proposer", "sam"], "says already what finds them"),
        (["photos", "--regions", "r2o:x", "--annotations", "a"], "needs COCO results"),
        (["photos", *BOXES, "--regions", "r.json"], "not both"),
        (["photos", *BOXES, "--use-masks"], "--use-masks needs --regions"),
        (["photos", *BOXES, "--ignore-scores"], "--ignore-scores needs --regions"),
        (["photos", "--regions", "r.json"], "r.json: there is no such file"),
        (["nowhere", *BOXES], "no image there"),
        (["photos", "--box", "9,9,3,3"], "empty or inverted"),
        (["photos", "--box", "nan,0,3,3"], "not finite"),
        (["photos", "--point", "3,3,0"], "foreground point"),
        (["photos", *BOXES, "--min-score", "7"], "between 0 and 1"),
        (["photos", *BOXES, "--templates", "a photo"], "a photo: there is no such file"),
        (["photos", *BOXES, "--templates", "{} or {}"], "must hold one {}"),
        (["photos", *BOXES, "--vocabulary", "names.txt"], "names.txt: there is no such file"),
        (["photos", *BOXES, "--vocabulary", " , "], "vocabulary is empty"),
        (["photos", *BOXES, "--out", "photos/one.png"], "not a folder"),
        (["photos", *BOXES, "--out", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_errors_are_one_line(
    photos: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognize(*words) == 1
    error = capsys.readouterr().err
    assert error.startswith("anyregion: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("anyregion-results").exists()
