"""Where the shared photographs and fixtures lie, and the mark of tests that read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ANYREGION_SHARED", Path(__file__).parents[3] / "shared"))

needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason=f"no shared photographs and fixtures at {SHARED}"
)
