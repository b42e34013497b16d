"""The check of a table before it is run: data and weights in place, commands that would be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anyregion.factory import list_models
from anyregion.images import find_images
from anyregion.reproduction.tables import Need, Part, Places, Row

State: TypeAlias = Literal["here", "incomplete", "missing"]


@dataclass(frozen=True)
class PartState:
    """One file, folder or hub model: whether it is there.

    Attributes:
        place: the path, or the name on the hub.
        state: `incomplete` is a folder with fewer images than the whole data set has.
        detail: how many images there are of how many.
    """

    place: str
    state: State
    detail: str = ""


@dataclass(frozen=True)
class CommandState:
    """One step of a row, and what is wrong with it; None where it would be read."""

    row: str
    words: tuple[str, ...]
    error: str | None


@dataclass(frozen=True)
class TableCheck:
    """The state of all that a table needs and does; made by `check_table`.

    Attributes:
        needs: per data set or weights the state of each part.
        commands: every step of every row.
    """

    needs: Mapping[str, tuple[PartState, ...]]
    commands: tuple[CommandState, ...]

    @property
    def missing(self) -> list[str]:
        """The places of parts that are not there."""
        return [p.place for parts in self.needs.values() for p in parts if p.state == "missing"]

    @property
    def errors(self) -> list[str]:
        """What is wrong with commands."""
        return [f"{c.row}: {c.error}" for c in self.commands if c.error]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def check_table(
    rows: Sequence[Row],
    needs: Mapping[str, Need],
    places: Places,
    *,
    command_error: Callable[[Sequence[str]], str | None],
) -> TableCheck:
    """Look for all that rows need, and read their commands without running them.

    Args:
        command_error: what is wrong with the words of a command line, or None.
    """
    names = dict.fromkeys(name for row in rows for name in row.needs)
    cached = {model.name: model.here for model in list_models()}
    states = {
        name: tuple(_state(part, places, cached) for part in needs[name].parts) for name in names
    }
    commands = []
    for row, step in _distinct(rows):
        words = places.words(step)
        commands.append(CommandState(row.name, tuple(words), command_error(words)))
    return TableCheck(states, tuple(commands))


def _distinct(rows: Sequence[Row]) -> Iterable[tuple[Row, str]]:
    """Each step once, with the first row that has it."""
    first: dict[str, Row] = {}
    for row in rows:
        for step in row.steps:
            first.setdefault(step, row)
    return ((row, step) for step, row in first.items())


def _state(part: Part, places: Places, cached: Mapping[str, bool]) -> PartState:
    if part.hub:
        state: State = "here" if cached.get(part.hub, False) else "missing"
        return PartState(part.hub, state, "of the hub's cache")
    path = Path(places.fill(part.path))
    if not path.exists():
        return PartState(str(path), "missing")
    if not part.images:
        return PartState(str(path), "here")
    count = len(find_images([path])[0])
    detail = f"{count:,} of {part.images:,} images"
    return PartState(
        str(path), "here" if count >= part.images else "incomplete" if count else "missing", detail
    )
