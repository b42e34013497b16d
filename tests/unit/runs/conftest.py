"""The photos that runs are made over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.halves import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    picture(folder / "a" / "x.jpg", "red", "blue")
    picture(folder / "b" / "x.jpg", "lime", "white")
    picture(folder / "y.png", "yellow", "black")
    picture(folder / "z.webp", "blue", "red")
    picture(folder / "z.webp.jpg", "white", "white")
    return folder
