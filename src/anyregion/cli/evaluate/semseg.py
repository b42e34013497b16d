"""`anyregion evaluate semseg`: a segmentation network, judged by mean IoU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import transfer_arguments as transfer
from anyregion.cli.evaluate import arguments as evaluation
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.transfer.semantic_evaluation import SemanticReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", type=Path, metavar="RUN", help="a run of `anyregion transfer semseg`, or its model"
    )
    parser.add_argument(
        "data", metavar="DATA", help="as for `anyregion transfer semseg`: the part to judge on"
    )
    for name, keywords in transfer.SEMANTIC_OPTIONS:
        parser.add_argument(name, **keywords)
    parser.add_argument("--slide", action="store_true", help="windows, whose logits are averaged")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Judge, and print the report."""
    from anyregion.cli import terminal
    from anyregion.errors import require

    require("train", "torch", "torchvision", "timm", "scipy")
    from anyregion.data.semantic.dataset import SemanticSource
    from anyregion.transfer.config import WindowConfig
    from anyregion.transfer.semantic_evaluation import evaluate_semantic

    source = SemanticSource(**transfer.semantic_source(args, args.data, training=True))
    test = WindowConfig("slide" if args.slide else "whole")
    with terminal.progress() as track:
        report = evaluate_semantic(
            args.model, source, test, device=args.device, progress=track("segmenting", "images")
        )
    terminal.warn_list("set aside", report.set_aside)
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        _print(report)
    return SET_ASIDE if report.set_aside else FINE


def _print(report: SemanticReport) -> None:
    from anyregion.cli import terminal

    total = max(sum(report.pixels.values()), 1)
    terminal.table(
        ("class", "IoU", "of the pixels"),
        (
            (name, evaluation.percent(iou), evaluation.percent(report.pixels[name] / total))
            for name, iou in report.iou.items()
        ),
        numbers=(1, 2),
    )
    print()
    terminal.fields(
        [
            ("mean IoU", evaluation.percent(report.mean_iou)),
            ("mean class accuracy", evaluation.percent(report.mean_class_accuracy)),
            ("pixel accuracy", evaluation.percent(report.pixel_accuracy)),
            ("images", f"{report.images}, {report.layout}, {report.test.mode}"),
            ("backbone", report.backbone),
            ("fingerprint", report.fingerprint),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    )
