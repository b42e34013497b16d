"""What a run says of itself while it goes: JSON lines, and TensorBoard's events if it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from anyregion.errors import InputError
from anyregion.files import atomic_path, writing
from anyregion.images import Pixels

LOG = "log.jsonl"


class Log:
    """Appends to `log.jsonl`; lines of steps behind `step`, which a killed run left, are dropped.

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

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def write(self, step: int, values: Mapping[str, float], *, group: str = "") -> None:
        """One line: `step`, and the values, under `group` if one is named."""
        numbers = {k: v if v == v and abs(v) != float("inf") else None for k, v in values.items()}
        line = {"step": step, **({group: numbers} if group else numbers)}
        with writing(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{group or 'train'}/{name}", value, step)

    def warn(self, step: int, text: str) -> None:
        """One line with a warning."""
        with writing(self.path):
            self._file.write(json.dumps({"step": step, "warning": text}) + "\n")
            self._file.flush()

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Show a picture in TensorBoard."""
        if self._events is not None:
            self._events.add_image(name, picture, step, dataformats="HWC")

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.

    Raises:
        InputError: there is none.
    """
    path = folder / LOG
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    lines = []
    for raw in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(raw))
        except json.JSONDecodeError:  # the last line of a killed run
            break
    return lines


def _cut(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_log(path.parent) if line["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(k) + "\n" for k in kept), encoding="utf-8")
