"""`anyregion review`: the regions of a run as one HTML file, to be corrected in any browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE

EXAMPLE = """\
anyregion recognize photos --regions boxes.json --vocabulary names.txt --out run
anyregion review run
  open run/review.html, correct with the keys 1 to 5 and 0, save corrections.json
anyregion teach corrections.json --images photos --vocabulary names.txt --out my.vocab

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument("run", type=Path, metavar="RUN", help="the results folder of `recognize`")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="where to write (default: RUN/review.html)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of the images (default: as in RUN)"
    )
    parser.add_argument(
        "--most",
        type=shared.positive,
        default=500,
        metavar="N",
        help="regions that are shown, the most doubtful first (default: 500, about 5 MB)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file, and say what is in it."""
    from anyregion.cli import terminal
    from anyregion.runs.review import write_review

    out = args.out or args.run / "review.html"
    with terminal.progress() as track:
        report = write_review(args.run, out, images=args.images, most=args.most, track=track)
    terminal.warn_list("set aside", report.set_aside)
    print(f"{report.path}: {report.regions} regions, {report.megabytes:.1f} MB", end="")
    print(f"; {report.left} surer ones are left out" if report.left else "")
    return SET_ASIDE if report.set_aside else FINE
