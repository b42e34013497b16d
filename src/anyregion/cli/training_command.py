"""What `anyregion train` and `anyregion pretrain` share: a run's arguments, and carrying it out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.cli.exit_codes import FINE, INTERRUPTED
from anyregion.errors import InputError

if TYPE_CHECKING:  # it needs the extra [train]
    from anyregion.recipes.loading import Training


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that are the command's, not a setting of the training."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (needed)")
    parser.add_argument("--overwrite", action="store_true", help="start anew in DIR")
    parser.add_argument("--print-recipe", metavar="NAME", help="print a recipe's YAML, and end")
    parser.add_argument("--list-recipes", action="store_true", help="list recipes, and end")


def add_settings_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the rest of the command line: see `parse_behind`."""
    parser.add_argument(
        "settings",
        nargs=argparse.REMAINDER,
        metavar="--SETTING VALUE",
        help="settings in place of the recipe's, after it",
    )


def parse_behind(
    words: list[str], *options: tuple[str, dict[str, Any]]
) -> tuple[argparse.Namespace, list[str]]:
    """What follows the first word is the command's own, or a setting that only the task's
    dataclass knows.

    Args:
        options: further ones of the command, as `add_argument` takes them.

    Returns:
        The command's own arguments, with `help`; and the settings.
    """
    behind = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_own_arguments(behind)
    behind.add_argument("-h", "--help", action="store_true")
    for name, about in options:
        behind.add_argument(name, **about)
    return behind.parse_known_args(words)


def print_recipes(args: argparse.Namespace, later: argparse.Namespace) -> bool:
    """Whether recipes were asked for; then they are printed."""
    from anyregion.recipes import loading as trainings

    if name := args.print_recipe or later.print_recipe:
        print(trainings.recipe(name), end="")
        return True
    if args.list_recipes or later.list_recipes:
        print("\n".join(trainings.recipes()))
        return True
    return False


def run_folder(args: argparse.Namespace, later: argparse.Namespace) -> tuple[Path, bool]:
    """The run's folder, and whether it is to be started anew."""
    out = args.out or later.out
    if out is None:
        raise InputError("give the run's folder: --out DIR")
    return out, args.overwrite or later.overwrite


def carry_out(
    training: Training,
    out: Path,
    *,
    overwrite: bool,
    preparing: str = "",
    own_settings: Callable[[Any], dict[str, Any]] | None = None,
    opening: Callable[[Any], None] | None = None,
    closing: Callable[[Any, Path], int] | None = None,
) -> int:
    """Train, and say what came of it.

    Args:
        preparing: what the task computes before it begins, if it can say how far it is.
        own_settings: the task's part of `config.yaml` by the task, where building it decides some.
        opening: says what there is to say of the task before it is trained.
        closing: says what there is to say of it, and of the run's folder, at the end; returns the
            exit code.
    """
    from anyregion.cli import terminal
    from anyregion.training.distributed import is_first
    from anyregion.training.loop import fit

    if not overwrite:
        _check_early(training, out)
    speaks = is_first()
    with terminal.progress() as track:
        before = {"progress": track(preparing, "images")} if preparing and speaks else {}
        task = training.build(**before)
        if opening is not None and speaks:
            opening(task)
        report = fit(
            task,
            training.loop,
            out,
            settings=training.own_settings() if own_settings is None else own_settings(task),
            overwrite=overwrite,
            may_change=training.may_change,
            progress=track("training", "steps") if speaks else None,
            warn=lambda text: terminal.note(f"warning: {text}"),
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
    return FINE if closing is None else closing(task, out)


def _check_early(training: Training, out: Path) -> None:
    """Other settings show before anything is computed; `fit` checks all of them."""
    from anyregion.training.run_folder import read_settings, refuse_others

    earlier, own = read_settings(out), training.own_settings()
    if earlier is not None:
        theirs = {key: earlier[key] for key in own if key in earlier}
        refuse_others(out, own, theirs, training.may_change)
