"""`anyregion evaluate teaching`: learning curves, in random order and in the queue's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from anyregion.evaluation.regions.teaching import CurvePoint, TeachingReport

CURVES, REPORT = "curves.png", "report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser)
    parser.add_argument(
        "--held-out",
        required=True,
        metavar="COCO.json|every:N:K",
        help="boxes and categories of other images, which are named; or every N-th image of the "
        "annotations from the K-th on, as in every:3:2",
    )
    parser.add_argument(
        "--held-out-images",
        type=Path,
        metavar="DIR",
        help="the folder of their images, if it is another one",
    )
    parser.add_argument(
        "--seeds",
        type=shared.positive,
        default=3,
        metavar="N",
        help="curves to average; each is of four fifths of the images (default: 3)",
    )
    parser.add_argument(
        "--batch",
        type=shared.positive,
        default=10,
        metavar="N",
        help="corrections in the first batches, after each of which all is taught and the queue "
        "asked anew; later batches are half of what was corrected before (default: 10)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write curves.png, report.json and taught.vocab (of all corrections), and "
        "keep the regions' features, so that another call reads no image",
    )
    parser.add_argument(
        "--trained",
        metavar="FOLDER",
        help="a model that was trained on the same corrections, to be named beside",
    )
    parser.add_argument("--vocabulary", metavar="NAMES_OR_FILE",
        help="further names (those of the annotations are there anyway)",
    )  # fmt: skip
    parser.add_argument(
        "--use-masks", action="store_true", help="give the masks of the annotations as prompts too"
    )
    shared.add_vocabulary_arguments(parser, exemplars=False)
    evaluation.add_naming_arguments(parser, vocabulary=False, unseen=False)
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, write and print."""
    from functools import partial

    from anyregion import factory
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.teaching import (
        TeachingOptions,
        evaluate_teaching,
        write_curves,
    )
    from anyregion.files import write_json, writing

    trained = None
    if args.trained is not None:
        trained = partial(factory.load_recognizer, args.trained, device=args.device)
    with terminal.progress() as track:
        report = evaluate_teaching(
            shared.recognizer_loader(args),
            args.annotations,
            args.images,
            args.held_out,
            TeachingOptions(
                vocabulary=None if args.vocabulary is None else shared.read_words(args),
                seeds=args.seeds,
                first=args.batch,
                limit=args.limit,
                use_masks=args.use_masks,
                batch_size=args.batch_size,
                track=track,
            ),
            held_out_images=args.held_out_images,
            keep=args.out,
            trained=trained,
        )
    if args.out is not None:
        write_curves(report, args.out / CURVES)
        with writing(args.out / REPORT):
            write_json(args.out / REPORT, report.to_dict(), indent=1)
    return evaluation.finish(args, report, lambda: _print(report, args.out))


def _print(report: TeachingReport, out: Path | None) -> None:
    from anyregion.cli import terminal

    percent = evaluation.percent
    random, queue = report.curves["random"], report.curves["queue"]
    terminal.table(
        ("corrections", "random", "by class", "+-", "ECE", "AUROC", "queue", "by class", "+-",
         "ECE", "AUROC", "exemplars", "by class"),
        (
            (a.corrections, *_figures(a), *_figures(b),
             percent(a.exemplars_top1), percent(a.exemplars_mean_class))
            for a, b in zip(random, queue, strict=True)
        ),
        numbers=range(13),
    )  # fmt: skip
    print()
    terminal.table(
        ("same accuracy", "of", "random needs", "queue needs", "share", "of each seed"),
        (
            (
                percent(s.accuracy),
                "top-1" if s.metric == "top1" else "by class",
                f"{s.random:.0f}",
                "-" if s.queue is None else f"{s.queue:.0f}",
                percent(s.ratio),
                ", ".join("-" if r is None else f"{r:.0%}" for r in s.ratios),
            )
            for s in report.saved
        ),
        numbers=(0, 2, 3, 4),
    )
    print()
    everything, last = report.all_corrections, queue[-1]
    accuracies = percent(everything.top1), percent(everything.mean_class_accuracy)
    lines: list[tuple[str, object]] = [
        ("all corrections", f"{everything.corrections}: top-1 {accuracies[0]}, "
         f"by class {accuracies[1]}, ECE {everything.ece:.3f}"),
        ("held out", f"{report.held_out} regions of {report.held_out_images} images, the commonest "
         f"name {percent(report.commonest)}"),
        ("corrected", f"{report.regions} regions of {report.images} images"),
        ("names", report.names),
        ("set aside", len(report.set_aside)),
        ("seconds", f"seeing {report.seconds_seeing:.1f}; at the end choosing "
         f"{last.seconds_queue:.2f}, teaching {everything.seconds_teach:.2f}, naming "
         f"{everything.seconds_name:.2f}"),
    ]  # fmt: skip
    if report.trained is not None:
        after = report.trained
        by_class = percent(after.mean_class_accuracy)
        line = f"top-1 {percent(after.top1)}, by class {by_class}, ECE {after.ece:.3f}"
        lines.insert(1, ("trained", line))
    if out is not None:
        lines.append(("results", out))
    terminal.fields(lines)


def _figures(point: CurvePoint) -> tuple[str, ...]:
    return (
        evaluation.percent(point.top1),
        evaluation.percent(point.mean_class_accuracy),
        f"{100 * point.top1_deviation:.1f}",
        f"{point.ece:.3f}",
        "-" if point.auroc is None else f"{point.auroc:.2f}",
    )
