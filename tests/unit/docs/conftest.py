"""What tests of the documentation share."""

from __future__ import annotations

import pytest


@pytest.fixture
def torch_extras() -> None:
    """Skips where the extras `[torch]` and `[train]` are not installed."""
    for package in ("torchvision", "transformers", "timm", "lightning_fabric", "open_clip"):
        pytest.importorskip(package)
