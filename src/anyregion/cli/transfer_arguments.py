"""What the commands of `anyregion transfer` share: which backbone, which data, and a dry run."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anyregion.cli import terminal
from anyregion.cli import training_command as command
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import require

if TYPE_CHECKING:
    from anyregion.training.report import TrainingReport

Option = tuple[str, dict[str, Any]]
# arguments of the command, as `add_argument` takes them
OPTIONS: tuple[Option, ...] = (
    (
        "--backbone",
        {
            "metavar": "WHERE",
            "help": "torchvision/resnet50, timm/convnext_tiny, a saved backbone's folder, or a run "
            "of anyregion pretrain (default: the configuration's)",
        },
    ),
    (
        "--weights",
        {
            "metavar": "random|pretrained|FILE",
            "help": "of a backbone that is named: drawn by --seed, the library's (a download), or "
            "a file (default: a folder's own, else random)",
        },
    ),
    ("--dry-run", {"action": "store_true", "help": "check all of it, print the plan, and end"}),
)
SEMANTIC_OPTIONS: tuple[Option, ...] = (
    ("--images", {"metavar": "DIR", "help": "JSON, label maps: the folder of the images"}),
    ("--split", {"metavar": "NAME", "help": "the part of DATA (VOC: also trainaug; label maps: "
                 "a text file of names)"}),
    ("--sbd", {"metavar": "DIR", "help": "VOC's trainaug: the folder of SBD's label maps"}),
    ("--classes", {"metavar": "FILE", "help": "label maps: a name in each line, from value 0"}),
    (
        "--background",
        {
            "choices": ["class", "void"],
            "help": "JSON: what no mask covers is a class of its own (default), or void",
        },
    ),
)  # fmt: skip


def add_arguments(
    parser: argparse.ArgumentParser, options: Sequence[Option], *, usage: str, default: str
) -> None:
    """Declare a command's arguments: DATA, `options`, a run's, and the settings."""
    parser.epilog = usage + (parser.epilog or "")
    command.add_run_arguments(parser)
    parser.add_argument(
        "--config", metavar="CONFIG", help=f"a YAML file or a packaged recipe (default {default})"
    )
    for name, keywords in options:
        parser.add_argument(name, **keywords)
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help="what is trained on (settings follow it)"
    )
    command.add_settings_argument(parser)


def semantic_source(args: argparse.Namespace, root: str, *, training: bool) -> dict[str, Any]:
    """The fields of a `SemanticSource` that the arguments state."""
    names = ("images", "classes", "background", *(("split", "sbd") if training else ()))
    stated = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {"root": root, **stated}


def run(
    task: str,
    train: Callable[..., TrainingReport],
    args: argparse.Namespace,
    options: Sequence[Option],
    *,
    default: str,
    sources: Callable[[argparse.Namespace], dict[str, Any]],
    judge: str,
) -> int:
    """Run the training of a transfer, or rehearse it; give the exit code.

    Args:
        task: its name.
        train: `transfer_semseg`, say.
        options: as they were declared.
        default: the recipe where none is named.
        sources: the arguments of `train` that say which data, by the command's.
        judge: the command that judges a run, with `{}` for its folder.
    """
    require("train", "torch", "torchvision", "jsonargparse", "lightning_fabric", "timm", "scipy")
    from anyregion.recipes.dry_run import dry_run
    from anyregion.recipes.run import transfer_training
    from anyregion.training.distributed import is_first

    settings = command.parse_settings(
        args, args.settings, ("--config", {}), *options, config=default
    )
    if settings is None:
        return FINE
    keywords = {
        "weights": args.weights,
        "config": args.config,
        "settings": settings,
        **sources(args),
    }
    if args.dry_run:
        terminal.fields([*dry_run(transfer_training(task, args.backbone, **keywords)).items()])
        terminal.note("a dry run: nothing was written")
        return FINE
    with command.show_training() as callbacks:
        report = train(
            args.backbone, args.out, **keywords, overwrite=args.overwrite, callbacks=callbacks
        )
    code = command.print_report(report, overwrite=args.overwrite, as_json=args.json)
    if code != FINE or not is_first():
        return code
    terminal.warn_list("images set aside", report.set_aside)
    terminal.note("what next:")
    print(f"  anyregion {judge.format(shlex.quote(str(args.out)))}", file=sys.stderr)
    # torchrun would take any other code than 0 for a failure
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return SET_ASIDE if report.set_aside and alone else FINE
