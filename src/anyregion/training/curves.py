"""A picture of a run's course: losses, learning rate and validation metrics over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.drawing.curves import BLUE, GREEN, RED, Panel, draw_panels
from anyregion.files import atomic_path, writing
from anyregion.training.config import Direction
from anyregion.training.logs import read_log

CURVES = "curves.png"
NOT_DRAWN = ("step", "grad_norm", "images_per_second", "seconds")
LOSS_COLOUR, RATE_COLOUR, METRIC_COLOUR = BLUE, GREEN, RED


def write_curves(
    folder: Path, *, best: str | None = None, best_is: Direction | None = None
) -> None:
    """Draw `log.jsonl` of a run into its `curves.png`; nothing where nothing was logged.

    Args:
        best, best_is: the metric whose best validation is ringed.

    Raises:
        AnyRegionError: it cannot be written.
    """
    if panels := read_panels(read_log(folder), best=best, best_is=best_is):
        path = folder / CURVES
        with writing(path), atomic_path(path) as temporary:
            draw_panels(panels).save(temporary, format="PNG")


def read_panels(
    lines: Sequence[Mapping[str, Any]], *, best: str | None = None, best_is: Direction | None = None
) -> list[Panel]:
    """Losses first, then the learning rate, then the metrics, from the lines of a log."""
    train = [line for line in lines if "loss" in line]
    validation = [{"step": x["step"], **x["validation"]} for x in lines if "validation" in x]
    last = max([line["step"] for line in [*train, *validation]], default=1)
    panels = []
    for group in (train, validation):
        names = dict.fromkeys(name for line in group for name in line if name not in NOT_DRAWN)
        for name in sorted(names, key=lambda name: (name == "lr", name != "loss")):
            rows = [line for line in group if name in line]
            steps = np.array([line["step"] for line in rows], dtype=np.int64)
            # JSON has no NaN: the log writes null
            values = np.array([math.nan if line[name] is None else line[name] for line in rows])
            if group is train:
                rate = ("learning rate", RATE_COLOUR)
                title, colour = rate if name == "lr" else (name, LOSS_COLOUR)
                panels.append(Panel(title, steps, values, last, colour))
                continue
            ringed = None
            if name == best and np.isfinite(values).any():
                ringed = int(np.nanargmin(values) if best_is == "lowest" else np.nanargmax(values))
            title = f"{name} (validation)"
            panels.append(Panel(title, steps, values, last, METRIC_COLOUR, True, ringed))
    return panels
