"""`anyregion cvat restore`: the labels back that shapes of a CVAT task had before `cvat name`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from anyregion.cli.cvat_arguments import add_connection_arguments, connection_of
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError, require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("backup", type=Path, metavar="FILE", help="what `cvat name` has saved")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only count")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    add_connection_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Put the labels back and say how many."""
    require("cvat", "cvat_sdk")
    from anyregion.cli import terminal
    from anyregion.integrations.cvat_backup import read_backup, restore_task
    from anyregion.integrations.cvat_server import CvatServer

    backup = read_backup(args.backup)
    server = CvatServer.connect(connection_of(args))
    try:
        if server.host != backup["host"]:
            raise InputError(
                f"{args.backup} is of {backup['host']}, and this is {server.host}: numbers of "
                "shapes mean others there"
            )
        target = server.target(backup["task"], backup["job"])
        report = restore_task(server, target, backup, dry_run=args.dry_run)
    finally:
        server.close()
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        terminal.fields(
            [
                ("would be put back" if args.dry_run else "put back", report.restored),
                ("as they were already", report.same),
                ("left: not there any more, or moved", report.gone),
            ]
        )
    return SET_ASIDE if report.gone else FINE
