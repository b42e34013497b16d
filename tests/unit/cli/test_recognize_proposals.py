"""`anyregion recognize --regions auto` and `--exemplars`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anyregion import factory
from anyregion.cli import arguments
from anyregion.cli.main import main
from anyregion.compact.proposal_head import ProposalOptions
from anyregion.region_trees.proposer import TreeOptions
from tests.helpers.command_line import BOXES, code_of, recognize
from tests.helpers.halves import MaskedHalves, picture
from tests.helpers.runs import labels

RESULTS = Path("anyregion-results")


@pytest.fixture
def proposers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    calls: list[tuple[Any, Any]] = []

    def load(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        return MaskedHalves()

    monkeypatch.setattr(factory, "load_proposer", load)
    return calls


def test_regions_are_proposed(photos: Path, proposers: list[Any]) -> None:
    assert recognize("photos", "--regions", "auto", "--device", "cuda:1") == 0
    assert labels(RESULTS) == {"one.png": ["red", "blue"], "two.png": ["lime", "white"]}
    ((args, options),) = proposers
    assert args == ("own",)
    assert options.pop("recognizer").encoder.name == "colours"
    assert (options.pop("device"), options.pop("dtype")) == ("cuda:1", "float32")
    assert options == {"localizer": None, "tiles": None, "options": None}
    assert recognize("photos", "--regions", "auto", "--ignore-scores") == 1, "another setting"


def test_a_proposer_of_its_own(photos: Path, proposers: list[Any], colours: list[Any]) -> None:
    words = ["photos", "--regions", "auto", "--proposer", "sam", "--localizer", "folder"]
    assert recognize(*words) == 0
    assert proposers[0][1]["localizer"] == "folder"
    assert colours[0][1]["localizer"] is None, "dense features have no use for it"
    settings = json.loads((RESULTS / "run.json").read_text())["settings"]
    assert settings["localizer"] == "folder"
    proposers.clear()
    assert recognize(*words, "--model", "mine", "--method", "regionspot", "--out", "other") == 0
    assert proposers[0][1]["localizer"] is None, "the recogniser's own"
    assert colours[1][1]["localizer"] == "folder"


def test_limits_of_what_is_found(photos: Path, proposers: list[Any]) -> None:
    words = ["photos", "--regions", "auto", "--most", "7", "--min-objectness", "0.1"]
    assert recognize(*words) == 0
    assert proposers[0][1]["options"] == ProposalOptions(limit=7, min_score=0.1)
    assert recognize(*words, "--most", "8") == 1, "another setting"
    words = ["recognize", "--vocabulary", "a", "photos", "--regions", "auto"]
    assert code_of(*words, "--min-objectness", "2") == 2
    assert recognize("photos", *BOXES, "--most", "8") == 1


def test_regions_without_labels(photos: Path, proposers: list[Any]) -> None:
    words = ["photos", "--regions", "r2o:runs/a"]
    assert recognize(*words, "--most", "7") == 0
    ((args, options),) = proposers
    assert args == ("r2o:runs/a",)
    assert options["options"] == TreeOptions(limit=7)
    run = json.loads((RESULTS / "run.json").read_text())
    assert run["settings"]["regions"].startswith("found by r2o:runs/a,")
    assert recognize("photos", "--regions", "r2o:runs/b", "--most", "7") == 1, "another source"
    assert recognize("photos", "--regions", "auto", "--proposer", "r2o:runs/a", "--out", "b") == 0
    assert proposers[-1][0] == ("r2o:runs/a",)
    assert code_of("recognize", "--vocabulary", "a", *words, "--proposer", "magic") == 2


def test_regions_of_one_name_are_merged(
    photos: Path, proposers: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [[0, 0, 20, 30], [2, 2, 16, 25], [20, 0, 40, 30]]
    Path("boxes.json").write_text(json.dumps({"one.png": {"boxes": boxes}}))
    given = ["photos/one.png", "--regions", "boxes.json"]
    assert recognize(*given) == 0
    assert labels(RESULTS) == {"one.png": ["red", "red", "blue"]}, "given ones all stay"
    assert "merged" not in capsys.readouterr().out
    assert recognize(*given, "--merge", "--out", "merged") == 0
    assert labels(Path("merged")) == {"one.png": ["red", "blue"]}
    assert re.search(r"merged into better ones +1\b", capsys.readouterr().out)
    assert recognize(*given, "--out", "merged") == 1, "another setting"
    for words in (["--no-merge"], ["--keep-duplicates"]):
        assert recognize("photos", "--regions", "auto", *words, "--out", "c", "--overwrite") == 0
        assert "merged" not in capsys.readouterr().out
    assert recognize("photos", "--regions", "auto", "--out", "c", "--overwrite") == 0
    assert "merged into better ones" in capsys.readouterr().out


def test_a_file_called_auto_is_a_file(photos: Path, proposers: list[Any]) -> None:
    Path("auto").write_text(json.dumps({"one.png": {"boxes": [[0, 0, 20, 30]]}}))
    assert recognize("photos/one.png", "--regions", "./auto") == 0
    assert proposers == []
    assert labels(RESULTS) == {"one.png": ["red"]}


# ---------------------------------------------------------------- names as pictures


@pytest.fixture
def shown(photos: Path) -> Path:
    picture(Path("shown/ruby/1.png"), "red", "red")
    picture(Path("shown/ruby/2.png"), "red", "red")
    picture(Path("shown/sky/deep/1.png"), "blue", "blue")
    Path("shown/nothing").mkdir()
    return Path("shown")


def test_names_are_shown(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recognize", "photos/one.png", *BOXES, "--exemplars", "shown"]
    assert main(words) == 0
    assert labels(RESULTS) == {"one.png": ["ruby", "sky"]}
    printed = capsys.readouterr()
    assert "exemplars left out (1)" in printed.err
    assert "nothing" in printed.err
    assert main(words) == 0, "continued"
    picture(shown / "sky" / "deep" / "1.png", "lime", "lime")
    assert main(words) == 1
    assert "vocabulary was sha256:" in capsys.readouterr().err


def test_words_beside_pictures(shown: Path) -> None:
    words = ["recognize", "photos", *BOXES, "--exemplars", "shown", "--shots", "1"]
    assert main([*words, "--vocabulary", "lime,white"]) == 0
    assert labels(RESULTS) == {"one.png": ["ruby", "sky"], "two.png": ["lime", "white"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --vocabulary, --exemplars or both"),
        (["--vocabulary", "red", "--shots", "3"], "--shots: only with --exemplars"),
        (["--exemplars", "nowhere"], "nowhere: there is no such folder or file"),
        (["--exemplars", "shown", "--exemplar-weight", "3"], "between 0 and 1"),
        (["--exemplars", "shown", "--exemplar-images", "photos"], "leave the images' folder out"),
        (["--exemplars", "photos"], "each class needs a folder of images"),
    ],
)
def test_errors_are_one_line(
    shown: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recognize", "photos", *BOXES, *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_help_states_the_limits_of_compact() -> None:
    options = ProposalOptions()
    assert (options.limit, options.min_score) == (arguments._MOST, arguments._LOWEST)
