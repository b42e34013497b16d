"""What `anyregion train` and `anyregion pretrain` share: a run's arguments, and what is shown."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anyregion.cli import terminal
from anyregion.cli.exit_codes import FINE, INTERRUPTED
from anyregion.errors import InputError

if TYPE_CHECKING:  # they need the extra [train]
    from anyregion.training.loop import Callbacks
    from anyregion.training.report import TrainingReport


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that are the command's, not a setting of the training."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (needed)")
    parser.add_argument("--overwrite", action="store_true", help="start anew in DIR")
    parser.add_argument("--print-recipe", metavar="NAME", help="print a recipe's YAML, and end")
    parser.add_argument("--list-recipes", action="store_true", help="list recipes, and end")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def add_settings_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the rest of the command line: see `parse_settings`."""
    parser.add_argument(
        "settings",
        nargs=argparse.REMAINDER,
        metavar="--SETTING VALUE",
        help="settings in place of the recipe's, after it",
    )


def parse_settings(
    args: argparse.Namespace,
    words: list[str],
    *options: tuple[str, dict[str, Any]],
    config: str | None = None,
) -> list[str] | None:
    """The settings among `words`, which follow the first word; None where all was printed here.

    Only the task's dataclass knows its settings; recipes and the settings' help are printed.

    Args:
        args: gets the command's arguments that are among `words`.
        options: further ones of the command, as `add_argument` takes them.
        config: where none is named.

    Raises:
        InputError: no configuration, or no folder for the run.
    """
    from anyregion.recipes.loading import explain, list_recipes, read_recipe

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_run_arguments(parser)
    parser.add_argument("-h", "--help", action="store_true")
    for name, keywords in options:
        parser.add_argument(name, **keywords)
    behind, settings = parser.parse_known_args(words)
    for name, value in vars(behind).items():
        setattr(args, name, value or getattr(args, name, None))
    args.config = args.config or config
    if args.print_recipe:
        print(read_recipe(args.print_recipe), end="")
    elif args.list_recipes:
        print("\n".join(list_recipes()))
    elif args.config is None:
        raise InputError(f"give a YAML file or a recipe: {', '.join(list_recipes())}")
    elif args.help:
        print(explain(args.config))
    elif args.out is None and not getattr(args, "dry_run", False):
        raise InputError("give the run's folder: --out DIR")
    else:
        return settings
    return None


@contextmanager
def show_training(preparing: str = "preparing") -> Iterator[Callbacks]:
    """Yield callbacks that show a training on stderr.

    On a terminal a bar with the last losses and the time left, and a line for each validation; else
    a line for each line of the log.

    Args:
        preparing: what the task computes before its first step.
    """
    from anyregion.training.distributed import is_first
    from anyregion.training.loop import Callbacks

    if not is_first():
        yield Callbacks()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        with terminal.progress() as track:
            yield Callbacks(
                prepare=track(preparing, "images"),
                progress=lines.progress,
                log=lines.log,
                warn=lambda text: terminal.note(f"warning: {text}"),
                note=terminal.note,
            )
        return
    # as terminal.progress() has them, with the figures in place of the unit
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = {
            doing: bars.add_task(doing, total=None, visible=False, figures="")
            for doing in (preparing, "training")
        }

        # above the bars; a name in square brackets is a name, not markup
        def say(text: str) -> None:
            bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

        def log(step: int, group: str, values: Mapping[str, float]) -> None:
            if group == "train":
                bars.update(bar["training"], figures=_figures(values))
            else:
                say(f"step {step}: {group}  {_figures(values)}")

        def track_bar(doing: str, done: int, total: int) -> None:
            # the bar of the training stays: its last step is followed by a validation
            visible = doing == "training" or done < total
            bars.update(bar[doing], completed=done, total=total, visible=visible)

        yield Callbacks(
            prepare=lambda done, total: track_bar(preparing, done, total),
            progress=lambda done, total: track_bar("training", done, total),
            log=log,
            warn=lambda text: say(f"anyregion: warning: {text}"),
            note=lambda text: say(f"anyregion: {text}"),
        )


class _Lines:
    """A line for each line of the log, with the time left."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.started = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        if done == 0:
            self.started = time.monotonic()
        self.done, self.total = done, total

    def log(self, step: int, group: str, values: Mapping[str, float]) -> None:
        if group != "train":
            terminal.note(f"step {step}: {group}  {_figures(values)}")
            return
        left = self.total - self.done
        seconds = (time.monotonic() - self.started) / max(self.done, 1) * left
        clock = "{}:{:02d}".format(*divmod(round(seconds), 60))
        terminal.note(f"step {step} of {step + left}: {_figures(values)}  {clock} left")


def _figures(values: Mapping[str, float]) -> str:
    """Losses, learning rate and metrics in one line; what else is logged stays in the log."""
    hidden = ("grad_norm", "images_per_second", "seconds")
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in hidden)


def print_report(report: TrainingReport, *, overwrite: bool, as_json: bool = False) -> int:
    """Print what came of a training; the exit code."""
    from anyregion.training.distributed import is_first
    from anyregion.training.run_folder import plain

    if not is_first():
        return INTERRUPTED if report.interrupted else FINE
    if report.interrupted:
        again = " without --overwrite" if overwrite else ""
        terminal.note(
            f"interrupted after {report.steps} of {report.total_steps} steps; the checkpoint is in "
            f"{report.folder}. The same command{again} goes on"
        )
        return INTERRUPTED
    if as_json:
        print(json.dumps(plain(asdict(report)) | {"images_per_second": report.images_per_second}))
        return FINE
    resumed = f" (went on from {report.resumed_from})" if report.resumed_from else ""
    terminal.fields(
        [
            ("steps", f"{report.steps}{resumed}"),
            ("parameters learned", f"{report.parameters:,}"),
            *((name, f"{value:.5g}") for name, value in report.losses.items()),
            *((f"validation {name}", f"{v:.4g}") for name, v in report.validation.items()),
            ("images per second", f"{report.images_per_second:.1f}"),
            ("hours", f"{report.seconds / 3600:.2f}"),
            ("model", report.folder / "model"),
        ]
    )
    return FINE
