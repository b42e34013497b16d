"""The Python of a page of the documentation, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


def link_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with the example photographs, where results may be written."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ANYREGION_CACHE", str(folder / "cache"))
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    return folder


def run_blocks(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page of `docs/`, one after the other; what they named."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    return names
