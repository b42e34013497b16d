"""`anyregion sheets`: the regions of a run cut out, side by side, in pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.cli.picture_arguments import add_picture_arguments, picture_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the results folder of `recognize`")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: RUN/sheets)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of the images (default: as in RUN)"
    )
    parser.add_argument(
        "--sort",
        choices=("doubt", "name", "score"),
        default="doubt",
        help="doubt: first what was refused, then where the best two names are nearest to each "
        "other; name: name by name, the surest first; score: the lowest first (default: doubt)",
    )
    parser.add_argument(
        "--most",
        type=shared.positive,
        default=300,
        metavar="N",
        help="regions that are shown, 30 on a sheet (default: 300)",
    )
    add_picture_arguments(parser, crops=True)


def run(args: argparse.Namespace) -> int:
    """Write the sheets, and say where they are."""
    from anyregion.cli import terminal
    from anyregion.runs.sheets import write_run_sheets

    with terminal.progress() as track:
        report = write_run_sheets(
            args.run,
            args.out or args.run / "sheets",
            images=args.images,
            order=args.sort,
            most=args.most,
            options=picture_options(args),
            track=track,
        )
    terminal.warn_list("set aside", report.set_aside)
    print(f"{report.folder}: {report.regions} regions on {report.sheets} sheets", end="")
    print(f"; {report.left} are left out" if report.left else "")
    return SET_ASIDE if report.set_aside else FINE
