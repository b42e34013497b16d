"""`anyregion evaluate knn`: images classified by their nearest neighbours in a backbone."""

from __future__ import annotations

import argparse

from anyregion.cli import arguments as shared
from anyregion.cli import backbone_arguments as backbones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    val = "another, with the images to name (default: each of TRAIN by the others)"
    backbones.add_class_folders(parser, val=val, optional=True)
    parser.add_argument(
        "--k", type=shared.positive, default=20, metavar="N", help="neighbours (default: 20)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.07,
        metavar="T",
        help="a neighbour's vote is exp(cosine similarity / T) (default: 0.07)",
    )
    backbones.add_backbone_arguments(parser, limit="no more than the first N images of each class")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    backbone = backbones.open_backbone(args)
    from anyregion.evaluation.backbones.knn import evaluate_knn

    report = backbones.evaluate_class_folders(
        evaluate_knn, backbone, args, k=args.k, temperature=args.temperature
    )
    details = report.details
    among = " (each among the others)" if details.leave_one_out else ""
    votes = f"{details.k}, temperature {details.temperature:g}{among}"
    return backbones.print_classification(
        report, [("neighbours", votes)], learned="named by", as_json=args.json
    )
