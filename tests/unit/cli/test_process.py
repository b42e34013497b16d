"""The program as a process: full disks, readers that leave, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from anyregion import __version__
from tests.helpers.command_line import BOXES, NAMES
from tests.helpers.halves import picture
from tests.helpers.runs import lines


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


HEAVY = ("torch", "onnxruntime", "transformers", "tokenizers", "matplotlib", "supervision")


@pytest.mark.parametrize("words", [["--help"], ["recognize", "--help"], ["--version"]])
def test_help_is_quick_and_light(words: list[str]) -> None:
    code = (
        "import sys, time; start = time.process_time()\n"
        "from anyregion.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"loaded = [m for m in {HEAVY} if m in sys.modules]\n"
        "print(time.process_time() - start, loaded, file=sys.stderr)"
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


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-", "1</dev/null", "2>&1 | true"])
def test_a_closed_stream_is_no_bug(closed: str, tmp_path: Path) -> None:
    # `models` prints, and what it opens must not get the number of the stream that is missing
    done = subprocess.run(
        f"{{ {sys.executable} -m anyregion models {closed}; }} 2>{tmp_path / 'errors'}",
        shell=True,
        check=False,
    )
    assert done.returncode == (1 if closed == "1</dev/null" else 0)
    assert "Traceback" not in (tmp_path / "errors").read_text()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_any_text_is_printed_in_any_locale(locale: str, tmp_path: Path) -> None:
    words = ["recognize", os.fsencode("caf\u00e9") + b"\xff.png", "--box", "1,1,2,2"]
    done = subprocess.run(
        [sys.executable, "-m", "anyregion", *words, "--vocabulary", "\u732b"],
        env=os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"xff.png" in done.stderr or b"dcff.png" in done.stderr
    assert b"Traceback" not in done.stderr


SLOW = """
import sys, time
from anyregion import factory
from anyregion.cli.main import main
from anyregion.recognizer import Recognizer
from tests.helpers.colours import ColourEncoder

class Slow(ColourEncoder):
    def encode_images(self, images):
        time.sleep(float(sys.argv[1]))
        return super().encode_images(images)

factory.load_recognizer = lambda **_: Recognizer(Slow(), cache=None)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_continued(tmp_path: Path, stop: signal.Signals) -> None:
    for i in range(12):
        picture(tmp_path / "photos" / f"{i:02d}.png", "red", "blue")
    command = ["recognize", "photos", "--vocabulary", NAMES, *BOXES, "--batch-size", "1"]
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def start(seconds: float, out: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", SLOW, str(seconds), *command, "--out", out]
        return subprocess.Popen(
            words,
            cwd=tmp_path,
            env=where,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # a shell that starts something in the background lets it ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    if stop is not signal.SIGKILL:
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
