"""Fixtures of the localizers. Torch is imported inside them: the folder must load without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anyregion.localizers.segmenter import PromptableSegmenter


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def localizers() -> dict[str, PromptableSegmenter]:
    from tests.helpers.small_localizers import FAMILIES, build

    return {family: build(family) for family in FAMILIES}
