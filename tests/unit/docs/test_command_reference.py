"""The pages of the commands are what the parsers say."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.docs import ROOT


def test_the_pages_of_the_commands_are_current() -> None:
    command = [sys.executable, "tools/command_reference.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
