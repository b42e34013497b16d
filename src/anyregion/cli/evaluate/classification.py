"""`anyregion evaluate classification`: top-1 and top-5 accuracy of the annotated regions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from anyregion.evaluation.regions.classification import ClassificationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser)
    parser.add_argument(
        "--use-masks", action="store_true", help="give the annotations' masks as prompts too"
    )
    shared.add_vocabulary_arguments(parser)
    evaluation.add_naming_arguments(parser)
    parser.add_argument(
        "--fair",
        nargs="?",
        const="coco",
        metavar="LIST.json",
        help="a right name is the class's, a synonym or a kind of it, by a list: without a file, "
        "the built-in one for COCO's classes in the built-in vocabularies",
    )
    parser.add_argument("--per-class", action="store_true", help="also print each class")
    evaluation.add_report_argument(parser)
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.classification import evaluate_classification
    from anyregion.evaluation.regions.right_names import load_right_names

    # before the model is loaded
    right_names = None if args.fair is None else load_right_names(args.fair)
    with terminal.progress() as track:
        report = evaluate_classification(
            shared.recognizer_loader(args),
            args.annotations,
            args.images,
            evaluation.naming_options(args, track),
            right_names=right_names,
        )
    if report.names == 1:
        shared.warn_one_name(args)
    return evaluation.finish(args, report, lambda: _print(args, report))


def _print(args: argparse.Namespace, report: ClassificationReport) -> None:
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.classification import Accuracy

    spec = args.vocabulary or (args.exemplars and str(args.exemplars))
    vocabulary = shared.count_names(report.names, spec)
    if spec is None:
        vocabulary += " (the annotations' categories)"
    groups = {"all": Accuracy(report.regions, report.top1, report.top5)}
    split = report.split
    if split is not None:
        # a side without regions has no accuracy
        sides = {"seen classes": split.seen, "unseen classes": split.unseen}
        groups |= {name: side for name, side in sides.items() if side is not None}
    groups |= report.by_size | (report.by_class if args.per_class else {})
    terminal.table(
        ("", "regions", "top-1", "top-5"),
        ((name, a.regions, f"{a.top1:.1%}", f"{a.top5:.1%}") for name, a in groups.items()),
        numbers=(1, 2, 3),
    )
    print()
    terminal.fields(
        [
            ("class-averaged", f"{report.mean_class_accuracy:.1%} ({len(report.by_class)})"),
            *([] if split is None else evaluation.split_lines(split)),
            ("mean score", f"{report.mean_score:.3f}"),
            ("ECE", f"{report.ece:.3f}"),
            ("AUROC", "-" if report.auroc is None else f"{report.auroc:.3f} (right from wrong)"),
            *([("right names", f"by the list {report.right_names}")] if report.right_names else []),
            ("vocabulary", vocabulary),
            ("images", report.images),
            ("outside vocabulary", report.outside_vocabulary),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    )
