"""`anyregion evaluate linear`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from anyregion.cli import backbone_arguments as backbones
from anyregion.cli.exit_codes import FINE, SET_ASIDE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("train", type=Path, metavar="TRAIN", help="folder of class folders")
    parser.add_argument("val", type=Path, metavar="VAL", help="another, with the images to name")
    backbones.add_backbone_arguments(parser, limit="no more than the first N images of each class")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.cli.evaluate import arguments as evaluation

    backbone = backbones.open_backbone(args)
    from anyregion.evaluation.backbones.linear import evaluate_linear

    with terminal.progress() as track:
        report = evaluate_linear(
            backbone,
            args.train,
            args.val,
            seed=args.seed,
            limit=args.limit,
            batch_size=args.batch_size,
            progress=track("reading features", "images"),
        )
    backbones.warn_of(report.set_aside, report.missing)
    if not report.converged:
        terminal.note("warning: the fit has not converged; its figures are a lower bound")
    if args.json:
        print(json.dumps(report.to_dict()))
        return SET_ASIDE if report.set_aside else FINE
    best = max(report.held_out.values())
    terminal.fields(
        [
            *backbones.accuracy_lines(report.accuracy),
            ("L2 strength", f"{report.strength:g} ({evaluation.percent(best)} on held-out images)"),
            ("images", f"{report.images}, learned from {report.train_images}"),
            ("classes", report.classes),
            *backbones.backbone_lines(report.backbone),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    )
    return SET_ASIDE if report.set_aside else FINE
