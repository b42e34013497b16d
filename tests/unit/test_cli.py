"""The command line: what it understands, prints, writes and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion import __version__, models
from anyregion.cli import terminal
from anyregion.cli.arguments import parse_box, parse_points, prompts
from anyregion.cli.main import COMMANDS, main
from anyregion.errors import MissingExtraError
from anyregion.models import ModelInfo
from tests.colours import ColourWords, colour_recognizer
from tests.unit.test_runs import labels, lines, picture

NAMES = "red,lime,blue,yellow,white,black"
BOXES = ["--box", "0,0,20,30", "--box", "20,0,40,30"]


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The tiny recogniser of colours stands in for every model; returns what was asked for."""
    asked: list[tuple[Any, Any]] = []

    def load(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return colour_recognizer()

    monkeypatch.setattr(models, "load_recognizer", load)
    return asked


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "photos" / "one.png", "red", "blue")
    picture(tmp_path / "photos" / "two.png", "lime", "white")
    return Path("photos")


def recognize(*words: str) -> int:
    return main(["recognize", "--vocabulary", NAMES, *words])


def code_of(*words: str) -> int:
    """The exit code of a command line that argparse answers itself."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    return int(stopped.value.code or 0)


def test_one_photo(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recognize("photos/one.png", *BOXES) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["region", "name", "score", "box"]
    assert "red" in printed.out
    assert "20, 0, 40, 30" in printed.out
    assert "anyregion-results" in printed.out
    assert printed.err == ""
    out = Path("anyregion-results")
    assert labels(out) == {"one.png": ["red", "blue"]}
    assert (out / "pictures" / "one.png").is_file()
    assert json.loads((out / "run.json").read_text())["anyregion"] == __version__


def test_progress_without_a_terminal(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0)
    assert recognize("photos", *BOXES, "--batch-size", "1") == 0
    told = capsys.readouterr().err
    assert "naming regions: 1/2 images, 0:00 left" in told
    assert "naming regions: 2/2 images, 0:00 left" in told


@pytest.mark.parametrize("box", [["--box", "-3,-2.5,20,30"], ["--box=-3,-2.5,20,30"]])
def test_a_box_may_begin_below_zero(photos: Path, box: list[str]) -> None:
    assert recognize("photos/one.png", *box) == 0
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    assert line["regions"][0]["box"] == [0, 0, 20, 30]


def test_points(photos: Path) -> None:
    points = ["--point", "5,5", "--point", "30,5;32,8;2,2,0"]
    assert recognize("photos/one.png", "--box=0,0,40,30", *points) == 0
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    _, first, second = line["regions"]
    assert (first["points"], first["point_labels"]) == ([[5, 5]], [1])
    assert second["points"] == [[30, 5], [32, 8], [2, 2]]
    assert second["point_labels"] == [1, 1, 0]


def test_prompts_are_one_region_each() -> None:
    regions = prompts([parse_box("1,2,3,4")], [parse_points("5,6"), parse_points("7,8,1;9,9,0")])
    assert len(regions) == 3
    assert regions.has_box().tolist() == [True, False, False]
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
        ["--recognizer", "magic"],
        ["--nonsense"],
    ],
)
def test_what_is_not_understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("recognize", "x.jpg", "--vocabulary", "dog", *words) == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["evaluate"], ["fly"], ["recognize"], ["evaluate", "x"]])
def test_commands_that_are_not_there(words: list[str]) -> None:
    assert code_of(*words) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "compact does not find regions by itself: give --regions, --box or --point"),
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


def test_other_settings_are_an_error(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recognize("photos", *BOXES) == 0
    assert recognize("photos", *BOXES, "--top-k", "2") == 1
    assert "top_k was 5, now 2" in capsys.readouterr().err
    assert recognize("photos", *BOXES, "--top-k", "2", "--overwrite") == 0
    assert recognize("photos", *BOXES, "--out", "elsewhere") == 0


def test_set_aside_is_exit_code_3(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "bad.jpg").write_bytes(b"bad")
    assert recognize("photos", *BOXES) == 3
    assert "bad.jpg: " in capsys.readouterr().err
    (skipped,) = lines(Path("anyregion-results/skipped.jsonl"))
    assert (skipped["image"], skipped["item"]) == ("bad.jpg", "image")
    assert recognize("photos/bad.jpg", *BOXES, "--out", "none") == 1, "nothing useful was done"


def test_regions_from_a_file(photos: Path, colours: list[Any]) -> None:
    boxes = {"one.png": {"boxes": [[0, 0, 20, 30]], "scores": [0.5], "labels": [3]}}
    Path("boxes.json").write_text(json.dumps(boxes))
    assert recognize("photos", "--regions", "boxes.json") == 3, "two.png has no regions"
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    assert line["image"] == "one.png"
    assert 0.4 < line["regions"][0]["score"] <= 0.5, "the detector's score multiplies"
    again = ["photos", "--regions", "boxes.json", "--ignore-scores"]
    assert recognize(*again) == 1, "another setting may not continue"
    assert recognize(*again, "--overwrite") == 3
    (line,) = lines(Path("anyregion-results/predictions.jsonl"))
    assert line["regions"][0]["score"] > 0.9


def test_the_model_is_what_was_asked_for(photos: Path, colours: list[Any]) -> None:
    assert recognize("photos", *BOXES, "--model", "folder", "--recognizer", "masked-crop",
                     "--localizer", "sam", "--vlm", "clip", "--device", "cuda:1") == 0  # fmt: skip
    assert colours == [
        ((), {"model": "folder", "recognizer": "masked-crop", "localizer": "sam", "vlm": "clip",
              "antialias": None, "device": "cuda:1"})]  # fmt: skip
    assert recognize("photos", *BOXES, "--model", "folder", "--no-antialias", "--out", "o2") == 0
    assert colours[1][1]["antialias"] is False
    settings = json.loads(Path("o2/run.json").read_text())["settings"]
    assert settings["antialias"] is False


def test_prompts_are_what_was_asked_for(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    encode = ColourWords.encode_text
    monkeypatch.setattr(
        ColourWords, "encode_text", lambda self, texts: read.extend(texts) or encode(self, texts)
    )
    words = ["photos", *BOXES, "--vocabulary", "dark_red | ruby, blue", "--templates", "so {}"]
    assert recognize(*words, "--out", "a") == 0
    assert read == ["so dark red", "so ruby", "so blue"]
    read.clear()
    assert recognize(*words, "--out", "b", "--cleaning", "published", "--no-synonyms") == 0
    assert read == ["so dark_red", "so blue"]


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("coco", "80 names (built-in coco)"),
        ("./n.txt", "2 names (file ./n.txt)"),
        ("a", "1 name"),
    ],
)
def test_the_vocabulary_is_named(
    photos: Path, words: str, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("n.txt").write_text("red\nblue\n")
    assert recognize("photos", *BOXES, "--vocabulary", words) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["vocabulary", row] in rows


def test_one_name_under_softmax_is_doubtful(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["photos", *BOXES, "--vocabulary", "red"]
    assert recognize(*words) == 0
    warning = "one name always scores 1 under softmax: use --score sigmoid"
    assert warning in capsys.readouterr().err
    assert recognize(*words, "--score", "sigmoid", "--overwrite") == 0
    assert capsys.readouterr().err == ""


def test_doubtful_names_are_told(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recognize("photos", *BOXES, "--vocabulary", "red,blue,Red,[bold]zzz") == 0
    error = capsys.readouterr().err
    assert "left out of the vocabulary (1)" in error
    assert "'Red' repeats 'red'" in error
    assert "no words for (1):\n  [bold]zzz" in error


def test_names_in_brackets_are_printed_as_they_are(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognize("photos/one.png", *BOXES, "--vocabulary", "[red],:smile:") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:2] == ["0", "[red]"]


def test_no_pictures_and_csv(photos: Path) -> None:
    assert recognize("photos", *BOXES, "--no-pictures", "--csv") == 0
    assert not Path("anyregion-results/pictures").exists()
    assert len(Path("anyregion-results/predictions.csv").read_text().splitlines()) == 5


def test_a_missing_extra_is_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(**_: Any) -> Any:
        raise MissingExtraError("this needs torch: pip install 'anyregion[torch]'")

    monkeypatch.setattr(models, "load_recognizer", load)
    assert recognize("photos", *BOXES, "--model", "openai/clip-vit-base-patch16") == 1
    assert "pip install 'anyregion[torch]'" in capsys.readouterr().err


def test_bugs_keep_their_traceback(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_recognizer", lambda **_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        recognize("photos", *BOXES)


@pytest.fixture
def annotated(photos: Path) -> list[str]:
    content = {
        "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [0, 0, 20, 30], "category_id": 1},
            {"id": 2, "image_id": 1, "bbox": [20, 0, 20, 30], "category_id": 2},
            {"id": 3, "image_id": 2, "bbox": [0, 0, 20, 30], "category_id": 2},
        ],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
    Path("coco.json").write_text(json.dumps(content))
    return ["evaluate", "classification", "--annotations", "coco.json", "--images", "photos"]


def test_evaluate_json(annotated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*annotated, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["regions"] == 3
    assert report["top5"] == 1
    # lime is as far from red as from blue: the earlier name has it
    assert report["top1"] == pytest.approx(2 / 3)
    assert report["mean_class_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_evaluate_prints(annotated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*annotated, "--per-class", "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "100.0%" in printed
    assert "blue" in printed
    assert main([*annotated, "--limit", "1"]) == 0
    assert "blue" not in capsys.readouterr().out


def test_evaluate_takes_the_same_words(
    annotated: list[str], colours: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--templates", "so {}", "--cleaning", "published", "--no-synonyms", "--no-antialias"]
    assert main([*annotated, *words]) == 0
    assert "2 names (the annotations' categories)" in capsys.readouterr().out
    assert colours[0][1]["antialias"] is False
    assert main([*annotated, *words, "--vocabulary", "red | ruby, blue"]) == 0
    assert main([*annotated, "--templates", "{} or {}"]) == 1
    assert "must hold one {}" in capsys.readouterr().err


def test_evaluate_without_an_image(annotated: list[str]) -> None:
    Path("photos/two.png").unlink()
    assert main([*annotated, "--json"]) == 3
    Path("photos/one.png").unlink()
    assert main([*annotated, "--json"]) == 1


def test_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ModelInfo("some/model-with-a-very-long-name" * 5, "vlm", 12.0, "MIT", "torch", False)]
    monkeypatch.setattr(models, "list_models", lambda: rows)
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert rows[0].name in printed, "a long name is not broken in a pipe"
    assert "lvis" in printed
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"][0]["licence"] == "MIT"
    assert found["vocabularies"]["coco"] == 80


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("anyregion.load_recognizer", colour_recognizer)
    monkeypatch.setattr("anyregion.environment._torch_devices", list)
    assert main(["doctor"]) == 0
    assert "built-in model" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["works"] is True
    assert found["packages"]["numpy"]
    assert {"torch", "dev"} <= set(found["extras"])


def test_doctor_says_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: Any) -> Any:
        raise OSError("asset is not there")

    monkeypatch.setattr("anyregion.load_recognizer", broken)
    monkeypatch.setattr("anyregion.environment._torch_devices", list)
    assert main(["doctor"]) == 1
    assert "broken: asset is not there" in capsys.readouterr().out


def test_convert_refuses_what_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    (tmp_path / "no.pth").write_bytes(b"no")
    assert main(["convert", str(tmp_path / "no.pth"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("anyregion: error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_no_bug() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "anyregion", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "anyregion: error: No space left on device\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*name.split(), "--help") == 0
    printed = capsys.readouterr().out
    assert "exit codes:" in printed


HEAVY = ("torch", "onnxruntime", "transformers", "tokenizers", "matplotlib", "supervision")


@pytest.mark.parametrize("words", [["--help"], ["recognize", "--help"], ["--version"]])
def test_help_is_quick_and_light(words: list[str]) -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from anyregion.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"loaded = [m for m in {HEAVY} if m in sys.modules]\n"
        "print(time.perf_counter() - start, loaded, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    seconds, loaded = done.stderr.split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 1


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anyregion", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"anyregion {__version__}"


def test_a_reader_that_leaves_is_no_bug() -> None:
    done = subprocess.run(
        f"{sys.executable} -m anyregion models | true",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


SLOW = """
import sys, time
from anyregion import models
from anyregion.cli.main import main
from anyregion.recognizer import Recognizer
from tests.colours import ColourEncoder

