"""`anyregion reproduce`: a table of the papers, checked, or run at full size or scaled."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli.exit_codes import FAILED, FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.reproduction.check import TableCheck
    from anyregion.reproduction.tables import Need, Table, Tier

ABOUT = """\
Without TABLE the tables are listed. With --dry-run nothing is run: the command says which data and
weights are in place, and whether every command of the table would be read. The table is written
into the folder --work, with the commands that were run and the hashes of what they read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = f"{parser.description}\n\n{ABOUT}"
    parser.add_argument("table", nargs="?", metavar="TABLE", help="regionspot-lvis, r2o-voc, ...")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="the data sets (default: data)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path("weights"),
        metavar="DIR",
        help="weights that are on no hub (default: weights)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("reproduction"),
        metavar="DIR",
        help="stores, runs and tables (default: reproduction)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--scaled",
        action="store_true",
        help="the scaled tier: the same question at a size that two cores answer",
    )
    parser.add_argument("--dry-run", action="store_true", help="check, and run nothing")
    parser.add_argument(
        "--row", action="append", metavar="NAME", help="only this row; may be repeated"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="run also the steps that were run before"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List, check or run."""
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.reproduction.check import check_table
    from anyregion.reproduction.run import run_table, shown
    from anyregion.reproduction.tables import Places, read_needs, read_table

    if args.table is None:
        return _list(as_json=args.json)
    table, needs = read_table(args.table), read_needs()
    tier: Tier = "scaled" if args.scaled else "full"
    if tier not in table.rows:
        raise InputError(f"{table.name} has no scaled tier")
    rows = table.rows[tier]
    if args.row:
        rows = tuple(row for row in rows if row.name in args.row)
        if len(rows) < len(set(args.row)):
            names = ", ".join(row.name for row in table.rows[tier])
            raise InputError(f"{table.name}: no such row; there are {names}")
    places = Places(args.data, args.weights, args.work, args.device)
    check = check_table(rows, needs, places, command_error=command_error)
    if args.dry_run:
        if args.json:
            print(json.dumps({"table": table.name, "tier": tier, **check.to_dict()}))
        else:
            _print_check(table, tier, needs, check)
        terminal.warn_list("commands that are refused", check.errors)
        return FAILED if check.errors else SET_ASIDE if check.missing else FINE
    if check.errors or check.missing:
        what = "; ".join([*check.errors, *(f"{place} is missing" for place in check.missing)])
        raise InputError(f"{table.name}: {what} (--dry-run says where to get it)")
    result = run_table(
        table, tier, rows, places, needs, overwrite=args.overwrite, note=terminal.note
    )
    terminal.warn_list("set aside", result.set_aside)
    if args.json:
        print(json.dumps(result.to_dict()))
    else:
        columns = table.columns
        terminal.table(
            ("", *columns),
            (
                (each.row.name, *(shown(each.figures.get(c), kind) for c, kind in columns.items()))
                for each in result.rows
            ),
            numbers=range(1, 1 + len(columns)),
        )
        print(f"\n{table.notes[tier]}\n")
        terminal.fields([("written", places.work / f"{table.name}-{tier}.md")])
    return SET_ASIDE if result.set_aside else FINE


def command_error(words: Sequence[str]) -> str | None:
    """What is wrong with a command line, without running it; None if nothing is.

    Of a training the settings are read too, as far as they are those of a packaged recipe.
    """
    from anyregion.cli.main import parse
    from anyregion.errors import AnyRegionError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parse(words)
    except SystemExit:
        return (said.getvalue().strip().splitlines() or ["it is not read"])[-1]
    if words[0] not in ("train", "pretrain", "transfer"):
        return None
    from anyregion.cli import pretrain, train, training_command
    from anyregion.recipes.loading import as_words, read_training

    try:
        if words[0] == "train":
            settings = training_command.parse_settings(args, args.settings, *train.FROM)
        elif words[0] == "transfer":
            command = importlib.import_module(args.module)
            settings = training_command.parse_settings(
                args, args.settings, ("--config", {}), *command.OPTIONS, config=command.DEFAULT
            )
        else:
            settings = training_command.parse_settings(
                args, args.settings, ("--config", {}), config=pretrain.DEFAULT
            )
            images = as_words({"r2o.data": [{"images": str(args.images)}]})
            settings = [*images, *(settings or ())]
        read_training(args.config, settings or ())
    except AnyRegionError as error:
        return str(error)
    return None


def _list(*, as_json: bool) -> int:
    from anyregion.cli import terminal
    from anyregion.reproduction.tables import list_tables, read_table

    tables = [read_table(name) for name in list_tables()]
    if as_json:
        listed = [
            {"name": t.name, "paper": t.paper, "title": t.title, "tiers": list(t.rows)}
            for t in tables
        ]
        print(json.dumps({"tables": listed}))
        return FINE
    terminal.table(
        ("table", "paper", "what", "rows", "scaled rows"),
        (
            (t.name, t.paper, t.title, len(t.rows.get("full", ())), len(t.rows.get("scaled", ())))
            for t in tables
        ),
        numbers=(3, 4),
    )
    return FINE


def _print_check(table: Table, tier: Tier, needs: dict[str, Need], check: TableCheck) -> None:
    from anyregion.cli import terminal

    print(f"{table.paper}: {table.title} ({tier})\n")
    terminal.table(
        ("need", "place", "state", ""),
        (
            (name, part.place, part.state, part.detail)
            for name, parts in check.needs.items()
            for part in parts
        ),
    )
    print()
    for name, parts in check.needs.items():
        if any(part.state != "here" for part in parts):
            print(f"{name}: {needs[name].what}. {needs[name].get}")
    for row in table.rows[tier]:
        print(f"\n{row.name}")
        published = ", ".join(
            f"{column} {value:g}" for column, value in (row.published or {}).items()
        )
        lines = [("published", published), ("cost", row.cost), ("note", row.note)]
        terminal.fields([(name, value) for name, value in lines if value])
        for command in check.commands:
            if command.row == row.name:
                state = f"  # {command.error}" if command.error else ""
                print(f"  anyregion {shlex.join(command.words)}{state}")
