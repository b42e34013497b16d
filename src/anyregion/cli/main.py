"""The `anyregion` command: a table of commands, each a module that is loaded when it is called."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from anyregion import __version__
from anyregion.cli.exit_codes import EPILOG, FAILED, INTERRUPTED
from anyregion.errors import AnyRegionError, InputWarning
from anyregion.files import plain_text

GROUPS = {
    "data": "annotated images",
    "evaluate": "measure a model on annotated images",
    "transfer": "a backbone carried over to another task",
    "cvat": "tasks on a CVAT server",
}
# each is a module with `add_arguments(parser)` and `run(arguments)`: `data check` is `data_check`
COMMANDS = {
    "recognize": "name the regions of images",
    "index": "embed the regions of a collection once",
    "name": "name the regions of an index, without its images",
    "search": "regions of an index that are most like words or a region",
    "stats": "what an index holds: counts by name, doubt, near duplicates",
    "explain": "what a region looked at when it was named",
    "teach": "learn names from corrected regions, in seconds",
    "review": "a run's regions in one HTML file, to be corrected in any browser",
    "sheets": "a run's regions cut out, side by side: by doubt or by name",
    "queue": "which regions are best corrected next",
    "evaluate classification": "regions given, names asked: accuracies",
    "evaluate detection": "boxes and masks as a detector's: COCO and LVIS AP",
    "evaluate odinw": "a folder of small data sets: AP of each, and the average",
    "evaluate masks": "boxes or points given, masks asked: how well they fit",
    "evaluate proposals": "regions found: recall, and how many each thing has",
    "evaluate calibration": "whether scores can be trusted, and refusing works",
    "evaluate teaching": "learning curves: corrections in random order and in the queue's",
    "evaluate knn": "a backbone: images named by their nearest neighbours",
    "evaluate linear": "a backbone: a linear classifier on its frozen features",
    "evaluate discovery": "a backbone: its features clustered, against masks",
    "evaluate detector": "what transfer detection trained: COCO's AP of boxes and masks",
    "evaluate semseg": "a segmentation network: mean IoU of its classes",
    "cache": "frozen features of annotated images, computed once for training",
    "train": "train RegionSpot's module, or the built-in model's",
    "pretrain": "learn a backbone from images without labels (R2O)",
    "transfer semseg": "semantic segmentation with a backbone, fine-tuned or frozen",
    "transfer detection": "Mask R-CNN on a backbone: boxes and masks of classes",
    "data check": "what is wrong with annotated images",
    "data suspects": "regions whose names are probably wrong",
    "convert": "a published RegionSpot checkpoint to safetensors",
    "dataset": "photographs to a set that a detector can be trained on",
    "export-labels": "the names of a run for an annotation tool or a trainer",
    "export": "a backbone for torchvision, timm, Hugging Face or detectron2",
    "export-onnx": "a RegionSpot as ONNX graphs, which need no torch",
    "cvat name": "name what is drawn in a CVAT task, in place",
    "cvat restore": "the labels back that a CVAT task had before",
    "serve": "name regions over HTTP, for tools and pages of this machine",
    "reproduce": "a table of the papers: checked, or run, at full size or scaled",
    "models": "models and vocabularies, and which are here",
    "doctor": "check this installation",
}

# errors of the machine, not bugs: the reader (`| head`) has gone, a full disk, no permission
_MACHINE_ERRORS = (
    errno.EPIPE, errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip

# SIGTERM is what schedulers, `timeout` and containers send some seconds before they kill
SIGNALS = (signal.SIGINT, signal.SIGTERM)

# seconds for what was begun (a line of the journal, a picture) to come to its end
GRACE = 0.6

# a box that argparse would take for an option: -3,0,5,5
_NEGATIVE = re.compile(r"-\.?\d[^=]*,")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `exit_codes`)."""
    _open_streams()
    words: list[str] = []
    for word in sys.argv[1:] if argv is None else argv:
        # `--box -3,0,5,5` is `--box=-3,0,5,5`
        if words and words[-1].startswith("--") and _NEGATIVE.match(word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    try:
        try:
            with stop_signals(program=argv is None), warnings.catch_warnings():
                arguments = parse(words)
                command = importlib.import_module(arguments.module)
                warnings.showwarning = _show_warning
                code: int = command.run(arguments)
            return code
        except KeyboardInterrupt:
            print("anyregion: interrupted", file=sys.stderr)
            return INTERRUPTED
        except AnyRegionError as error:
            text = " ".join(str(error).split("\n"))
            print("anyregion: error:", plain_text(text), file=sys.stderr)
            return FAILED
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise  # a bug
        # Python's own flush at the end is to find no broken pipe and no full disk either
        for stream in (sys.stdout, sys.stderr) if error.errno == errno.EPIPE else (sys.stdout,):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            prefix = f"{error.filename}: " if error.filename else ""
            print(f"anyregion: error: {plain_text(prefix)}{error.strerror}", file=sys.stderr)
        return FAILED


def _open_streams() -> None:
    """Let stdout and stderr take any text in any locale, and be there where they were closed."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # or the next file that is opened gets the number of the missing one, and what is printed
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def stop_signals(*, program: bool) -> Iterator[None]:
    """Both signals raise `KeyboardInterrupt` in the block; a second one ends the process at once.

    Python calls a handler between two steps of its own, and a step may be a network's pass over
    hundreds of regions; and it ends only when its threads have, one of which may read a large
    image. So what has not come to its end after `GRACE` is cut off, as by a kill: files are whole
    or absent at any moment. A training has handlers of its own: it ends its step first.

    Outside the main thread nothing changes.

    Args:
        program: the process ends after the block, and what its threads still do is cut off too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # a shell lets what it starts in the background ignore Ctrl-C: that stays
    before: dict[signal.Signals, Any] = {
        number: handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, _interrupt)
    if os.name != "posix":
        # Windows wakes by sockets alone, and its SIGTERM is a kill
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_cut_off, args=(reading, ended), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(writing)  # which ends the thread, if no signal came
        if not program:
            ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of both signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt


def _cut_off(reading: int, ended: threading.Event) -> None:
    """End the process some time after a signal, in a thread that is woken by the system itself."""
    with open(reading, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if signal.getsignal(number[0]) not in (_interrupt, signal.SIG_DFL):
                continue  # somebody else's to obey
            if not ended.wait(GRACE):
                # a bar that was being drawn has hidden the cursor
                cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
                os.write(2, f"{cursor}anyregion: interrupted\n".encode())
                os._exit(INTERRUPTED)
            return


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of ours as the command line says things, any other as Python does."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    own = f"anyregion: warning: {plain_text(message)}\n"
    (file or sys.stderr).write(own if issubclass(category, InputWarning) else text)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; ends the process where argparse would."""
    parser = _parser(words)
    arguments, unknown = parser.parse_known_args(words)
    called = vars(arguments).pop("called", parser)
    if unknown:
        # argparse itself would show the usage of all commands in place of this one's
        called.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _path(text: str) -> Path:
    """A path of the command line; of `--out "$UNSET"` the current folder would be made a run's."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text is no path (the current folder is .)")
    return Path(text)


def module_of(name: str) -> str:
    """The module of a command: `export-labels` is `export_labels`."""
    return "anyregion.cli." + re.sub("[ -]", "_", name.replace("evaluate ", "evaluate."))


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
        module = module_of(name)
        leaf.set_defaults(module=module)
        leaf.register("type", Path, _path)
        # only the command that is called declares its arguments: importing all would take seconds
        if list(words[: len(parts)]) == parts:
            importlib.import_module(module).add_arguments(leaf)
            leaf.set_defaults(called=leaf)
    return parser