class Slow(ColourEncoder):
    def encode_images(self, images):
        time.sleep(float(sys.argv[1]))
        return super().encode_images(images)

models.load_recognizer = lambda **_: Recognizer(Slow(), cache=None)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_continued(tmp_path: Path, stop: signal.Signals) -> None:
    for i in range(12):
        picture(tmp_path / "photos" / f"{i:02d}.png", "red", "blue")
    command = ["recognize", "photos", "--vocabulary", NAMES, *BOXES, "--batch-size", "1"]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(seconds: float, out: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", SLOW, str(seconds), *command, "--out", out]
        return subprocess.Popen(
            words,
            cwd=tmp_path,
            env=where,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start(0.3, "parts")
    journal = tmp_path / "parts" / "predictions.jsonl"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    first.send_signal(stop)
    _, error = first.communicate(timeout=20)
    finished = len(lines(journal))
    assert 0 < finished < 12
    assert not (tmp_path / "parts" / "predictions.json").exists()
    if stop is signal.SIGINT:
        assert first.returncode == 130
        assert "interrupted; finished images are kept in parts" in error
        assert "Traceback" not in error
    second = start(0, "parts")
    printed, _ = second.communicate(timeout=20)
    assert second.returncode == 0
    assert f"{12 - finished} and {finished} from an earlier run" in printed
    whole = start(0, "whole")
    whole.communicate(timeout=20)
    for name in ("predictions.json", "predictions.jsonl", "run.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for i in range(12):
        Image.open(tmp_path / "parts" / "pictures" / f"{i:02d}.png").verify()
