"""`anyregion train`: RegionSpot's module or the built-in model's heads, by a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from anyregion.cli import training_command as command
from anyregion.cli.exit_codes import FINE
from anyregion.errors import require

USAGE = """\
examples:
  anyregion train regionspot_b16_stage1 --out runs/b16
  anyregion train mine.yaml --optimizer.lr 1e-4 --steps 20000 --out runs/mine
  anyregion train mine.yaml --help         every setting, with its meaning
  anyregion train --print-recipe regionspot_b16_stage1 > mine.yaml
  anyregion train compact --from my.vocab --out runs/mine
                                           from corrections that `anyregion teach` has learnt
  torchrun --nproc-per-node=2 -m anyregion train mine.yaml --out runs/mine

The same command again goes on where it was ended, by whatever means: Ctrl-C, kill -9, a full disk.
What lies in the run's folder: config.yaml, log.jsonl, curves.png, checkpoints/, model/, README.md
(the card).

"""
# arguments of the command, as `add_argument` takes them
FROM: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--from",
        {
            "dest": "corrections",
            "type": Path,
            "metavar": "FILE.vocab",
            "help": "compact: train on the corrections of a taught vocabulary",
        },
    ),
    (
        "--images",
        {
            "type": Path,
            "metavar": "DIR",
            "help": "of --from: the folder of its images (default: where it was taught from)",
        },
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = USAGE + (parser.epilog or "")
    command.add_run_arguments(parser)
    for name, keywords in FROM:
        parser.add_argument(name, **keywords)
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a YAML file, or the name of a packaged recipe"
    )
    command.add_settings_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and print what came of it."""
    require("train", "torch", "torchvision", "transformers", "jsonargparse", "lightning_fabric")
    from anyregion.recipes.run import train

    settings = command.parse_settings(args, args.settings, *FROM)
    if settings is None:
        return FINE
    with command.show_training() as callbacks:
        report = train(
            args.config,
            args.out,
            settings=settings,
            corrections=args.corrections,
            images=args.images,
            overwrite=args.overwrite,
            callbacks=callbacks,
        )
    return command.print_report(report, overwrite=args.overwrite, as_json=args.json)
