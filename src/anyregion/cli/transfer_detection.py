"""`anyregion transfer detection`: Mask R-CNN on a backbone, fine-tuned or frozen."""

from __future__ import annotations

import argparse
from typing import Any

from anyregion.cli import transfer_arguments as transfer

DEFAULT = "detection-small"
USAGE = """\
examples:
  anyregion transfer detection train.json --images photos --validation val.json --backbone runs/r2o
      --out runs/detector
  anyregion transfer detection instances_train2017.json --images train2017
      --validation instances_val2017.json --validation-images val2017 --config detection-coco
      --backbone runs/in --dry-run
  anyregion transfer detection DATA --config detection-coco --help   every setting, with its meaning

DATA is COCO-format JSON with masks (or boxes alone, with --detection.detector.masks false), or
another layout that `anyregion data check` reads. The same command again goes on where it was ended.
`anyregion evaluate detector RUN --annotations FILE --images DIR` judges what was learned.

"""
OPTIONS: tuple[transfer.Option, ...] = (
    *transfer.OPTIONS,
    ("--images", {"metavar": "DIR", "help": "the folder of the images"}),
    ("--validation", {"metavar": "FILE", "help": "annotations to judge on"}),
    ("--validation-images", {"metavar": "DIR", "help": "its images (default: --images)"}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    transfer.add_arguments(parser, OPTIONS, usage=USAGE, default=DEFAULT)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and print what came of it."""
    from anyregion.recipes.run import transfer_detection

    return transfer.run(
        "detection", transfer_detection, args, OPTIONS, default=DEFAULT, sources=_sources,
        judge="evaluate detector {} --annotations FILE --images DIR",
    )  # fmt: skip


def _sources(args: argparse.Namespace) -> dict[str, Any]:
    from anyregion.errors import InputError

    data = validation = None
    if (args.data or args.validation) and not (args.images or args.validation_images):
        raise InputError("give the folder of the images: --images DIR")
    if args.data is not None:
        data = {"annotations": args.data, "images": args.images}
    if args.validation is not None:
        images = args.validation_images or args.images
        validation = {"annotations": args.validation, "images": images}
    return {"data": data, "validation": validation}
