"""Two processes give what one gives: uneven shares, accumulation, a process without any image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anyregion.training.loop import fit
from anyregion.training.prefetch import share
from tests.helpers.run_logs import learned, lines
from tests.helpers.toy_task import ToyTask
from tests.helpers.training_worker import config

ROOT = Path(__file__).parents[3]
PATHS = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
SCENARIOS = [
    {"task": {"batch": 7}, "loop": {}, "apart": True},
    {"task": {"batch": 7}, "loop": {"micro_batch": 2, "over_images": "sum"}, "apart": True},
    {"task": {"batch": 1}, "loop": {"steps": 6}, "apart": True},
]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "tests.helpers.training_worker", str(tmp_path / "two"), json.dumps(SCENARIOS)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number, scenario in enumerate(SCENARIOS):
        one, two = tmp_path / f"one{number}", tmp_path / "two" / str(number)
        fit(ToyTask(**scenario["task"]), config(**scenario["loop"]), one)
        environment = json.loads((two / "environment.json").read_text())
        assert environment["processes"] == 2
        tensors, expected = learned(two), learned(one)
        for name in expected:
            if name.startswith(("module.", "mean.")):
                torch.testing.assert_close(tensors[name], expected[name], rtol=0, atol=1e-6)
        for a, b in zip(lines(two), lines(one), strict=True):
            assert a == (b if "validation" in a else pytest.approx(b, abs=1e-5))


def test_shares_are_even_and_whole() -> None:
    for count in (0, 1, 7, 16):
        for world in (1, 2, 3):
            parts = [share(count, rank, world) for rank in range(world)]
            assert [i for part in parts for i in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
