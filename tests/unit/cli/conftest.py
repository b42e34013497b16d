"""A recogniser of colours in place of every model, and two photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import anyregion
from anyregion import factory
from tests.helpers.colours import colour_recognizer
from tests.helpers.halves import picture


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The tiny recogniser of colours stands in for every model; returns what was asked for."""
    calls: list[tuple[Any, Any]] = []

    def load(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        return colour_recognizer()

    # the package keeps what it is first asked for: it is not to be the stand-in
    assert anyregion.load_recognizer is not load
    monkeypatch.setattr(factory, "load_recognizer", load)
    return calls


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "photos" / "one.png", "red", "blue")
    picture(tmp_path / "photos" / "two.png", "lime", "white")
    return Path("photos")
