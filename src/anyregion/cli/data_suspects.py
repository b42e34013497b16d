"""The command `anyregion data suspects`: regions whose given names are probably wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError

if TYPE_CHECKING:
    from anyregion.runs.suspects import SuspectReport

WRITES = """\
what is written to DIR:
  suspects.json  the suspects, worst first, and what was judged
  suspects.csv   one row a suspect
  sheets/        their crops: the given name and its rank, below it the name that is likelier
  taught.vocab   the features of all regions: the same command again, on annotations that were
                 corrected, takes seconds. It is what `anyregion teach` would have written

"""
# rows of the table
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = WRITES + (parser.epilog or "")
    parser.add_argument(
        "annotations",
        type=Path,
        metavar="ANNOTATIONS",
        help="COCO annotations (also LVIS and others), a Pascal VOC folder or list, or OpenImages' "
        "CSV; or a taught vocabulary (my.vocab), whose corrections are judged",
    )
    parser.add_argument(
        "images",
        type=Path,
        nargs="?",
        metavar="IMAGES",
        help="the folder of the images (of a taught vocabulary only for the crops)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("anyregion-suspects"),
        metavar="DIR",
        help="where to write (default: anyregion-suspects)",
    )
    parser.add_argument(
        "--limit",
        type=shared.positive,
        default=200,
        metavar="N",
        help="no more than the worst N (default: 200)",
    )
    parser.add_argument(
        "--min-contradiction",
        type=float,
        metavar="S",
        help="from 0 to 1: how far below its usual probability a name has to be (default: 0.9 of "
        "two names, 0.97 of a dozen, 0.99 of a hundred)",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="what else a region may be, as for recognize (default: the categories of ANNOTATIONS)",
    )
    parser.add_argument("--use-masks", action="store_true", help="see regions by their masks too")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    shared.add_vocabulary_arguments(parser, exemplars=False)
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Judge the names, and print the worst."""
    from anyregion.cli import terminal
    from anyregion.runs.suspects import check_labels
    from anyregion.vocabulary import Vocabulary

    names: Vocabulary | None = None
    if args.vocabulary is not None:
        words = shared.read_words(args)
        if not isinstance(words, Vocabulary):
            raise InputError(f"{args.vocabulary}: encoded already: give its names")
        names = words
        terminal.warn_list("names left out of the vocabulary", names.set_aside)
    with terminal.progress() as track:
        report = check_labels(
            args.annotations,
            args.images,
            args.out,
            names,
            recognizer=shared.recognizer_loader(args),
            least=args.min_contradiction,
            limit=args.limit,
            use_masks=args.use_masks,
            batch_size=args.batch_size,
            track=track,
        )
    terminal.warn_list("set aside", report.set_aside, more=f": {args.out / 'suspects.json'}")
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        _print(args, report)
    return SET_ASIDE if report.set_aside else FINE


def _print(args: argparse.Namespace, report: SuspectReport) -> None:
    from anyregion.cli import terminal

    terminal.table(
        ("", "image", "region", "given", "examples", "rather", "contradiction"),
        (
            (
                i,
                s.image,
                s.region,
                s.given,
                s.examples,
                f"{s.suggested} ({s.suggested_probability:.2f})",
                f"{s.contradiction:.3f}",
            )
            for i, s in enumerate(report.suspects[:SHOWN], 1)
        ),
        numbers=(0, 2, 4, 6),
    )
    if len(report.suspects) > SHOWN:
        print(f"... and {len(report.suspects) - SHOWN} more in {args.out / 'suspects.csv'}")
    print()
    listed = len(report.suspects)
    more = f", the worst {listed} of them listed" if listed < report.total else ""
    terminal.fields(
        [
            ("images", f"{report.images}, {report.computed} seen now"),
            ("regions", report.regions),
            ("names agree", f"{report.agreed:.1%} (with the answer that has not seen the image)"),
            ("suspects", f"{report.total} of contradiction {report.least:.3f} or more{more}"),
            ("set aside", len(report.set_aside)),
            ("seconds", f"{report.seconds:.1f}"),
            ("results", args.out),
        ]
    )
