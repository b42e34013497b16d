"""`anyregion evaluate masks`: boxes or points in, masks out, compared with the annotated ones."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from anyregion.evaluation.regions.mask_quality import MaskReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser)
    parser.add_argument(
        "--prompt",
        choices=["box", "point"],
        default="box",
        help="what is given of each region: its box, or one random pixel of its mask "
        "(default: box)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random pixels (default: 0)"
    )
    evaluation.add_naming_arguments(parser, vocabulary=False, unseen=False)
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.mask_quality import evaluate_masks

    with terminal.progress() as track:
        report = evaluate_masks(
            shared.recognizer_loader(args),
            args.annotations,
            args.images,
            prompt=args.prompt,
            seed=args.seed,
            limit=args.limit,
            batch_size=args.batch_size,
            track=track,
        )
    return evaluation.finish(args, report, lambda: _print(report))


def _print(report: MaskReport) -> None:
    from anyregion.cli import terminal

    lines: list[tuple[str, object]] = [
        ("mean IoU", f"{report.mean_iou:.3f}"),
        *((f"  {name}", f"{value:.3f}") for name, value in report.by_size.items()),
        ("above a half", f"{report.above_half:.1%}"),
        ("IoU of boxes", f"{report.mask_box_iou:.3f}"),
    ]
    if report.box_iou is not None:
        lines.append(("filled box", f"{report.box_iou:.3f}"))
    # a method without mask scores cannot tell good masks from bad ones
    if report.auroc is not None:
        lines.append(("AUROC", f"{report.auroc:.3f} (of the mask scores)"))
    lines += [
        ("regions", report.regions),
        ("images", report.images),
        ("seconds", f"{report.seconds:.1f}"),
    ]
    terminal.fields(lines)
