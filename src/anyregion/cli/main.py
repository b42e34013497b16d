"""The `anyregion` command: a table of commands, each a module that is loaded when it is called."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence

from anyregion import __version__
from anyregion.cli.exit_codes import EPILOG, FAILED, INTERRUPTED
from anyregion.errors import AnyRegionError

GROUPS = {
    "data": "annotated images",
    "evaluate": "measure a model on annotated images",
}
# each is a module, see `command_module`, with `add_arguments(parser)` and `run(arguments)`
COMMANDS = {
    "recognize": "name the regions of images",
    "evaluate classification": "regions given, names asked: accuracies",
    "evaluate detection": "boxes and masks as a detector's: COCO and LVIS AP",
    "evaluate odinw": "a folder of small data sets: AP of each, and the average",
    "evaluate masks": "boxes or points given, masks asked: how well they fit",
    "evaluate calibration": "whether scores can be trusted, and refusing works",
    "evaluate knn": "a backbone: images named by their nearest neighbours",
    "evaluate linear": "a backbone: a linear classifier on its frozen features",
    "evaluate discovery": "a backbone: its features clustered, against masks",
    "cache": "frozen features of annotated images, computed once for training",
    "train": "train RegionSpot's module, or the built-in model's",
    "pretrain": "learn a backbone from images without labels (R2O)",
    "data check": "what is wrong with annotated images",
    "convert": "a published RegionSpot checkpoint to safetensors",
    "export": "a backbone for torchvision, timm, Hugging Face or detectron2",
    "models": "models and vocabularies, and which are here",
    "doctor": "check this installation",
}

# errors of the machine, not bugs: the reader (`| head`) has gone, a full disk, no permission
_MACHINE_ERRORS = (
    errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO,
)  # fmt: skip

# a box that argparse would take for an option: -3,0,5,5
_NEGATIVE = re.compile(r"-\.?\d[^=]*,")


def command_module(name: str) -> str:
    """The module of a command: that of `data check` is `cli.data_check`."""
    return "anyregion.cli." + name.replace("evaluate ", "evaluate.").replace(" ", "_")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `exit_codes`)."""
    words = _join_negative(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words).parse_args(words)
    command = importlib.import_module(arguments.module)
    try:
        code: int = command.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("anyregion: interrupted", file=sys.stderr)
        return INTERRUPTED
    except AnyRegionError as error:
        print("anyregion: error:", " ".join(str(error).split("\n")), file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise  # a bug
        # Python's own flush at the end is to find no broken pipe and no full disk either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            prefix = f"{error.filename}: " if error.filename else ""
            print(f"anyregion: error: {prefix}{error.strerror}", file=sys.stderr)
        return FAILED


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands' names, and of the arguments of the one that `words` call."""
    parser = argparse.ArgumentParser(
        prog="anyregion",
        description="Name any region of any image in any words.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"anyregion {__version__}")
    top = parser.add_subparsers(
        prog="anyregion", title="commands", metavar="COMMAND [OPTIONS]", required=True
    )
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for name, summary in COMMANDS.items():
        parts = name.split()
        subparsers = top
        if len(parts) == 2:
            if parts[0] not in groups:
                title = GROUPS[parts[0]]
                group = top.add_parser(parts[0], help=title, description=title)
                groups[parts[0]] = group.add_subparsers(
                    title="commands", metavar="COMMAND [OPTIONS]", required=True
                )
            subparsers = groups[parts[0]]
        leaf = subparsers.add_parser(
            parts[-1],
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        leaf.set_defaults(module=command_module(name))
        # only the command that is called declares its arguments: importing all would take seconds
        if list(words[: len(parts)]) == parts:
            importlib.import_module(command_module(name)).add_arguments(leaf)
    return parser


def _join_negative(words: Sequence[str]) -> list[str]:
    """`--box -3,0,5,5` as `--box=-3,0,5,5`."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and _NEGATIVE.match(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
