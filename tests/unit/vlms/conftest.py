"""Fixtures of the models. Torch is imported inside them: the folder must load without it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models by kind; for the whole session, for they are only read."""
    from tests.helpers.small_vlms import FOLDERS, write_folder

    return {kind: write_folder(tmp_path_factory.mktemp(kind), kind) for kind in FOLDERS}
