"""`anyregion evaluate detection`: named regions judged as a detector's, by COCO's or LVIS's AP."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from anyregion.evaluation.regions.detection import DetectionReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser, images_needed=False)
    evaluation.add_region_arguments(parser)
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="RESULTS.json",
        help="judge these COCO results; no model is loaded and no image is read",
    )
    parser.add_argument(
        "--style",
        choices=["auto", "coco", "lvis"],
        default="auto",
        help="by whose rules (default: LVIS's where the annotations are federated, else COCO's)",
    )
    shared.add_vocabulary_arguments(parser)
    evaluation.add_naming_arguments(parser)
    parser.add_argument(
        "--save", type=Path, metavar="RESULTS.json", help="write the predictions as COCO results"
    )
    parser.add_argument("--per-class", action="store_true", help="also print each class")
    evaluation.add_report_argument(parser)
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    report = _judge_results(args) if args.predictions else _name_regions(args)
    if report.names == 1 and not args.predictions:
        shared.warn_one_name(args)
    # finished predictions have no model that is known here
    if args.predictions:
        args.model = args.regions = None
    show = partial(_print, report, per_class=args.per_class)
    # `regions` is their number in the report
    return evaluation.finish(args, report, show, regions_from=args.regions)


def _judge_results(args: argparse.Namespace) -> DetectionReport:
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.evaluation.regions.detection import evaluate_results

    unused = {
        "--images": args.images,
        "--vocabulary": args.vocabulary,
        "--exemplars": args.exemplars,
        "--limit": args.limit,
        "--save": args.save,
        "--report": args.report,
        "--proposer": args.proposer,
        "--most": args.most,
        "--min-objectness": args.min_objectness,
        "--merge or --no-merge": args.merge,
        "--use-masks": args.use_masks or None,
        "--regions": None if args.regions == "ground-truth" else args.regions,
    }
    if extra := [name for name, value in unused.items() if value is not None]:
        raise InputError(f"{', '.join(extra)}: not with --predictions, which are finished")
    with terminal.progress() as track:
        return evaluate_results(
            args.annotations,
            args.predictions,
            masks=args.masks,
            style=args.style,
            pairs=args.pairs,
            unseen=args.unseen,
            progress=track("judging", "classes"),
        )


def _name_regions(args: argparse.Namespace) -> DetectionReport:
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.evaluation.regions.detection import PAIRS, evaluate_detection

    if args.images is None:
        raise InputError("give --images, or --predictions to judge finished ones")
    load, proposed = shared.recognizer_loader(args), shared.proposed_regions(args)
    if args.merge is not None and proposed is None:
        raise InputError("--merge and --no-merge are about found regions: --regions auto")
    with terminal.progress() as track:
        return evaluate_detection(
            load,
            args.annotations,
            args.images,
            evaluation.naming_options(args, track),
            regions=proposed or args.regions,
            masks=args.masks,
            style=args.style,
            pairs=args.pairs or PAIRS,
            save=args.save,
        )


def _print(report: DetectionReport, *, per_class: bool) -> None:
    from anyregion.cli import terminal

    masks = report.masks or {}
    terminal.table(
        ("", "boxes", "masks") if masks else ("", "boxes"),
        (
            (name, *(evaluation.points(kind[name]) for kind in (report.boxes, masks) if kind))
            for name in report.boxes
        ),
        numbers=(1, 2),
    )
    print()
    if per_class:
        terminal.table(
            ("class", "regions", "box AP", "mask AP"),
            (
                (name, c.regions, evaluation.points(c.box_ap), evaluation.points(c.mask_ap))
                for name, c in report.by_class.items()
            ),
            numbers=(1, 2, 3),
        )
        print()
    lines: list[tuple[str, object]] = [("rules", report.style.upper())]
    if report.split is not None:
        lines += [
            ("AP, seen classes", evaluation.points(report.split.seen)),
            ("AP, unseen classes", evaluation.points(report.split.unseen)),
            *evaluation.split_lines(report.split, evaluation.points),
        ]
    if report.top1 is not None:
        lines.append(("top-1", evaluation.percent(report.top1)))
    if report.things is not None:
        lines += [
            ("merged into better ones", report.things.duplicates),
            ("things with at most one", evaluation.percent(report.things.at_most_one)),
            ("  of their own name", evaluation.percent(report.things.at_most_one_named)),
            ("  of those with any, one", evaluation.percent(report.things.named_once)),
        ]
    lines += [
        ("images", report.images),
        ("regions", "-" if report.regions is None else report.regions),
        ("predictions", report.detections),
        ("vocabulary", shared.count_names(report.names)),
        ("seconds", f"{report.seconds:.1f} naming, {report.judging_seconds:.1f} judging"),
    ]
    terminal.fields(lines)
