"""`anyregion evaluate detection`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.evaluation.regions.detection_report import DetectionReport


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
    evaluation.add_vocabulary_argument(parser)
    parser.add_argument(
        "--style",
        choices=["auto", "coco", "lvis"],
        default="auto",
        help="by whose rules (default: LVIS's where the annotations are federated, else COCO's)",
    )
    parser.add_argument(
        "--pairs",
        type=shared.positive,
        metavar="N",
        help="(region, name) pairs that count of each image (default: 300; RegionSpot's code: 900)",
    )
    evaluation.add_unseen_argument(parser)
    shared.add_exemplar_arguments(parser)
    shared.add_prompt_arguments(parser)
    shared.add_model_arguments(parser)
    evaluation.add_limit_argument(parser)
    parser.add_argument(
        "--save", type=Path, metavar="RESULTS.json", help="write the predictions as COCO results"
    )
    parser.add_argument("--per-class", action="store_true", help="also print each class")
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal

    report = _results(args) if args.predictions else _named(args)
    if report.names == 1 and not args.predictions and shared.one_name_is_certain(args):
        terminal.note(shared.ONE_NAME)
    terminal.warn_list("set aside", report.set_aside)
    if args.json:
        model = None if args.predictions else args.model
        # `regions` is their number
        whose = None if args.predictions else str(args.regions)
        about = {"model": model, "recognizer": args.method, "regions_from": whose}
        print(json.dumps({**about, **report.to_dict()}))
    else:
        _print(report, per_class=args.per_class)
    return SET_ASIDE if report.set_aside else FINE


def _results(args: argparse.Namespace) -> DetectionReport:
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.evaluation.regions.detection import evaluate_results

    unused = {
        "--images": args.images,
        "--vocabulary": args.vocabulary,
        "--exemplars": args.exemplars,
        "--limit": args.limit,
        "--save": args.save,
        "--proposer": args.proposer,
        "--use-masks": args.use_masks or None,
        "--regions": None if args.regions == "ground-truth" else args.regions,
    }
    if given := [name for name, value in unused.items() if value is not None]:
        raise InputError(f"{', '.join(given)}: not with --predictions, which are finished")
    with terminal.progress() as track:
        return evaluate_results(
            args.annotations,
            args.predictions,
            masks=args.masks,
            style=args.style,
            pairs=args.pairs,
            unseen=args.unseen,
            judging=track("judging", "classes"),
        )


def _named(args: argparse.Namespace) -> DetectionReport:
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.evaluation.regions.detection import PAIRS, evaluate_detection

    if args.images is None:
        raise InputError("give --images, or --predictions to judge finished ones")
    if args.vocabulary or args.exemplars:
        options: dict[str, Any] = {"vocabulary": shared.read_names(args, masks=args.use_masks)}
    else:
        templates = shared.parse_templates(args.templates)
        options = {"templates": templates, "cleaning": args.cleaning}
    recognizer, regions = evaluation.model_and_regions(args)
    with terminal.progress() as track:
        return evaluate_detection(
            recognizer,
            args.annotations,
            args.images,
            **options,
            regions=regions,
            masks=args.masks,
            use_masks=args.use_masks,
            score=args.score,
            style=args.style,
            pairs=args.pairs or PAIRS,
            unseen=args.unseen,
            limit=args.limit,
            batch_size=args.batch_size,
            save=args.save,
            progress=track("naming regions", "images"),
            encoding=track("reading the vocabulary", "names"),
            judging=track("judging", "classes"),
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
    lines += [
        ("images", report.images),
        ("regions", "-" if report.regions is None else report.regions),
        ("predictions", report.detections),
        ("vocabulary", shared.counted(report.names)),
        ("seconds", f"{report.seconds:.1f} naming, {report.judging_seconds:.1f} judging"),
    ]
    terminal.fields(lines)
