"""Arguments and lines of output that the commands that judge a backbone share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.evaluation.backbones.class_folders import ClassFolderReport
    from anyregion.evaluation.backbones.features import Backbone, BackboneIdentity

Lines = list[tuple[str, object]]
Details = TypeVar("Details")


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


def add_class_folders(parser: argparse.ArgumentParser, *, val: str, optional: bool) -> None:
    """TRAIN and VAL, whose help is `val`."""
    parser.add_argument("train", type=Path, metavar="TRAIN", help="folder of class folders")
    parser.add_argument("val", type=Path, nargs="?" if optional else None, metavar="VAL", help=val)


def evaluate_class_folders(
    evaluate: Callable[..., ClassFolderReport[Details]],
    backbone: Backbone,
    args: argparse.Namespace,
    **options: Any,
) -> ClassFolderReport[Details]:
    """The report of a classifier (`evaluate_knn`, `evaluate_linear`) with `options` of its own."""
    from anyregion.cli import terminal

    with terminal.progress() as track:
        return evaluate(
            backbone,
            args.train,
            args.val,
            **options,
            limit=args.limit,
            batch_size=args.batch_size,
            progress=track("reading features", "images"),
        )


def open_backbone(args: argparse.Namespace) -> Backbone:
    """The backbone of the arguments."""
    from anyregion.errors import require

    # scipy assigns clusters to segments; one extra is named for all three commands
    require("torch", "torch", "scipy")
    from anyregion.evaluation.backbones import features as backbone_features

    return backbone_features.open_backbone(
        args.backbone, weights=args.weights, size=args.size, device=args.device, seed=args.seed
    )


def print_classification(
    report: ClassFolderReport[Details], lines: Lines, *, learned: str, as_json: bool
) -> int:
    """Print what class folders came to, with the lines of a classifier; give the exit code.

    Args:
        report: the figures.
        lines: what the classifier adds.
        learned: `learned from` or `named by`, before the number of images of TRAIN.
        as_json: one object and nothing else.
    """
    from anyregion.cli import terminal

    # on stderr, before the figures: it says what they are of
    terminal.warn_list("set aside", report.set_aside)
    terminal.warn_list("classes that TRAIN has not, counted as wrong", report.missing)
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        terminal.fields(
            [
                (
                    "top-1",
                    f"{evaluation.percent(report.top1)} +- {100 * report.top1_error:.1f} "
                    f"(standard error of {report.images} images)",
                ),
                ("  mean of classes", evaluation.percent(report.mean_class_accuracy)),
                ("top-5", evaluation.percent(report.top5)),
                *lines,
                ("images", f"{report.images}, {learned} {report.train_images}"),
                ("classes", report.classes),
                *backbone_lines(report.backbone),
                ("seconds", f"{report.seconds:.1f}"),
            ]
        )
    return SET_ASIDE if report.set_aside else FINE


def backbone_lines(backbone: BackboneIdentity) -> Lines:
    """What a report says of its backbone."""
    return [("backbone", backbone), ("image size", f"{backbone.size} x {backbone.size}")]
