"""`anyregion evaluate odinw`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation
from anyregion.cli.exit_codes import FINE, SET_ASIDE


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
    parser.add_argument(
        "--pairs",
        type=shared.positive,
        metavar="N",
        help="(region, name) pairs that count of each image (default: 300)",
    )
    evaluation.add_unseen_argument(parser)
    shared.add_model_arguments(parser)
    parser.add_argument(
        "--limit", type=shared.positive, metavar="N", help="no more than N images of each set"
    )
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate each set, and print the table."""
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.detection import PAIRS
    from anyregion.evaluation.regions.odinw import evaluate_sets

    recognizer, regions = evaluation.model_and_regions(args)
    with terminal.progress() as track:
        report = evaluate_sets(
            recognizer,
            args.folder,
            split=args.split,
            regions=regions,
            masks=args.masks,
            use_masks=args.use_masks,
            score=args.score,
            pairs=args.pairs or PAIRS,
            unseen=args.unseen,
            limit=args.limit,
            batch_size=args.batch_size,
            track=lambda name: track(name, "images"),
        )
    aside = [*report.set_aside, *(a for r in report.sets.values() for a in r.set_aside)]
    terminal.warn_list("set aside", aside)
    if args.json:
        print(json.dumps({"model": args.model, "recognizer": args.method, **report.to_dict()}))
    else:
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
    return SET_ASIDE if aside else FINE
