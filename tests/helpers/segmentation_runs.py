"""What the tests of `anyregion transfer semseg` share: small settings, and command lines.

`python -m tests.helpers.segmentation_runs DELAY WORD ...` runs one in a process of its own, each
image read so much slower.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from anyregion.cli.main import main
from anyregion.transfer.segmentation_task import SegmentationTask

SMALL = {
    "steps": 6,
    "checkpoint_every": 2,
    "log_every": 1,
    "tensorboard": "false",
    "readers": 1,
    "semseg.batch": 2,
    "semseg.augment.crop": "[32, 32]",
    "semseg.augment.short_side": 32,
}
BACKBONE = "timm/test_efficientnet"


def command(data: Path, out: Path, *words: str, **changes: Any) -> list[str]:
    """`anyregion transfer semseg` with small settings; `__` stands for a dot in `changes`."""
    settings = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    run = ["transfer", "semseg", str(data), "--backbone", BACKBONE, *words, "--out", str(out)]
    return [*run, *(f"--{name}={value}" for name, value in settings.items())]


def transfer(data: Path, out: Path, *words: str, **changes: Any) -> int:
    """Run it here; the exit code."""
    return main(command(data, out, *words, **changes))


def _slower(seconds: float) -> None:
    load = SegmentationTask.load

    def slow(self: SegmentationTask, item: Any) -> Any:
        time.sleep(seconds)
        return load(self, item)

    SegmentationTask.load = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    _slower(float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
