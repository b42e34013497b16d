"""An index needs the extra `[index]`."""

from __future__ import annotations

import pytest

collect_ignore_glob = []
try:
    import fsspec  # noqa: F401
    import pyarrow  # noqa: F401
except ImportError:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str | None:
    return "no pyarrow: tests of indexes are left out" if collect_ignore_glob else None


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers share the machine with other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
