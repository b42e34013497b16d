"""Many regions, signals, full disks, folders that cannot be written: in real processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.command_line import BOXES, NAMES
from tests.helpers.halves import annotate, picture
from tests.helpers.runs import lines

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, limits of the system")

# seconds: one, as promised, and what a machine that has other work to do may add
SOON = 3.0

# the program with a model that knows colours; `{setup}` may change more of it
COLOURS = """
import sys, time
from anyregion import factory
from anyregion.cli.main import main
from tests.helpers.colours import colour_recognizer

factory.load_recognizer = lambda **_: colour_recognizer()
{setup}
sys.exit(main())
"""


def start(
    command: list[str], folder: Path, *, setup: str | None = None, limit: int | None = None
) -> subprocess.Popen[str]:
    """Start the program; with `setup` the one of colours. `limit` is of a file, in bytes."""
    python = ["-m", "anyregion"] if setup is None else ["-c", COLOURS.format(setup=setup)]
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, *python, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal; the process ends soon, as interrupted. Returns what it said."""
    process.send_signal(number)
    began = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - began < SOON
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    return error


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def many_boxes(folder: Path, count: int, *, masks: bool = False) -> list[str]:
    """A photograph with many boxes, and the words that name them."""
    picture(folder / "photo.png", "red", "blue", size=(320, 240))
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, [280, 200], (count, 2)).round(2).tolist()
    annotations: list[dict[str, Any]] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, y, 30, 20]}
        for i, (x, y) in enumerate(corners)
    ]
    for a in annotations if masks else ():
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x, y + h]]
    image = {"id": 1, "file_name": "photo.png", "width": 320, "height": 240}
    content = {"images": [image], "annotations": annotations, "categories": []}
    (folder / "many.json").write_text(json.dumps(content))
    words = ["recognize", "photo.png", "--regions", "many.json", "--vocabulary", "cat,dog"]
    return [*words, "--no-pictures", "--out", "out"]


# memory


@pytest.mark.parametrize("way", [["--use-masks"], ["--method", "dense"]])
def test_memory_does_not_grow_with_the_regions(tmp_path: Path, way: list[str]) -> None:
    peaks = []
    # of two full batches (`REGIONS_AT_ONCE`) and of more: of one alone the peak is lower
    for count in (600, 1200):
        (tmp_path / str(count)).mkdir()
        command = many_boxes(tmp_path / str(count), count, masks=True)
        process = start([*command, *way], tmp_path / str(count))
        process.stdout.read()  # type: ignore[union-attr]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.communicate()
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / 1024)
    # it was 0.7 MB a region with masks: 240
    assert peaks[1] - peaks[0] < 80


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_within_an_image_of_many_regions(tmp_path: Path, number: signal.Signals) -> None:
    process = start(many_boxes(tmp_path, 20_000), tmp_path)
    run_json = tmp_path / "out" / "run.json"
    # the weights are noted once the model is there
    wait_until(lambda: run_json.exists() and bool(json.loads(run_json.read_text())["models"]))
    time.sleep(0.5)
    assert process.poll() is None
    stop(process, number)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == b""
    assert not list((tmp_path / "out").glob(".*"))


def test_while_a_thread_reads_ahead(tmp_path: Path) -> None:
    """A thread that is in the middle of a large image holds nobody up."""
    for i in range(4):
        picture(tmp_path / "photos" / f"{i}.png", "red", "blue")
    slow = (
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "submit = Pool.submit\n"
        "def late(pool, work, *a, **k):\n"
        "    slow = 'read' in pool._thread_name_prefix\n"
        "    return submit(pool, (lambda *a, **k: time.sleep(60)) if slow else work, *a, **k)\n"
        "Pool.submit = late"
    )
    command = ["recognize", "photos", "--vocabulary", NAMES, *BOXES, "--out", "out"]
    process = start(command, tmp_path, setup=slow)
    wait_until((tmp_path / "out" / "predictions.jsonl").exists)
    time.sleep(0.3)
    stop(process, signal.SIGTERM)


