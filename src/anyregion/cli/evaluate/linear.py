"""`anyregion evaluate linear`: a linear classifier on a backbone's frozen features."""

from __future__ import annotations

import argparse

from anyregion.cli import backbone_arguments as backbones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    backbones.add_class_folders(parser, val="another, with the images to name", optional=False)
    backbones.add_backbone_arguments(parser, limit="no more than the first N images of each class")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.cli.evaluate import arguments as evaluation

    backbone = backbones.open_backbone(args)
    from anyregion.evaluation.backbones.linear import evaluate_linear

    report = backbones.evaluate_class_folders(evaluate_linear, backbone, args, seed=args.seed)
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
