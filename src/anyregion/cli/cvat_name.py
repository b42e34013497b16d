"""`anyregion cvat name`: names for what is drawn in a CVAT task, in place."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.cvat_arguments import add_connection_arguments, connection_of
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError, require

if TYPE_CHECKING:
    from anyregion.integrations.cvat_naming import CvatNameReport

EXAMPLE = """\
CVAT_ACCESS_TOKEN=... anyregion cvat name 7 --host https://app.cvat.ai --dry-run
  draw everything as `object`, then let the other labels be its names:
anyregion cvat name 7 --host https://app.cvat.ai --only-label object
anyregion cvat restore cvat-task-7-20260101-120000.json --host https://app.cvat.ai

"""
# rows of the table of names
SHOWN = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument("task", type=shared.positive, metavar="TASK", help="the task's number")
    parser.add_argument(
        "--job", type=shared.positive, metavar="N", help="only this job of the task"
    )
    parser.add_argument(
        "--only-label",
        action="append",
        default=[],
        metavar="LABEL",
        help="name only shapes with this label, which is no name then; may be repeated",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="names as `recognize` takes them, a taught .vocab among them (default: the task's "
        "labels). A shape whose name is no label of the task stays as it is",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only say what")
    parser.add_argument(
        "--backup",
        type=Path,
        metavar="FILE",
        help="where all annotations are saved before anything is written (default: "
        "cvat-task-TASK-TIME.json here)",
    )
    parser.add_argument(
        "--score-attribute",
        default="score",
        metavar="NAME",
        help="labels with an attribute of this name get the score in it (default: score)",
    )
    parser.add_argument(
        "--use-masks", action="store_true", help="use outlines and masks as prompts too"
    )
    parser.add_argument(
        "--min-score",
        type=shared.share,
        default=0.0,
        metavar="S",
        help="leave shapes whose best name scores less as they are (default: 0)",
    )
    parser.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="of a taught vocabulary: leave as many that of each name's answers P are right",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    add_connection_arguments(parser)
    shared.add_vocabulary_arguments(parser)
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Name the shapes and say what was done."""
    require("cvat", "cvat_sdk")
    from anyregion.cli import terminal
    from anyregion.integrations.cvat_naming import CvatNameOptions, name_task
    from anyregion.integrations.cvat_server import CvatServer

    vocabulary = None
    if args.vocabulary is not None or args.exemplars is not None:
        vocabulary = shared.read_vocabulary(args)
    elif args.templates or args.cleaning != "plain" or args.no_synonyms or args.precision:
        raise InputError("--templates, --cleaning, --no-synonyms and --precision need --vocabulary")
    moment = time.strftime("%Y%m%d-%H%M%S")
    backup = args.backup or Path(f"cvat-task-{args.task}-{moment}.json")
    server = CvatServer.connect(connection_of(args))
    try:
        target = server.target(args.task, args.job)
        recognizer = shared.recognizer_loader(args)()
        with terminal.progress() as track:
            report = name_task(
                server,
                target,
                recognizer,
                vocabulary,
                CvatNameOptions(
                    only_labels=tuple(args.only_label),
                    use_masks=args.use_masks,
                    score=args.score,
                    min_score=args.min_score,
                    score_attribute=args.score_attribute,
                    batch_size=args.batch_size,
                    dry_run=args.dry_run,
                ),
                backup=backup,
                track=track,
            )
    finally:
        server.close()
    if args.json:
        print(json.dumps({"task": args.task, "job": args.job, **report.to_dict()}))
    else:
        _print(args, report)
    return SET_ASIDE if report.set_aside else FINE


def _print(args: argparse.Namespace, report: CvatNameReport) -> None:
    from anyregion.cli import terminal

    terminal.warn_list("set aside", report.set_aside)
    terminal.warn_list(
        "names that are no label of the task, or none of such a shape",
        [f"{name}: {count}" for name, count in report.no_label.most_common()],
    )
    terminal.warn_list(
        "attributes that the new label cannot hold",
        [f"{name}: {count} values" for name, count in report.lost_attributes.most_common()],
    )
    if report.names:
        terminal.table(("name", "shapes"), report.names.most_common()[:SHOWN], numbers=(1,))
        if len(report.names) > SHOWN:
            print(f"... and {len(report.names) - SHOWN} more names")
        print()
    terminal.fields(
        [
            ("shapes", report.shapes),
            ("would be named" if args.dry_run else "named", report.named),
            ("of these with another label now", report.relabelled),
            ("left: none of the names, or too low a score", report.refused),
            ("left: the name is no label for them", report.no_label.total()),
            ("left: no regions, or other labels", report.others),
            ("left: changed by somebody meanwhile", report.changed),
            ("not touched: tracks, tags", f"{report.tracks}, {report.tags}"),
            ("set aside", len(report.set_aside)),
            ("backup", report.backup or "none: nothing was written"),
        ]
    )
