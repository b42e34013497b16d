"""A table of a paper, read from YAML: rows of commands, what they need, the published figures.

One file a table lies in `tables/`; `data.yaml` says what data sets and weights are and where they
lie. Neither holds code: a row's steps are command lines of `anyregion`, in which `$DATA`,
`$WEIGHTS`, `$WORK` and `$DEVICE` stand for what the caller names, and `$COMMON` for words that the
tier's commands share.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from anyregion.errors import InputError
from anyregion.yaml_text import parse_yaml

PACKAGE = "anyregion.reproduction"
# of a figure in a report: a fraction shown in points, seconds shown as hours, or as it is
Kind: TypeAlias = Literal["points", "hours", "millions", "number"]
Tier: TypeAlias = Literal["full", "scaled"]


@dataclass(frozen=True)
class Places:
    """What the variables of steps and paths stand for.

    Attributes:
        data: the folder of the data sets, each in its own layout.
        weights: the folder of weights that are not on a hub.
        work: where stores, runs and tables are written.
        device: as commands take it.
    """

    data: Path
    weights: Path
    work: Path
    device: str = "cpu"

    def fill(self, text: str) -> str:
        """The text with its variables replaced."""
        for name in ("data", "weights", "work", "device"):
            text = text.replace(f"${name.upper()}", str(getattr(self, name)))
        return text

    def words(self, step: str) -> list[str]:
        """A step as words of a command line, without `anyregion`; places may hold blanks."""
        return [self.fill(word) for word in shlex.split(step)]


@dataclass(frozen=True)
class Part:
    """A file or folder that must be there.

    Attributes:
        path: with variables.
        images: how many images the folder holds when it is whole; 0 for any other file or folder.
        hub: a model's name on the hub, in place of a path.
    """

    path: str = ""
    images: int = 0
    hub: str = ""


@dataclass(frozen=True)
class Need:
    """A data set or weights: what it is, where to get it, and the parts that must be there."""

    name: str
    what: str
    get: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as the table has it.
        steps: command lines of `anyregion` without that word, one after the other; the last one
            prints JSON.
        figures: per column where its figure lies in that JSON, keys parted by dots.
        needs: data and weights, all those of the row's steps.
        published: per column the paper's figure, as it is printed there; what is not known is not
            among them.
        cost: hours and hardware, and how they were computed.
        note: what the reader should know.
    """

    name: str
    steps: tuple[str, ...]
    figures: Mapping[str, str]
    needs: tuple[str, ...] = ()
    published: Mapping[str, float] | None = None
    cost: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper: its rows at full size, and those of the scaled tier.

    Attributes:
        name: on the command line.
        paper: `RegionSpot` or `R2O`.
        title: what is measured.
        columns: per column what kind of figure it is.
        rows: by tier; a table may have no scaled tier.
        notes: by tier: what the figures can show and what not.
    """

    name: str
    paper: str
    title: str
    columns: Mapping[str, Kind]
    rows: Mapping[Tier, tuple[Row, ...]]
    notes: Mapping[Tier, str]


def list_tables() -> list[str]:
    """The names of all tables."""
    files = (resources.files(PACKAGE) / "tables").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_table(name: str) -> Table:
    """A table by its name.

    Raises:
        InputError: there is no such table.
    """
    if name not in list_tables():
        raise InputError(f"no table {name!r}: there are {', '.join(list_tables())}")
    content = _read(f"tables/{name}.yaml")
    columns: dict[str, Kind] = content["columns"]
    for column, kind in columns.items():
        if kind not in get_args(Kind):
            raise InputError(f"{name}: {column} is of no kind {kind!r}")
    rows: dict[Tier, tuple[Row, ...]] = {}
    notes: dict[Tier, str] = {}
    for tier in get_args(Tier):
        part = content.get(tier)
        if part is not None:
            shared = part.get("steps", ())
            rows[tier] = tuple(_row(each, part, shared) for each in part["rows"])
            notes[tier] = " ".join(part.get("note", "").split())
    return Table(name, content["paper"], content["title"], columns, rows, notes)


def read_needs() -> dict[str, Need]:
    """Every data set and all weights, by name."""
    return {
        name: Need(name, each["what"], each["get"], tuple(Part(**part) for part in each["parts"]))
        for name, each in _read("data.yaml").items()
    }


def _row(content: Mapping[str, Any], tier: Mapping[str, Any], shared: tuple[str, ...]) -> Row:
    """A row; figures, needs and first steps that all rows have are stated once, at the tier."""
    fields = dict(content)
    # `$COMMON` stands for what the tier's commands have in common
    common = tier.get("common", "")
    steps = tuple(
        " ".join(step.replace("$COMMON", common).split())
        for step in (*shared, *fields.pop("steps"))
    )
    needs = tuple(dict.fromkeys((*tier.get("needs", ()), *fields.pop("needs", ()))))
    figures = fields.pop("figures", tier.get("figures"))
    return Row(steps=steps, needs=needs, figures=figures, **fields)


def _read(path: str) -> Any:
    return parse_yaml((resources.files(PACKAGE) / path).read_text(encoding="utf-8"), path)
