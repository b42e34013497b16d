"""Output on the terminal: progress with the time left, tables, warnings on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from anyregion import vocabulary
from anyregion.files import plain_text

# where there is no terminal: a log of an hour stays readable
SECONDS_BETWEEN_LINES = 5.0
_LONG = 200


@contextmanager
def progress() -> Iterator[Callable[[str, str], vocabulary.Progress]]:
    """Yield `track(doing, unit)`, which makes a callback `(done, total)` for one piece of work.

    On a terminal each shows a bar with the time left; else a line every few seconds (stderr).
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:

        def track(doing: str, unit: str) -> vocabulary.Progress:
            task = bars.add_task(doing, total=None, visible=False, unit=unit)
            return lambda done, total: bars.update(task, completed=done, total=total, visible=True)

        yield track


@dataclass
class _Lines:
    """Progress of one piece of work as lines on stderr, some seconds apart."""

    doing: str
    unit: str
    started: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    printed: bool = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0:
            self.started = self.last = now
        # what ends before the first line is due needs none
        elif now - self.last >= SECONDS_BETWEEN_LINES and (done < total or self.printed):
            self.last, self.printed = now, True
            minutes, seconds = divmod(round((now - self.started) / done * (total - done)), 60)
            note(f"{self.doing}: {done}/{total} {self.unit}, {minutes}:{seconds:02d} left")


def note(text: str) -> None:
    """One line on stderr."""
    print(f"anyregion: {plain_text(text)}", file=sys.stderr, flush=True)


def warn_list(what: str, items: Sequence[object], *, limit: int = 8, more: str = "") -> None:
    """A warning with the first few items, and how many others there are."""
    if items:
        note(f"warning: {what} ({len(items)}):")
        for item in items[:limit]:
            print(f"  {plain_text(item)}", file=sys.stderr)
        if len(items) > limit:
            print(f"  ... and {len(items) - limit} more{more}", file=sys.stderr)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = ()
) -> None:
    """Print aligned columns on stdout; `numbers` are the columns to align right.

    Over `_LONG` rows are printed without folding: rich takes 5 ms a row for it.
    """
    right_aligned = set(numbers)
    cells = [[plain_text(cell) for cell in row] for row in rows]
    if len(cells) > _LONG:
        cells.insert(0, list(columns))
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            padding = [
                " " * (width - cell_len(cell)) for width, cell in zip(widths, row, strict=True)
            ]
            texts = (
                space + cell if i in right_aligned else cell + space
                for i, (cell, space) in enumerate(zip(row, padding, strict=True))
            )
            print("  ".join(texts).rstrip())
        return
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        grid.add_column(name, justify="right" if i in right_aligned else "left", overflow="fold")
    for row in cells:
        # Text, not str: a name in square brackets is a name, not markup
        grid.add_row(*map(Text, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        # a pipe has no width: nothing is to be folded
        console.width = 10_000
    console.print(grid)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print `name  value` lines on stdout."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        print(f"{name:<{width}}  {plain_text(value)}")
