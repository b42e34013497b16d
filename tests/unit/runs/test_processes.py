"""Work that processes share, some of which die, or are told to come again."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from anyregion.runs.processes import CountDone, ProcessPool

ROOT = Path(__file__).parents[3]


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


_STOPPED = """
import os, signal, sys, threading, time
from functools import partial
from pathlib import Path
from anyregion.cli.main import stop_signals
from anyregion.runs.processes import ProcessPool
from tests.unit.runs.test_processes import model, work

def stop():
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    # one of them is the library's own, which keeps account of semaphores
    while len(children.read_text().split()) < 2:
        time.sleep(0.001)
    time.sleep(float(sys.argv[2]))
    os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    threading.Thread(target=stop, daemon=True).start()
    try:
        # more than a pipe holds
        with stop_signals(program=False), ProcessPool(partial(model, "m" * 300_000), 2) as pool:
            list(pool.map(partial(work, Path(sys.argv[1])), range(5)))
        time.sleep(5)
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes as Linux lists them")
@pytest.mark.parametrize("seconds", ["0", "0.05", "0.2"])
def test_processes_that_are_being_started_end_without_a_word(tmp_path: Path, seconds: str) -> None:
    """Ctrl-C reaches all processes; two thirds of those in the first seconds printed tracebacks."""
    script, places = tmp_path / "stopped.py", {"TMPDIR": str(tmp_path)}
    script.write_text(_STOPPED)
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), seconds],
        env={
            **os.environ,
            **places,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "stopped\n", "")
    assert not list(tmp_path.glob("anyregion-model-*"))
