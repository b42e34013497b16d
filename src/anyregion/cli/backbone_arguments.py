"""What the commands that judge a backbone share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyregion.errors import SetAside
    from anyregion.evaluation.backbones.class_folders import Accuracy
    from anyregion.evaluation.backbones.features import About, Backbone


def add_backbone_arguments(parser: argparse.ArgumentParser, *, limit: str) -> None:
    """Which backbone, how it is run, and `--limit` (whose help is `limit`)."""
    group = parser.add_argument_group("backbone")
    group.add_argument(
        "--backbone",
        required=True,
        metavar="WHERE",
        help="torchvision/resnet50, timm/vit_small_patch16_224, or a folder that holds a backbone",
    )
    group.add_argument(
        "--weights",
        metavar="random|pretrained|FILE",
        help="random: drawn by --seed; pretrained: those of the library, which downloads them; or "
        "a file (default: the folder's own, else random)",
    )
    group.add_argument(
        "--size",
        type=shared.positive,
        metavar="PIXELS",
        help="side of the square images it is shown (default: what the folder states, else 224)",
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    group.add_argument(
        "--batch-size", type=shared.positive, default=32, metavar="N", help="images (default: 32)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)"
    )
    parser.add_argument("--limit", type=shared.positive, metavar="N", help=limit)
    evaluation.add_json_argument(parser)


def open_backbone(args: argparse.Namespace) -> Backbone:
    """The backbone of the arguments."""
    from anyregion.errors import require

    require("torch", "torch", "scipy")
    from anyregion.evaluation.backbones import features as backbone_features

    return backbone_features.open_backbone(
        args.backbone,
        weights=args.weights,
        size=args.size,
        device=args.device,
        seed=args.seed,
    )


def accuracy_lines(found: Accuracy) -> list[tuple[str, object]]:
    """What a report says of its accuracies."""
    return [
        ("top-1", evaluation.percent(found.top1)),
        ("  mean of classes", evaluation.percent(found.class_top1)),
        ("top-5", evaluation.percent(found.top5)),
    ]


def warn_of(set_aside: Sequence[SetAside], missing: Sequence[str]) -> None:
    """Say what of the class folders was left out."""
    from anyregion.cli import terminal

    terminal.warn_list("set aside", set_aside)
    terminal.warn_list("classes that TRAIN has not, counted as wrong", missing)


def backbone_lines(about: About) -> list[tuple[str, object]]:
    """What a report says of it."""
    return [("backbone", about), ("image size", f"{about.size} x {about.size}")]
