"""`anyregion export`: a backbone as another library loads it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli.arguments import positive
from anyregion.cli.exit_codes import FINE

if TYPE_CHECKING:
    from anyregion.backbones.encoder import Encoder

# spelt out here: the registry that has them imports torch, which `--help` must not
FORMATS = ("torchvision", "timm", "huggingface", "detectron2")
USAGE = """\
examples:
  anyregion export runs/r2o --to torchvision --out resnet50.pth
  anyregion export runs/r2o --to huggingface --out r2o-resnet50/
  anyregion export runs/r2o --to detectron2 --out r2o.pth       writes r2o.yaml beside it
  anyregion export published.pth --to timm --out resnet50.safetensors

What is written was read back by the library it is for, and its features compared.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = USAGE + (parser.epilog or "")
    parser.add_argument(
        "where",
        metavar="WHERE",
        help="a pretraining's folder, its model/ folder, or a file of weights",
    )
    parser.add_argument("--to", required=True, choices=FORMATS, help="the library it is for")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="PATH",
        help="a file (.pth, .pt, .safetensors); for huggingface a folder",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="what a file of weights is of: torchvision/resnet50, timm/vit_small_patch16_224 "
        "(published R2O checkpoints say it themselves)",
    )
    parser.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help="side of its images in pixels (default: as it was trained; 224 for a file)",
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say how it is opened."""
    from anyregion.cli import terminal
    from anyregion.errors import require

    # before the encoder is read, which may take a minute
    require("train", "torch", "torchvision", "timm", "transformers")
    from anyregion.backbones.export import export_encoder
    from anyregion.backbones.export.detectron2 import settings_yaml

    encoder = _encoder(args.where, args.backbone, args.size)
    export = export_encoder(encoder, args.out, to=args.to)
    terminal.fields(
        [
            ("written", export.path),
            ("from", f"{encoder.name}, {encoder.size} px"),
            ("as", f"{export.format}: {export.architecture}"),
            ("opened by", export.usage),
            ("features differ by", f"{export.difference:.2g} of the largest"),
        ]
    )
    if export.settings:
        print("\n" + settings_yaml(export.settings), end="")
    return FINE


def _encoder(where: str, backbone: str | None, size: int | None) -> Encoder:
    from anyregion.backbones.loading import build_encoder, load_encoder
    from anyregion.errors import CheckpointError, InputError

    path = Path(where).expanduser()
    if backbone is not None:
        return build_encoder(backbone, size=size or 224, weights=where)
    if path.is_dir():
        return load_encoder(path, size=size)
    if not path.exists():
        raise InputError(f"{where}: there is no such folder or file")
    # a file has no name of what it is of, unless R2O published it
    from anyregion.r2o.checkpoint import read_published

    try:
        sizes = read_published(path).sizes
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Of a file that is no published R2O checkpoint, say what it is of: "
            "--backbone torchvision/resnet50"
        ) from None
    return build_encoder(f"torchvision/{sizes.backbone}", size=size or 224, weights=path)
