"""`anyregion evaluate calibration`: ECE of the scores, AUROC of refusing absent classes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation
from anyregion.errors import InputError

if TYPE_CHECKING:
    from anyregion.evaluation.regions.calibration import CalibrationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser)
    parser.add_argument(
        "--absent",
        default="every:2:1",
        metavar="CLASSES",
        help="classes to leave out of the vocabulary, written as for --unseen (default: every:2:1, "
        "every second one)",
    )
    parser.add_argument(
        "--size",
        type=shared.positive,
        action="append",
        metavar="N",
        help="also ask with vocabularies of N names; may be repeated (default: 3, 80 and 1000)",
    )
    parser.add_argument(
        "--distractors",
        metavar="NAMES_OR_FILE",
        help="names to fill large vocabularies up with (default: the built-in lists)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="report the share of regions whose best score is below S (default: 0.5)",
    )
    shared.add_vocabulary_arguments(parser, exemplars=False)
    parser.add_argument(
        "--vocabulary",
        metavar="FILE.vocab",
        help="a taught vocabulary, in place of those made of the annotations' categories: regions "
        "of categories that it does not have are the absent ones",
    )
    evaluation.add_naming_arguments(parser, vocabulary=False)
    evaluation.add_report_argument(parser)
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.calibration import VOCABULARY_SIZES, evaluate_calibration
    from anyregion.io.vocabulary import load_vocabulary
    from anyregion.vocabulary import EncodedVocabulary

    if args.vocabulary is not None and not args.vocabulary.casefold().endswith(".vocab"):
        raise InputError(f"--vocabulary {args.vocabulary}: calibration takes only a taught one")
    distractors = None if args.distractors is None else load_vocabulary(args.distractors)
    if isinstance(distractors, EncodedVocabulary):
        distractors = distractors.vocabulary
    with terminal.progress() as track:
        report = evaluate_calibration(
            shared.recognizer_loader(args),
            args.annotations,
            args.images,
            evaluation.naming_options(args, track),
            absent=args.absent,
            sizes=args.size or VOCABULARY_SIZES,
            distractors=distractors,
            threshold=args.threshold,
        )
    return evaluation.finish(args, report, lambda: _print(report))


def _print(report: CalibrationReport) -> None:
    from anyregion.cli import terminal

    count_names, percent = shared.count_names, evaluation.percent
    terminal.table(
        ("score", "regions", "mean score", "right"),
        (
            (f"{b.low:.2f} to {b.high:.2f}", b.regions, percent(b.mean_score), percent(b.accuracy))
            for b in report.bins
        ),
        numbers=(1, 2, 3),
    )
    print()
    terminal.table(
        ("vocabulary", "names", "top-1", "ECE", "AUROC", "present refused", "absent refused",
         "5% refused at"),
        (
            (
                r.vocabulary, r.names, percent(r.top1), _number(r.ece), _number(r.auroc),
                percent(r.refused_present), percent(r.refused_absent),
                _number(r.threshold_of_5_percent),
            )
            for r in report.refusals
        ),
        numbers=range(1, 8),
    )  # fmt: skip
    print()
    lines: list[tuple[str, object]] = [
        ("ECE", _number(report.ece)),
        ("AUROC of refusing", _number(report.auroc)),
        ("refused below", report.threshold),
        # these two are equal if the scores are calibrated
        ("top-1", percent(report.top1)),
        ("mean score", percent(report.mean_score)),
    ]
    if report.split is not None:
        split = report.split
        lines += [
            ("ECE, seen classes", _number(split.seen_ece)),
            ("ECE, unseen classes", _number(split.unseen_ece)),
            ("top-1, seen classes", percent(split.seen_top1)),
            ("top-1, unseen classes", percent(split.unseen_top1)),
            *evaluation.split_lines(split),
        ]
    lines += [
        ("vocabulary", f"{count_names(report.names)}, {len(report.absent_classes)} left out"),
        ("regions", report.regions),
        ("images", report.images),
        ("seconds", f"{report.seconds:.1f}"),
    ]
    terminal.fields(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
