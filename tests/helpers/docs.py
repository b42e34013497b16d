"""The Python and the commands of a page of the documentation, run as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anyregion.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


def link_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with the example photographs, where results may be written."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ANYREGION_CACHE", str(folder / "cache"))
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    return folder


def python_blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(page: str, replaced: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the Python blocks of a page of `docs/`, one after the other; what they named.

    Args:
        page: from `docs/` on.
        replaced: what stands in the page, and what is run in its place: a free port, fewer steps.
    """
    text = "\n".join(python_blocks(ROOT / "docs" / page))
    assert text
    for old, new in (replaced or {}).items():
        assert old in text, f"{page} has no {old}"
        text = text.replace(old, new)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, page, "exec"), names)
    return names


def code_of(text: str) -> tuple[list[str], list[str]]:
    """Lines of the fenced blocks (continuations joined), and what stands between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return lines, [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def words_of(line: str) -> list[str] | None:
    """What follows `anyregion` in a line of a shell, up to the next operator; None without it."""
    if "anyregion " not in line:
        return None
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError:  # no shell: an open quote
        return None
    for at, token in enumerate(tokens):
        called = at == 0 or tokens[at - 1] in ("-m", "&&", "do") or token.endswith("bin/anyregion")
        if token.split("/")[-1] == "anyregion" and called:
            words = tokens[at + 1 :]
            end = next((i for i, word in enumerate(words) if set(word) <= set("<>|&;()")), None)
            return words[:end]
    return None


def run_commands(page: str, replaced: Mapping[str, str] | None = None) -> list[list[str]]:
    """Run every `anyregion` line of the shell blocks of a page, in order, and give their words.

    Each has to end well; an image that was set aside would be the page's fault, too.
    """
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    text = "".join(blocks)
    for old, new in (replaced or {}).items():
        assert old in text, f"{page} has no {old}"
        text = text.replace(old, new)
    commands = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if words := words_of(line):
            assert main(words) == 0, f"{page}: anyregion {' '.join(words)}"
            commands.append(words)
    assert commands
    return commands
