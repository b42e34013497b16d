"""`anyregion train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli.exit_codes import FINE, INTERRUPTED
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
    _own(parser)
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a YAML file, or the name of a packaged recipe"
    )
    parser.add_argument(
        "settings",
        nargs=argparse.REMAINDER,
        metavar="--SETTING VALUE",
        help="settings in place of the file's, after it",
    )


def _own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (needed)")
    parser.add_argument("--overwrite", action="store_true", help="start anew in DIR")
    parser.add_argument("--print-recipe", metavar="NAME", help="print a recipe's YAML, and end")
    parser.add_argument("--list-recipes", action="store_true", help="list recipes, and end")


def run(args: argparse.Namespace) -> int:
    """Train, and say what came of it."""
    require("train", "torch", "torchvision", "transformers", "jsonargparse", "lightning_fabric")
    from anyregion import trainings

    # what follows CONFIG is the command's own, or a setting that only the task's dataclass knows
    behind = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _own(behind)
    behind.add_argument("-h", "--help", action="store_true")
    later, overrides = behind.parse_known_args(args.settings)
    if name := args.print_recipe or later.print_recipe:
        print(trainings.recipe(name), end="")
        return FINE
    if args.list_recipes or later.list_recipes:
        print("\n".join(trainings.recipes()))
        return FINE
    if args.config is None:
        raise InputError(f"give a YAML file or a recipe: {', '.join(trainings.recipes())}")
    if later.help:
        print(trainings.explain(args.config))
        return FINE
    out = args.out or later.out
    if out is None:
        raise InputError("give the run's folder: --out DIR")
    return _train(args.config, overrides, out, overwrite=args.overwrite or later.overwrite)


def _train(config: str, overrides: list[str], out: Path, *, overwrite: bool) -> int:
    from anyregion import trainings
    from anyregion.cli import terminal
    from anyregion.training.loop import fit
    from anyregion.training.processes import is_first

    training = trainings.read_training(config, overrides)
    task = training.build()
    speaks = is_first()
    with terminal.progress() as track:
        report = fit(
            task,
            training.loop,
            out,
            settings=training.own_settings(),
            overwrite=overwrite,
            progress=track("training", "steps") if speaks else None,
        )
    if not speaks:
        return INTERRUPTED if report.interrupted else FINE
    if report.interrupted:
        terminal.note(
            f"interrupted after {report.steps} of {report.steps_wanted} steps; the checkpoint is "
            f"in {out}. The same command{' without --overwrite' if overwrite else ''} goes on"
        )
        return INTERRUPTED
    resumed = f" (went on from {report.resumed_from})" if report.resumed_from else ""
    terminal.fields(
        [
            ("steps", f"{report.steps}{resumed}"),
            ("parameters learned", f"{report.parameters:,}"),
            *((name, f"{value:.5g}") for name, value in report.losses.items()),
            *((f"validation {name}", f"{v:.4g}") for name, v in report.validation.items()),
            ("images per second", f"{report.images_per_second:.1f}"),
            ("hours", f"{report.seconds / 3600:.2f}"),
            ("model", out / "model"),
        ]
    )
    return FINE
