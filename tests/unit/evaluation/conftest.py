"""Photos in two colours each, annotated: left half, right half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.halves import annotate


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[Path, Path]:
    """Annotations and the folder of their images."""
    return annotate(tmp_path), tmp_path / "photos"
