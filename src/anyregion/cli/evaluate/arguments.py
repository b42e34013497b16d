"""What the commands of `anyregion evaluate` share: arguments, options, and how figures print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.cli.picture_arguments import add_picture_arguments, picture_options
from anyregion.errors import SetAside

if TYPE_CHECKING:
    from anyregion.evaluation.regions.calibration import SplitCalibration
    from anyregion.evaluation.regions.classification import SplitAccuracy
    from anyregion.evaluation.regions.detection import SplitPrecision
    from anyregion.evaluation.regions.error_report import ErrorReport
    from anyregion.evaluation.regions.inputs import EvaluationOptions
    from anyregion.runs.pipeline import Track


def add_data_arguments(parser: argparse.ArgumentParser, *, images_needed: bool = True) -> None:
    """Annotations and images."""
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="COCO.json", help="boxes and categories"
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=images_needed,
        metavar="DIR",
        help="the folder of the images",
    )


def add_naming_arguments(
    parser: argparse.ArgumentParser, *, vocabulary: bool = True, unseen: bool = True
) -> None:
    """The vocabulary, classes to report apart, the model, and how many images."""
    if vocabulary:
        parser.add_argument(
            "--vocabulary",
            metavar="NAMES_OR_FILE",
            help="names to choose from (default: the annotations' categories)",
        )
    if unseen:
        parser.add_argument(
            "--unseen",
            metavar="CLASSES",
            help="classes that training never saw, to report apart: names with commas between, a "
            "file of names, every:4:1 for classes 1, 5, 9, ... (from 0) in the order of their "
            "ids, or frequency:r for LVIS's rare ones (detection)",
        )
    shared.add_model_arguments(parser)
    parser.add_argument(
        "--limit", type=shared.positive, metavar="N", help="no more than the first N images"
    )


def add_region_arguments(parser: argparse.ArgumentParser, *, folder: bool = False) -> None:
    """Whose regions are named, and how they are judged."""
    files = "FILE.json|DIR" if folder else "FILE.json"
    each = " (or DIR with <set>.json for each set)" if folder else ""
    parser.add_argument(
        "--regions",
        default="ground-truth",
        metavar=f"ground-truth|auto|r2o:WHERE|{files}",
        help="whose regions are named: the annotations' own, those that are found (with r2o: "
        "without labels, see `anyregion recognize --help`), or a "
        f"detector's{each}, with its scores (default: ground-truth)",
    )
    shared.add_proposer_arguments(parser)
    parser.add_argument("--masks", action="store_true", help="also judge masks")
    parser.add_argument(
        "--use-masks",
        action="store_true",
        help="give the masks that the regions bring as prompts too",
    )
    parser.add_argument(
        "--pairs",
        type=shared.positive,
        metavar="N",
        help="(region, name) pairs that count of each image (default: 300; RegionSpot's code: 900)",
    )


def add_report_argument(parser: argparse.ArgumentParser) -> None:
    """`--report`, and what its pictures look like."""
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write the confusion matrix (confusion.png, .csv), the confusions by size "
        "(confusions.csv) and all wrong answers (errors.csv), the surest twenty as pictures "
        "(errors/001.jpg)",
    )
    add_picture_arguments(parser, crops=True)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object and nothing else; accuracies are fractions from 0 to 1",
    )


def naming_options(args: argparse.Namespace, track: Track) -> EvaluationOptions:
    """How regions are named, of whatever arguments a command has."""
    from anyregion.evaluation.regions.inputs import EvaluationOptions

    # not every command has every argument
    values = vars(args)
    use_masks = values.get("use_masks", False)
    vocabulary = templates = None
    if values.get("vocabulary") or values.get("exemplars"):
        vocabulary = shared.read_vocabulary(args, masks=use_masks)
    elif values.get("templates"):
        templates = shared.parse_templates(args.templates)
    return EvaluationOptions(
        vocabulary=vocabulary,
        templates=templates,
        cleaning="plain" if vocabulary else values.get("cleaning", "plain"),
        use_masks=use_masks,
        score=args.score,
        unseen=values.get("unseen"),
        limit=args.limit,
        batch_size=args.batch_size,
        track=track,
        report=values.get("report"),
        picture=picture_options(args),
    )


def finish(
    args: argparse.Namespace,
    report: Any,
    print_report: Callable[[], None],
    set_aside: Sequence[SetAside] | None = None,
    **details: object,
) -> int:
    """Print a report, as one JSON object or by `print_report`; the exit code.

    Args:
        set_aside: what could not be used, if not the report's alone.
        details: further keys of the JSON, after the model.
    """
    from anyregion.cli import terminal

    set_aside = report.set_aside if set_aside is None else set_aside
    terminal.warn_list("set aside", set_aside)
    if args.json:
        # the method stands under the name that its flag had first: scripts read it
        head = {"model": args.model, "recognizer": args.method}
        print(json.dumps(head | details | report.to_dict()))
    else:
        print_report()
        if (errors := getattr(report, "errors", None)) is not None:
            print_errors(errors)
    return SET_ASIDE if set_aside else FINE


def print_errors(errors: ErrorReport) -> None:
    """The largest confusions, and where all are."""
    from anyregion.cli import terminal

    print()
    terminal.table(
        ("is", "named", "regions", "of its class"),
        ((c.true, c.named, c.regions, f"{c.share:.1%}") for c in errors.confusions[:10]),
        numbers=(2, 3),
    )
    print()
    terminal.fields([("wrong", f"{errors.wrong} of {errors.regions}"), ("report", errors.folder)])


def percent(value: float | None) -> str:
    """`12.3%`, or a dash where there is nothing."""
    return "-" if value is None else f"{value:.1%}"


def points(value: float | None) -> str:
    """`12.3`: AP is given in points."""
    return "-" if value is None else f"{100 * value:.1f}"


def split_lines(
    split: SplitAccuracy | SplitCalibration | SplitPrecision,
    figure: Callable[[float | None], str] = percent,
) -> list[tuple[str, str]]:
    """The lines that a split adds to a report; `figure` writes the harmonic mean."""
    names = split.unseen_classes
    few = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return [
        ("harmonic mean", f"{figure(split.harmonic_mean)} (of seen and unseen)"),
        ("unseen classes", f"{len(names)}: {few}"),
    ]
