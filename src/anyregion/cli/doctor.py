"""`anyregion doctor`."""

from __future__ import annotations

import argparse
import json

from anyregion.cli.exit_codes import FAILED, FINE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what this installation is made of; exit code 1 if the core does not work."""
    from anyregion.cli import terminal
    from anyregion.doctor import examine

    found = examine()
    if args.json:
        print(json.dumps(found.to_dict()))
    else:
        terminal.fields(found.lines())
    return FINE if found.works else FAILED
