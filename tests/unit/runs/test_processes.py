"""Work that processes share, some of which die, or are told to come again."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from anyregion.runs.processes import CountDone, ProcessPool


def model(name: str) -> str:
    return f"{name} {os.getpid()}"


def work(folder: Path, model: str, item: int, count: CountDone) -> str | None:
    """The second item kills its process once, and the third is somebody else's once."""
    first_time = not (folder / f"{item}").exists()
    (folder / f"{item}").touch()
    if item == 1 and first_time:
        os._exit(9)
    if item == 2 and first_time:
        return None
    count(2)
    return f"{model.split()[0]} {item}"


def test_each_item_is_done_once(tmp_path: Path) -> None:
    counted: list[int] = []
    with ProcessPool(partial(model, "m"), workers=2) as pool:
        process = pool.call(str.upper)
        results = dict(pool.map(partial(work, tmp_path), range(5), counted.append))
        assert results == {item: f"m {item}" for item in range(5)}
        # of the process that died, too
        assert 10 <= sum(counted) <= 18
        assert process.split()[0] == "M"
        assert pool.call(str.upper) != process
    assert "ANYREGION_THREADS" not in os.environ
