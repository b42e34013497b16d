"""A training in a process of its own: `python -m tests.helpers.training_worker OUT JSON`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from anyregion.torch_utils import weights as weight_files
from anyregion.training.config import LoopConfig, OptimizerConfig
from anyregion.training.loop import fit
from tests.helpers.toy_task import ToyTask


def config(**changes: Any) -> LoopConfig:
    usual = {
        "steps": 24,
        "ema_decay": 0.8,
        "checkpoint_every": 4,
        "log_every": 3,
        "tensorboard": False,
        "optimizer": OptimizerConfig(lr=1e-2, weight_decay=0.01),
    }
    return LoopConfig(**(usual | changes))


def stall_in_checkpoint(number: int, out: Path) -> None:
    """Write half of the `number`-th checkpoint, say so, and never finish it."""
    save, count = weight_files.save_file, 0

    def half(tensors: Any, path: Any, metadata: Any) -> None:
        nonlocal count
        count += 1
        save(tensors, path, metadata=metadata)
        if count == number:
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])
            (out.parent / "stalled").touch()
            time.sleep(600)

    weight_files.save_file = half


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for number, scenario in enumerate(json.loads(sys.argv[2])):
        if stall := scenario.get("stall"):
            stall_in_checkpoint(stall, out)
        where = out / str(number) if scenario.get("apart") else out
        report = fit(ToyTask(**scenario["task"]), config(**scenario["loop"]), where)
        sys.exit(130) if report.interrupted else None


if __name__ == "__main__":
    main()
