"""What pictures look like, as arguments: the same of every command that draws any."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyregion.drawing.options import PictureOptions

# the arguments by the attributes of `PictureOptions`
_FLAGS = {
    "draw": "draw",
    "width": "picture_width",
    "font": "font",
    "min_score": "picture_min_score",
    "doubt": "picture_doubt",
}


def add_picture_arguments(parser: argparse.ArgumentParser, *, crops: bool = False) -> None:
    """How pictures are drawn; of crops only what is about them."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--font",
        type=Path,
        metavar="FILE",
        help="a font (.ttf, .otf, .ttc) for names, tried before the built-in one and the system's",
    )
    group.add_argument(
        "--picture-doubt",
        type=float,
        metavar="S",
        help="answers that score less are drawn pale, on dashed lines (default: 0.5)",
    )
    if crops:
        return
    group.add_argument(
        "--draw",
        choices=("boxes", "masks", "both"),
        help="of a region that has a mask: the mask, its box, or both (default: masks)",
    )
    group.add_argument(
        "--picture-width",
        type=int,
        metavar="PIXELS",
        help="the width of pictures (default: the image's; small and crowded ones are drawn "
        "larger, those over 2,048 pixels smaller)",
    )
    group.add_argument(
        "--picture-min-score",
        type=float,
        metavar="S",
        help="regions that score less are not drawn, but named all the same (default: 0)",
    )


def picture_options(args: argparse.Namespace) -> PictureOptions:
    """The arguments of `add_picture_arguments`; those that were not given are the defaults.

    Raises:
        InputError: a font that cannot be read, or a value out of range.
    """
    from anyregion.drawing.options import PictureOptions

    values = {name: getattr(args, flag, None) for name, flag in _FLAGS.items()}
    return PictureOptions(**{name: value for name, value in values.items() if value is not None})


def picture_flags(args: argparse.Namespace) -> list[str]:
    """The arguments about pictures that were given, as they are written."""
    flags = (flag for flag in _FLAGS.values() if getattr(args, flag, None) is not None)
    return [f"--{flag.replace('_', '-')}" for flag in flags]
