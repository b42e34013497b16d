"""`anyregion pretrain`: a backbone learnt from images without labels, by R2O."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from anyregion.cli import terminal
from anyregion.cli import training_command as command
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError, require

DEFAULT = "r2o-small"
USAGE = """\
examples:
  anyregion pretrain photos --out runs/photos
  anyregion pretrain photos more/photos --out runs/both --r2o.epochs 100 --device cuda
  anyregion pretrain imagenet/train --out runs/in --config r2o-resnet50-imagenet300.yaml
  anyregion pretrain photos --config r2o-small --help     every setting, with its meaning
  torchrun --nproc-per-node=8 -m anyregion pretrain photos --out runs/photos --device cuda

Folders are searched through; their structure means nothing. Superpixels are computed once, into a
folder beside the run. The same command again goes on where it was ended, by whatever means.
What lies in the run's folder: config.yaml, log.jsonl, curves.png, checkpoints/, README.md (the
card), samples/ (regions as they grow), model/ (the backbone, for `anyregion export` and
`evaluate knn`).

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = USAGE + (parser.epilog or "")
    command.add_run_arguments(parser)
    parser.add_argument(
        "--config", metavar="CONFIG", help=f"a YAML file or a packaged recipe (default {DEFAULT})"
    )
    parser.add_argument(
        "images", nargs="?", metavar="IMAGES", help="a folder of images; more may follow"
    )
    command.add_settings_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and print what came of it."""
    require("train", "torch", "torchvision", "jsonargparse", "lightning_fabric", "skimage", "timm")
    from anyregion.recipes.run import pretrain
    from anyregion.training.distributed import is_first

    # further folders stand between the first and the first option
    words = args.settings
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    settings = command.parse_settings(args, words[first:], ("--config", {}), config=DEFAULT)
    if settings is None:
        return FINE
    if args.images is None:
        raise InputError("give a folder of images")
    with command.show_training("superpixels") as callbacks:
        report = pretrain(
            [args.images, *words[:first]],
            args.out,
            config=args.config,
            settings=settings,
            overwrite=args.overwrite,
            callbacks=callbacks,
        )
    code = command.print_report(report, overwrite=args.overwrite, as_json=args.json)
    if code != FINE or not is_first():
        return code
    terminal.warn_list("images set aside", report.set_aside)
    folder = shlex.quote(str(args.out))
    terminal.note("what next:")
    for next_command in (
        f"evaluate knn CLASS_FOLDERS --backbone {folder}",
        f"evaluate discovery ANNOTATIONS IMAGES --backbone {folder}",
        f"export {folder} --to timm --out backbone.safetensors",
    ):
        print(f"  anyregion {next_command}", file=sys.stderr)
    # torchrun would take any other code than 0 for a failure
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return SET_ASIDE if report.set_aside and alone else FINE
