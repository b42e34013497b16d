"""What the tests of `anyregion transfer` share: small settings, and command lines.

`python -m tests.helpers.transfer_runs DELAY WORD ...` runs one in a process of its own, each image
read so much slower.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from anyregion.cli.main import main
from anyregion.training.logs import read_log
from anyregion.transfer.detection_task import DetectionTask
from anyregion.transfer.segmentation_task import SegmentationTask

ROOT = Path(__file__).parents[2]
BACKBONE = "timm/test_efficientnet"
LOOP = {"checkpoint_every": 2, "log_every": 1, "tensorboard": "false", "readers": 1}
SMALL: dict[str, dict[str, Any]] = {
    "semseg": LOOP
    | {
        "steps": 6,
        "semseg.batch": 2,
        "semseg.augment.crop": "[32, 32]",
        "semseg.augment.short_side": 32,
    },
    "detection": LOOP
    | {
        "steps": 4,
        "detection.batch": 2,
        "detection.detector.short_side": "[48]",
        "detection.detector.long_side": 64,
        "detection.detector.anchors": "[8, 16, 24, 32, 48]",
        "detection.detector.channels": 16,
        "detection.detector.hidden": 32,
        "detection.detector.samples": 16,
        "detection.detector.proposals": "[60, 30]",
        "detection.detector.detections": 10,
        "detection.detector.min_score": 0.0,
    },
}


def command(task: str, data: Path, out: Path, *words: str, **changes: Any) -> list[str]:
    """`anyregion transfer TASK` with small settings; `__` stands for a dot in `changes`."""
    settings = SMALL[task] | {name.replace("__", "."): value for name, value in changes.items()}
    run = ["transfer", task, str(data), "--backbone", BACKBONE, *words, "--out", str(out)]
    return [*run, *(f"--{name}={value}" for name, value in settings.items())]


def transfer(task: str, data: Path, out: Path, *words: str, **changes: Any) -> int:
    """Run it here; the exit code."""
    return main(command(task, data, out, *words, **changes))


def kill_after(lines: int, out: Path, words: list[str]) -> None:
    """Start a run in a process of its own, and kill it once its log has so many lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.transfer_runs", "0.2", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 240
    while not (out / "log.jsonl").is_file() or len(read_log(out)) < lines:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "model").exists()


def _slower(task: Any, seconds: float) -> None:
    load = task.load

    def slow(self: Any, item: Any) -> Any:
        time.sleep(seconds)
        return load(self, item)

    task.load = slow


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in (SegmentationTask, DetectionTask):
        _slower(kind, float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