@pytest.mark.parametrize("command", ["cache", "evaluate classification"])
def test_sigterm_ends_other_commands(tmp_path: Path, command: str) -> None:
    halves = dict.fromkeys(range(1, 151), ("red", "blue"))
    annotations = annotate(tmp_path, halves)
    words = [*command.split(), "--annotations", str(annotations), "--images", "photos"]
    process = start([*words, *(["--out", "store"] if command == "cache" else [])], tmp_path)
    time.sleep(2.5)
    assert process.poll() is None, process.communicate()
    stop(process, signal.SIGTERM)


# disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full(tmp_path: Path, small_disk: Path) -> None:
    for i in range(60):
        picture(tmp_path / "photos" / f"{i:02d}.png", "red", "blue")
    boxes = [f"--box={x},0,{x + 10},30" for x in range(30)]
    command = ["recognize", "photos", "--vocabulary", NAMES, *boxes, "--no-pictures", "--out"]
    process = start([*command, "disk/out"], tmp_path, setup="")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the disk is full. What is finished is kept" in error
    assert "Traceback" not in error
    finished = lines(small_disk / "out" / "predictions.jsonl")
    assert 0 < len(finished) < 60
    assert not list(small_disk.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    process = start([*command, "disk/out"], tmp_path, setup="")
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"{len(finished)} from an earlier run" in printed


def test_what_does_not_fit_leaves_no_torn_line(tmp_path: Path) -> None:
    """The system writes as much of a line as there is room for, and then fails."""
    for i in range(12):
        picture(tmp_path / "photos" / f"{i:02d}.png", "red", "blue")
        (tmp_path / "photos" / f"{i:02d}-broken.png").write_bytes(b"no picture")
    command = ["recognize", "photos", "--vocabulary", NAMES, *BOXES, "--no-pictures", "--out"]
    torn = 0
    for limit in (1500, 1711, 1822, 2000):
        process = start([*command, f"out-{limit}"], tmp_path, setup="", limit=limit)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 1, error
        assert "cannot be written" in error
        assert "Traceback" not in error
        for name in ("predictions.jsonl", "skipped.jsonl"):
            content = (tmp_path / f"out-{limit}" / name).read_bytes()
            assert content == b"" or content.endswith(b"\n"), name
            torn += bool(content)
    assert torn


@pytest.mark.parametrize("command", ["recognize", "cache"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, small_disk: Path, command: str) -> None:
    annotations = annotate(tmp_path)
    words = ["--vocabulary", NAMES, "photos", "--regions", str(annotations)]
    if command == "cache":
        words = ["--annotations", str(annotations), "--images", "photos"]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    process = start([command, *words, "--out", "disk/out"], tmp_path)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot be written" in error or "Read-only" in error
    assert "Traceback" not in error


# two writers


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "photos" / f"{i}.png", "red", "blue")
    slow = (
        "from tests.helpers.colours import ColourEncoder\n"
        "encode = ColourEncoder.encode_images\n"
        "def late(encoder, batch):\n"
        "    time.sleep(0.5)\n"
        "    return encode(encoder, batch)\n"
        "ColourEncoder.encode_images = late"
    )
    command = ["recognize", "photos", "--vocabulary", NAMES, *BOXES, "--batch-size", "1"]
    command += ["--no-pictures", "--out", "out"]
    first = start(command, tmp_path, setup=slow)
    journal = tmp_path / "out" / "predictions.jsonl"
    wait_until(lambda: journal.exists() and journal.stat().st_size > 0)
    second = start(command, tmp_path, setup="")
    _, error = second.communicate(timeout=30)
    assert second.returncode == 1
    assert "another run is writing there" in error
    first.kill()
    first.communicate(timeout=30)
    third = start(command, tmp_path, setup="")
    printed, _ = third.communicate(timeout=30)
    assert third.returncode == 0
    assert "from an earlier run" in printed
    assert len(lines(journal)) == 6
