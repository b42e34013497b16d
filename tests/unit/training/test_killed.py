"""Killed at any moment and gone on equals never killed: bit by bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anyregion.training.logs import read_log
from anyregion.training.loop import fit
from anyregion.training.run_folder import last_checkpoint
from tests.helpers.run_logs import learned, lines
from tests.helpers.toy_task import ToyTask
from tests.helpers.training_worker import config

ROOT = Path(__file__).parents[3]
PATIENCE = 120.0


def start(out: Path, scenario: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.training_worker", str(out), json.dumps([scenario])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)


def logged(out: Path) -> int:
    return read_log(out)[-1]["step"] if (out / "log.jsonl").is_file() and read_log(out) else 0


def same(out: Path, reference: Path) -> None:
    assert lines(out) == lines(reference)
    tensors, expected = learned(out), learned(reference)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)


def test_killed_and_resumed_equals_never_killed(tmp_path: Path) -> None:
    task = {"dropout": 0.2}  # the random part of a step has to come back too
    fit(ToyTask(**task), config(), tmp_path / "whole")
    out = tmp_path / "run" / "0"
    slow = {"task": {**task, "delay": 0.02}, "loop": {}}

    # in the midst of a step, steps behind the last checkpoint
    process = start(out, slow)
    wait_for(lambda: logged(out) >= 9, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert logged(out) < 24

    # while the second checkpoint of this call is half written
    process = start(out, {"task": task, "loop": {}, "stall": 2})
    wait_for((out.parent / "stalled").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    halves = list((out / "checkpoints").glob(".last-*"))
    assert len(halves) == 1, "the half-written file is what this is about"

    report = fit(ToyTask(**task), config(), out)
    assert report.resumed_from == 12
    assert report.steps == 24
    assert [p.name for p in (out / "checkpoints").iterdir()] == [last_checkpoint(out).name]
    same(out, tmp_path / "whole")


def test_interrupt_saves_and_goes_on(tmp_path: Path) -> None:
    fit(ToyTask(dropout=0.2), config(checkpoint_every=1000), tmp_path / "whole")
    out = tmp_path / "run" / "0"
    process = start(
        out, {"task": {"dropout": 0.2, "delay": 0.02}, "loop": {"checkpoint_every": 1000}}
    )
    wait_for(lambda: logged(out) >= 6, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130
    report = fit(ToyTask(dropout=0.2), config(checkpoint_every=1000), out)
    assert 6 <= report.resumed_from < 24
    same(out, tmp_path / "whole")
