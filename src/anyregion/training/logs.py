"""The log of a run: JSON lines, and TensorBoard's events where it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any

from anyregion.errors import InputError
from anyregion.files import read_text, write_text, writing
from anyregion.images import Pixels

LOG = "log.jsonl"


class Log:
    """Appends to `log.jsonl`, and drops the lines of later steps than `step`, of a killed run.

    Raises:
        AnyRegionError: it cannot be written.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool) -> None:
        self.path = folder / LOG
        with writing(self.path):
            _cut(self.path, step)
            self._file = self.path.open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard drops the events of later steps, which a killed run left
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def write(self, step: int, values: Mapping[str, float], *, group: str = "") -> None:
        """One line: `step`, and the values, under `group` if one is named."""
        # JSON has no NaN and no infinity
        numbers = {k: v if v == v and abs(v) != float("inf") else None for k, v in values.items()}
        line = {"step": step, **({group: numbers} if group else numbers)}
        self._append(line)
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{group or 'train'}/{name}", value, step)

    def warn(self, step: int, text: str) -> None:
        """One line with a warning."""
        self._append({"step": step, "warning": text})

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Show a picture in TensorBoard."""
        if self._events is not None:
            self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        with writing(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, but a last one that a killed run cut short.

    Raises:
        InputError: there is none, or another line is malformed.
    """
    lines = []
    raws = read_text(folder / LOG).splitlines()
    for number, raw in enumerate(raws, start=1):
        try:
            line = json.loads(raw)
            _check_line(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            if number < len(raws):
                raise InputError(
                    f"{folder / LOG}: line {number} is malformed; repair it, or remove it"
                ) from None
            break
        lines.append(line)
    return lines


def _check_line(line: Any) -> None:
    """An error of Python's where a line is not as `Log` writes them."""
    if type(line["step"]) is not int:
        raise TypeError("step")
    for key, value in line.items():
        for entry in value.values() if isinstance(value, dict) else (value,):
            if not isinstance(entry, str if key == "warning" else (int, float, NoneType)):
                raise TypeError(key)


def _cut(path: Path, step: int) -> None:
    if not path.exists():
        return
    lines = [line for line in read_log(path.parent) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
