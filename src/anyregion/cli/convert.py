"""`anyregion convert`: a published RegionSpot checkpoint to a folder of safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli.arguments import positive
from anyregion.cli.exit_codes import FINE

LICENCE = (
    "Weights published by RegionSpot's authors are CC BY-NC 4.0, and so is what is made of them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = f"{parser.description} {LICENCE}"
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the published .pth")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--localizer", metavar="NAME", help="the SAM that it goes with")
    parser.add_argument("--vlm", metavar="NAME", help="the CLIP that it goes with")
    parser.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="side of CLIP's input, where it is not the model's own (336 for L/14@336)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from anyregion.cli import terminal
    from anyregion.errors import require

    require("torch", "torch", "transformers")
    from anyregion.regionspot.checkpoint import convert_checkpoint

    pretrained = convert_checkpoint(
        args.checkpoint,
        args.out,
        localizer=args.localizer,
        vlm=args.vlm,
        image_size=args.image_size,
    )
    size = pretrained.adapter
    terminal.fields(
        [
            ("folder", args.out),
            (
                "adapter",
                f"{size.token_width} -> {size.feature_width} -> {size.embed_width}, "
                f"{size.layers} layers",
            ),
            ("localizer", pretrained.localizer),
            ("vlm", pretrained.vlm),
            ("origin", pretrained.origin),
            ("licence", pretrained.licence),
        ]
    )
    print(LICENCE)
    return FINE
