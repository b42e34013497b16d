"""`anyregion evaluate detector`: what `transfer detection` trained, by COCO's AP."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli.evaluate import arguments as evaluation
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.transfer.detection_evaluation import DetectorReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="RUN",
        help="a run of `anyregion transfer detection`, or its model",
    )
    evaluation.add_data_arguments(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--save", type=Path, metavar="RESULTS.json", help="write the detections as COCO results"
    )
    parser.add_argument("--per-class", action="store_true", help="also print each class")
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Judge, and print the report."""
    from anyregion.cli import terminal
    from anyregion.errors import require

    require("train", "torch", "torchvision", "timm")
    from anyregion.transfer.detection_config import DetectionSource
    from anyregion.transfer.detection_evaluation import evaluate_detector

    source = DetectionSource(str(args.annotations), str(args.images))
    with terminal.progress() as track:
        report = evaluate_detector(
            args.model,
            source,
            device=args.device,
            save=args.save,
            progress=track("detecting", "images"),
        )
    terminal.warn_list("set aside", report.set_aside)
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        _print(report, per_class=args.per_class)
    return SET_ASIDE if report.set_aside else FINE


def _print(report: DetectorReport, *, per_class: bool) -> None:
    from anyregion.cli import terminal

    kinds = [report.boxes, *([report.masks] if report.masks is not None else [])]
    terminal.table(
        ("", "boxes", "masks")[: 1 + len(kinds)],
        ((name, *(evaluation.points(kind[name]) for kind in kinds)) for name in report.boxes),
        numbers=(1, 2),
    )
    print()
    if per_class:
        rows = ((name, evaluation.points(ap)) for name, ap in report.by_class.items())
        terminal.table(("class", "box AP"), rows, numbers=(1,))
        print()
    terminal.fields(
        [
            ("images", report.images),
            ("detections", report.detections),
            ("backbone", report.backbone),
            ("fingerprint", report.fingerprint),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    )
