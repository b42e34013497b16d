"""`anyregion train`."""

from __future__ import annotations

import argparse

from anyregion.cli import training_command as shared
from anyregion.cli.exit_codes import FINE
from anyregion.errors import InputError, require

USAGE = """\
examples:
  anyregion train regionspot_b16_stage1 --out runs/b16
  anyregion train mine.yaml --optimizer.lr 1e-4 --steps 20000 --out runs/mine
  anyregion train mine.yaml --help         every setting, with its meaning
  anyregion train --print-recipe regionspot_b16_stage1 > mine.yaml
  torchrun --nproc-per-node=2 -m anyregion train mine.yaml --out runs/mine

The same command again goes on where it was ended, by whatever means: Ctrl-C, kill -9, a full disk.
What lies in the run's folder: config.yaml, log.jsonl, checkpoints/, model/, README.md (the card).

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = USAGE + (parser.epilog or "")
    shared.add_own_arguments(parser)
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a YAML file, or the name of a packaged recipe"
    )
    shared.add_settings_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and say what came of it."""
    require("train", "torch", "torchvision", "transformers", "jsonargparse", "lightning_fabric")
    from anyregion.recipes import loading as trainings

    later, overrides = shared.parse_behind(args.settings)
    if shared.print_recipes(args, later):
        return FINE
    if args.config is None:
        raise InputError(f"give a YAML file or a recipe: {', '.join(trainings.recipes())}")
    if later.help:
        print(trainings.explain(args.config))
        return FINE
    training = trainings.read_training(args.config, overrides)
    out, overwrite = shared.run_folder(args, later)
    return shared.carry_out(training, out, overwrite=overwrite)
