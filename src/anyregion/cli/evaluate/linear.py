"""`anyregion evaluate linear`."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli import backbone_arguments as backbones


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
    details = report.details
    best = evaluation.percent(max(details.held_out.values()))
    if not details.converged:
        terminal.note("warning: the fit has not converged; its figures are a lower bound")
    return backbones.print_classification(
        report,
        [("L2 strength", f"{details.strength:g} ({best} on held-out images)")],
        learned="learned from",
        as_json=args.json,
    )
