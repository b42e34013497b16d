"""Command lines that most tests give."""

from __future__ import annotations

import pytest

from anyregion.cli.main import main

NAMES = "red,lime,blue,yellow,white,black"
BOXES = ["--box", "0,0,20,30", "--box", "20,0,40,30"]


def recognize(*words: str) -> int:
    return main(["recognize", "--vocabulary", NAMES, *words])


def code_of(*words: str) -> int:
    """The exit code of a command line that argparse answers itself."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    return int(stopped.value.code or 0)
