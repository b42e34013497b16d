"""The run of a table: its rows' commands in processes of their own, and the table they give."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyregion import __version__
from anyregion.errors import AnyRegionError, InputError, SetAside
from anyregion.files import read_json, write_json, write_text, writing
from anyregion.reproduction.tables import Kind, Need, Places, Row, Table, Tier

# exit codes of a command that did its work: fine, and fine but for what was set aside
_DONE = (0, 3)
# files over this are known by name and size: hashing a data set takes longer than a row
HASHED_BYTES = 2_000_000_000


@dataclass(frozen=True)
class RowResult:
    """One row that was run.

    Attributes:
        row: what was run.
        figures: per column the figure of the last step's JSON; None where it gives none.
        commands: the steps' words, as they were run.
        seconds: of its steps, those of an earlier call too; of a step that rows share, in each.
        hashes: SHA-256 of the models that its trainings wrote.
    """

    row: Row
    figures: Mapping[str, float | None]
    commands: tuple[tuple[str, ...], ...]
    seconds: float
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class TableResult:
    """The rows that were run, the hashes of what they read, and the rows that failed."""

    table: Table
    tier: Tier
    rows: tuple[RowResult, ...]
    inputs: Mapping[str, str]
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "table": self.table.name,
            "paper": self.table.paper,
            "title": self.table.title,
            "tier": self.tier,
            "note": self.table.notes[self.tier],
            "anyregion": __version__,
            "rows": [
                {
                    "name": result.row.name,
                    "published": dict(result.row.published or {}),
                    "figures": dict(result.figures),
                    "commands": [list(words) for words in result.commands],
                    "seconds": round(result.seconds, 1),
                    "models": dict(result.hashes),
                }
                for result in self.rows
            ],
            "inputs": dict(self.inputs),
            "set_aside": [str(each) for each in self.set_aside],
        }


def run_table(
    table: Table,
    tier: Tier,
    rows: Sequence[Row],
    places: Places,
    needs: Mapping[str, Need],
    *,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> TableResult:
    """Run the rows, and write `WORK/TABLE-TIER.md` and `.json`.

    A step that was run before with the same words, inputs and version is not run again, unless
    `overwrite`. A row that fails is set aside; the rest goes on.

    Raises:
        InputError: every row failed.
    """
    inputs = _input_hashes(rows, needs, places)
    results: list[RowResult] = []
    set_aside: list[SetAside] = []
    for row in rows:
        note(f"{table.name}: {row.name}")
        try:
            results.append(_run_row(row, places, inputs, overwrite=overwrite))
        except AnyRegionError as error:
            set_aside.append(SetAside(row.name, str(error)))
    if not results:
        raise InputError(f"{table.name}: no row could be run ({set_aside[-1]})")
    result = TableResult(table, tier, tuple(results), inputs, tuple(set_aside))
    path = places.work / f"{table.name}-{tier}"
    with writing(path):
        places.work.mkdir(parents=True, exist_ok=True)
        write_json(path.with_suffix(".json"), result.to_dict(), indent=1)
        write_text(path.with_suffix(".md"), markdown(result))
    return result


def markdown(result: TableResult) -> str:
    """The table as a page: published figures beside those of this run, with all commands."""
    columns = result.table.columns
    published = any(row.row.published for row in result.rows)
    heads = ["", *columns, *([f"{name}, published" for name in columns] if published else [])]
    lines = [
        f"# {result.table.paper}: {result.table.title} ({result.tier})",
        "",
        result.table.notes[result.tier],
        "",
        f"| {' | '.join(heads)} |",
        f"| {' | '.join(['---'] * len(heads))} |",
    ]
    for each in result.rows:
        own = [shown(each.figures.get(name), kind) for name, kind in columns.items()]
        paper = [_plain((each.row.published or {}).get(name)) for name in columns]
        lines.append(f"| {' | '.join([each.row.name, *own, *(paper if published else [])])} |")
    lines += ["", f"anyregion {__version__}", "", "```"]
    commands = dict.fromkeys(words for each in result.rows for words in each.commands)
    lines += [f"anyregion {shlex.join(words)}" for words in commands]
    lines += ["```", "", "| file | SHA-256 |", "| --- | --- |"]
    models = {path: digest for each in result.rows for path, digest in each.hashes.items()}
    lines += [f"| {path} | {digest} |" for path, digest in {**result.inputs, **models}.items()]
    return "\n".join([*lines, *(f"\nSet aside: {each}" for each in result.set_aside), ""])


def shown(figure: float | None, kind: Kind) -> str:
    """A figure as its column shows it."""
    if figure is None:
        return "-"
    if kind == "points":
        return f"{100 * figure:.1f}"
    if kind == "hours":
        return f"{figure / 3600:.3f}"
    return f"{figure / 1e6:.2f}" if kind == "millions" else f"{figure:.4g}"


def _plain(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:g}"


def _run_row(row: Row, places: Places, inputs: Mapping[str, str], *, overwrite: bool) -> RowResult:
    commands = tuple(tuple(places.words(step)) for step in row.steps)
    seconds = 0.0
    report: Any = None
    for words in commands:
        record = _run_step(words, places.work, inputs, overwrite=overwrite)
        seconds += record["seconds"]
        report = record["report"]
    if not isinstance(report, dict):
        raise InputError(f"the last step printed no JSON: anyregion {shlex.join(commands[-1])}")
    figures = {column: _figure(report, path) for column, path in row.figures.items()}
    return RowResult(row, figures, commands, seconds, _model_hashes(commands))


def _run_step(
    words: tuple[str, ...], work: Path, inputs: Mapping[str, str], *, overwrite: bool
) -> dict[str, Any]:
    """Run one command, or read what it said before: its JSON (or None) and seconds."""
    key = hashlib.sha256(json.dumps([__version__, words, dict(inputs)]).encode()).hexdigest()[:16]
    path = work / "steps" / f"{key}.json"
    if path.is_file() and not overwrite:
        record: dict[str, Any] = read_json(path)
        return record
    started = time.perf_counter()
    # a process of its own: each command begins with the memory and the seeds of a fresh one
    process = subprocess.run(
        [sys.executable, "-m", "anyregion", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if process.returncode not in _DONE:
        raise InputError(f"exit code {process.returncode}: anyregion {shlex.join(words)}")
    record = {"words": list(words), "seconds": time.perf_counter() - started, "report": None}
    lines = process.stdout.strip().splitlines()
    if lines and lines[-1].startswith("{"):
        record["report"] = json.loads(lines[-1])
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    return record


def _figure(report: Any, path: str) -> float | None:
    """The number at `a.b.c` of a report; None where it is null.

    Raises:
        InputError: the report has no such key.
    """
    value = report
    for key in path.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"the report has no {path}")
        value = value[key]
    return None if value is None else float(value)


def _input_hashes(rows: Sequence[Row], needs: Mapping[str, Need], places: Places) -> dict[str, str]:
    """SHA-256 of the files (not of folders of images) that the rows read."""
    names = dict.fromkeys(name for row in rows for name in row.needs)
    parts = [part for name in names for part in needs[name].parts if part.path]
    paths = [Path(places.fill(part.path)) for part in parts]
    return {str(path): _sha256(path) for path in paths if path.is_file()}


def _model_hashes(commands: Sequence[Sequence[str]]) -> dict[str, str]:
    """SHA-256 of the weights in the model's folder of every run that the commands made."""
    hashes: dict[str, str] = {}
    for words in commands:
        if words[0] in ("train", "pretrain") and "--out" in words:
            model = Path(words[words.index("--out") + 1]) / "model"
            weights = [*model.glob("*.safetensors"), *model.glob("*.onnx")]
            hashes |= {str(path): _sha256(path) for path in sorted(weights)}
    return hashes


def _sha256(path: Path) -> str:
    if path.stat().st_size > HASHED_BYTES:
        return f"{path.stat().st_size} bytes, not hashed"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
