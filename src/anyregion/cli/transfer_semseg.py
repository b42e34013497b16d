"""`anyregion transfer semseg`: a backbone fine-tuned for semantic segmentation, or probed."""

from __future__ import annotations

import argparse
from typing import Any

from anyregion.cli import transfer_arguments as transfer

DEFAULT = "semseg-small"
USAGE = """\
examples:
  anyregion transfer semseg VOCdevkit/VOC2012 --config semseg-voc --sbd benchmark_RELEASE/dataset
      --backbone runs/in --out runs/voc
  anyregion transfer semseg train.json --images photos --validation val.json --backbone runs/r2o
      --out runs/parts
  anyregion transfer semseg camvid --backbone torchvision/resnet18 --weights resnet18.pth --probe
      --out runs/probe
  anyregion transfer semseg cityscapes --config semseg-cityscapes --dry-run
  anyregion transfer semseg DATA --config semseg-voc --help    every setting, with its meaning
  anyregion train semseg-voc --semseg.backbone runs/in --out runs/voc   all as the recipe says

DATA is a folder in the layout of Pascal VOC 2012, Cityscapes, CamVid (SegNet's) or ADE20K,
COCO-format JSON with masks, or a folder of label maps. The same command again goes on where it was
ended.
`anyregion evaluate semseg RUN DATA` judges what was learned, class by class.

"""
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    *transfer.OPTIONS,
    ("--probe", {"action": "store_true", "help": "frozen backbone, one linear layer"}),
    *transfer.SEMANTIC_OPTIONS,
    ("--validation", {"metavar": "DATA", "help": "judged on (default: DATA's own part for it)"}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    transfer.add_arguments(parser, OPTIONS, usage=USAGE, default=DEFAULT)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and print what came of it."""
    from anyregion.recipes.run import transfer_semseg

    return transfer.run(
        "semseg", transfer_semseg, args, OPTIONS, default=DEFAULT, sources=_sources,
        judge="evaluate semseg {} DATA",
    )  # fmt: skip


def _sources(args: argparse.Namespace) -> dict[str, Any]:
    data = validation = None
    if args.data is not None:
        data = transfer.semantic_source(args, args.data, training=True)
    if args.validation is not None:
        validation = transfer.semantic_source(args, args.validation, training=False)
    return {"data": data, "validation": validation, "probe": args.probe}
