"""What the commands of `anyregion evaluate` share: arguments, and how figures are printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from anyregion.cli import arguments as shared


class Split(Protocol):
    """Figures of seen and unseen classes."""

    @property
    def unseen_classes(self) -> tuple[str, ...]:
        """Their names."""
        ...

    @property
    def harmonic_mean(self) -> float | None:
        """Of the two figures."""
        ...


def add_data_arguments(parser: argparse.ArgumentParser, *, images_needed: bool = True) -> None:
    """Annotations and images."""
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="COCO.json", help="boxes and categories"
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=images_needed,
        metavar="DIR",
        help="the folder of the images",
    )


def add_vocabulary_argument(parser: argparse.ArgumentParser) -> None:
    """`--vocabulary`."""
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="names to choose from (default: the annotations' categories)",
    )


def add_limit_argument(parser: argparse.ArgumentParser) -> None:
    """`--limit`."""
    parser.add_argument(
        "--limit", type=shared.positive, metavar="N", help="no more than the first N images"
    )


def add_unseen_argument(parser: argparse.ArgumentParser) -> None:
    """The split of classes into seen and unseen ones."""
    parser.add_argument(
        "--unseen",
        metavar="CLASSES",
        help="classes that training never saw, to report apart: names with commas between, a file "
        "of names, or every:4:1 for classes 1, 5, 9, ... (from 0) in the order of their ids",
    )


def add_region_arguments(parser: argparse.ArgumentParser, *, folder: bool = False) -> None:
    """Whose regions are named, and how they are judged."""
    files = "FILE.json|DIR" if folder else "FILE.json"
    each = " (or DIR with <set>.json for each set)" if folder else ""
    parser.add_argument(
        "--regions",
        default="ground-truth",
        metavar=f"ground-truth|auto|{files}",
        help="whose regions are named: the annotations' own, those that are found, or a "
        f"detector's{each}, with its scores (default: ground-truth)",
    )
    parser.add_argument(
        "--proposer",
        choices=["own", "compact", "sam"],
        help="what finds the regions of --regions auto (as for `anyregion recognize`)",
    )
    parser.add_argument("--masks", action="store_true", help="also judge masks")
    parser.add_argument(
        "--use-masks",
        action="store_true",
        help="give the masks that the regions bring as prompts too",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object and nothing else; accuracies are fractions from 0 to 1",
    )


def model_and_regions(args: argparse.Namespace) -> tuple[Any, Any]:
    """The recogniser (or what loads it), and the regions, as the evaluators take them."""
    from anyregion import factory
    from anyregion.errors import InputError

    choice = shared.model_choice(args)
    if args.regions != "auto":
        if args.proposer:
            raise InputError("--proposer needs --regions auto")
        return lambda: factory.load_recognizer(**choice, device=args.device), args.regions
    proposer: factory.Proposer = args.proposer or "own"
    theirs = None
    if proposer == "sam" and not factory.uses_localizer(args.model, args.method):
        # the recogniser has no use for it
        theirs, choice["localizer"] = choice["localizer"], None
    recognizer = factory.load_recognizer(**choice, device=args.device)
    return recognizer, factory.load_proposer(
        proposer, localizer=theirs, recognizer=recognizer, device=args.device
    )


def percent(value: float | None) -> str:
    """`12.3%`, or a dash where there is nothing."""
    return "-" if value is None else f"{value:.1%}"


def points(value: float | None) -> str:
    """`12.3`: AP is given in points."""
    return "-" if value is None else f"{100 * value:.1f}"


def split_lines(
    split: Split, figure: Callable[[float | None], str] = percent
) -> list[tuple[str, str]]:
    """The lines that a split adds to a report; `figure` writes the harmonic mean."""
    names = split.unseen_classes
    few = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return [
        ("harmonic mean", f"{figure(split.harmonic_mean)} (of seen and unseen)"),
        ("unseen classes", f"{len(names)}: {few}"),
    ]
