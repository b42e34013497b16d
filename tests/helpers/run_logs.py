"""What a training left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from anyregion.training.logs import read_log
from anyregion.training.run_folder import last_checkpoint


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(last_checkpoint(folder))


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in read_log(folder)]
