"""`anyregion evaluate odinw`: AP of many small data sets, and the averages over them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from anyregion.evaluation.regions.odinw import SetsReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="data sets in the layout of ODinW: <set>/<split>/_annotations.coco.json, or "
        "<set>/annotations/instances_<split>.json",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="which split of each set (default: test, else valid, else "
        "the first there is)",
    )  # fmt: skip
    evaluation.add_region_arguments(parser, folder=True)
    evaluation.add_naming_arguments(parser, vocabulary=False)
    evaluation.add_report_argument(parser)
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate each set, and print the table."""
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.detection import PAIRS
    from anyregion.evaluation.regions.odinw import evaluate_sets

    load, proposed = shared.recognizer_loader(args), shared.proposed_regions(args)
    with terminal.progress() as track:
        report = evaluate_sets(
            load,
            args.folder,
            evaluation.naming_options(args, track),
            split=args.split,
            regions=proposed or args.regions,
            masks=args.masks,
            pairs=args.pairs or PAIRS,
        )
    # sets that could not be evaluated, and what was set aside within the others
    set_aside = [*report.set_aside, *(a for r in report.sets.values() for a in r.set_aside)]
    return evaluation.finish(args, report, lambda: _print(report), set_aside)


def _print(report: SetsReport) -> None:
    from anyregion.cli import terminal

    points, percent = evaluation.points, evaluation.percent
    rows = [
        (
            name, report.splits[name], r.images, r.regions, r.names, percent(r.top1),
            points(r.boxes["AP"]), points(r.boxes["AP50"]),
            points(r.masks["AP"] if r.masks else None),
        )
        for name, r in report.sets.items()
    ]  # fmt: skip
    average = (
        "average", "", "", "", "", percent(report.top1),
        points(report.ap), points(report.ap50), points(report.mask_ap),
    )  # fmt: skip
    titles = ("set", "split", "images", "regions", "names", "top-1", "AP", "AP50", "mask AP")
    terminal.table(titles, [*rows, average], numbers=range(2, 9))
    if report.harmonic_mean is not None:
        print()
        terminal.fields(
            [
                ("AP, seen classes", points(report.seen)),
                ("AP, unseen classes", points(report.unseen)),
                ("harmonic mean", points(report.harmonic_mean)),
            ]
        )
