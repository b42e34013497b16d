"""`anyregion evaluate discovery`: a backbone's features clustered, compared with masks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli import backbone_arguments as backbones
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.evaluation.backbones.discovery import DiscoveryReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "annotations",
        type=Path,
        metavar="ANNOTATIONS",
        help="COCO.json with masks, a folder of label maps (PNG), or CUB-200-2011's folder",
    )
    parser.add_argument(
        "images",
        type=Path,
        nargs="?",
        metavar="IMAGES",
        help="the folder of the images (may be left out for CUB)",
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="two clusters; the one that holds less of the border is the foreground",
    )
    parser.add_argument(
        "--k",
        type=shared.positive,
        metavar="N",
        help="clusters of each image (default: as many as it has segments, with its background)",
    )
    parser.add_argument(
        "--match",
        choices=["hungarian", "best"],
        default="hungarian",
        help="each segment has a cluster of its own, or its best one (default: hungarian)",
    )
    parser.add_argument(
        "--layer",
        choices=["early", "last"],
        default="early",
        help="which feature map: stride 16 or 32 of a ResNet (default: early)",
    )
    parser.add_argument(
        "--resolution",
        type=shared.positive,
        default=56,
        metavar="PIXELS",
        help="side of the square that the features are scaled to and clustered at (default: 56)",
    )
    parser.add_argument(
        "--count-background",
        action="store_true",
        help="what no mask covers is a segment to be found too",
    )
    maps = parser.add_argument_group("of one layout")
    maps.add_argument(
        "--void", type=int, metavar="VALUE", help="label maps: judged for nothing (default: 255)"
    )
    maps.add_argument(
        "--background",
        type=int,
        metavar="VALUE",
        help="label maps: no segment (default: every value is one)",
    )
    maps.add_argument(
        "--split", choices=["test", "train", "all"], help="CUB: which images (default: test)"
    )
    backbones.add_backbone_arguments(parser, limit="no more than the first N images")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.errors import InputError, require

    # refused, not ignored: `--k` would seem to have had no effect
    if args.foreground and (args.k or args.count_background):
        raise InputError("--k, --count-background: not with --foreground, which has two clusters")
    require("torch", "torch", "scipy")
    from anyregion.evaluation.backbones.discovery import DiscoveryOptions, evaluate_discovery
    from anyregion.evaluation.backbones.segmentation_datasets import open_segmentation_dataset

    options = DiscoveryOptions(
        foreground=args.foreground,
        layer=args.layer,
        resolution=args.resolution,
        k=args.k,
        match=args.match,
        count_background=args.count_background,
        seed=args.seed,
    )
    # the data set first: a wrong path is said before the weights are read
    data = open_segmentation_dataset(
        args.annotations, args.images, split=args.split, void=args.void, background=args.background
    )
    backbone = backbones.open_backbone(args)
    with terminal.progress() as track:
        report = evaluate_discovery(
            backbone,
            data,
            options,
            limit=args.limit,
            batch_size=args.batch_size,
            progress=track("clustering", "images"),
        )
    terminal.warn_list("set aside", report.set_aside)
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        _print(report)
    return SET_ASIDE if report.set_aside else FINE


def _print(report: DiscoveryReport) -> None:
    from anyregion.cli import terminal

    options = report.options
    # the baselines stand below the backbone, under the same heads
    methods = {"backbone": report.figures, **report.baselines}
    terminal.table(
        ("IoU", *(name.removesuffix("_iou") for name in report.figures)),
        ((name, *(f"{v:.3f}" for v in figures.values())) for name, figures in methods.items()),
        numbers=range(1, 1 + len(report.figures)),
    )
    print()
    lines: list[tuple[str, object]] = []
    if options.foreground:
        lines.append(("clusters", "2, the one with less of the border is the foreground"))
    else:
        number = "as many as segments, " if options.k is None else ""
        lines += [
            ("clusters", f"{number}{report.mean_k:.1f} an image"),
            ("matched", options.match),
            ("background", "counted" if options.count_background else "not counted"),
        ]
    lines += [
        ("features", f"{options.layer}, at {options.resolution} x {options.resolution}"),
        ("annotations", report.layout),
        ("images", f"{report.images}, {report.skipped} without masks"),
        ("segments", report.segments),
        *backbones.backbone_lines(report.backbone),
        ("seconds", f"{report.seconds:.1f}"),
    ]
    terminal.fields(lines)
