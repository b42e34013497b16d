"""Two processes give what one gives with the same global batch: weights, losses, figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "skimage"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.torch_utils.kmeans import Draws, start_points  # noqa: E402
from anyregion.training.run_folder import last_checkpoint  # noqa: E402
from tests.helpers.pretraining import command, pretrain, write_photos  # noqa: E402
from tests.helpers.run_logs import lines  # noqa: E402

ROOT = Path(__file__).parents[3]
PATHS = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
pytestmark = pytest.mark.usefixtures("one_thread")
COMMON: dict[str, Any] = {
    "precision": "fp32",
    "optimizer__lr": 1e-4,
    "r2o__curriculum__values": "[6, 3]",
    "r2o__momentum": 0.9,
}
LARS = {"optimizer__kind": "lars", "optimizer__lr": 0.5, "r2o__batch": 8, "r2o__epochs": 4}
# crops so small that an image often has no mask in both views, and is the only one of a process
APART = {
    "r2o__views__scale": "[0.02, 0.04]",
    "r2o__prior__segments": 25,
    "r2o__curriculum__kind": "constant",
    "r2o__curriculum__values": "[9999]",
    "r2o__batch": 2,
    "seed": 3,
}
EQUAL: dict[str, dict[str, Any]] = {
    "image": COMMON | {"r2o__method__scope": "image"},
    "batch": COMMON | LARS | {"r2o__method__scope": "batch"},
    "apart": COMMON | APART | {"r2o__epochs": 1},
}
ALIKE: dict[str, dict[str, Any]] = {
    "parts": COMMON | {"r2o__batch": 8, "micro_batch": 2},
    "apart-unsynchronised": EQUAL["apart"] | {"r2o__sync_norm": "false"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(place: Path) -> Path:
    """All that two processes do, in one start of them."""
    photos = write_photos(place / "photos")
    commands = [
        command(photos, place / "two" / name, **changes)
        for name, changes in (EQUAL | ALIKE).items()
    ]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "tests.helpers.pretraining", json.dumps({"commands": commands})),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "two"


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one(two: Path, place: Path, name: str) -> None:
    run_of_two, run_of_one = two / name, place / "one" / name
    assert pretrain(place / "photos", run_of_one, **EQUAL[name]) == 0
    assert json.loads((run_of_two / "environment.json").read_text())["processes"] == 2
    for a, b in zip(steps(run_of_two), steps(run_of_one), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    parameters, expected = (
        load_file(last_checkpoint(run_of_two)),
        load_file(last_checkpoint(run_of_one)),
    )
    assert parameters.keys() == expected.keys()
    for name in expected:
        if name.startswith("module."):
            torch.testing.assert_close(parameters[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["apart", "apart-unsynchronised"])
def test_a_process_with_nothing_to_compare_goes_along(two: Path, name: str) -> None:
    shared = [line["shared_masks"] for line in steps(two / name)]
    # of the one image, of the other, of neither: by the views alone, which follow from the seed
    assert shared == [1, 0.5, 1, 0]
    # that all processes have the same weights, the target's too, was held there, bit by bit


def test_parts_of_a_step_in_several_processes(two: Path) -> None:
    rows = steps(two / "parts")
    assert len(rows) == 2
    assert all(0 < line["loss"] < 4 and line["shared_masks"] > 1 for line in rows)


def test_rounding_does_not_choose_where_kmeans_starts() -> None:
    """Two neighbours gain the same as a centre; processes round differently."""
    near = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 1.0]])
    for trials, chosen in (([0.25, 0.75], 1), ([0.75, 0.25], 2)):
        draws = Draws(torch.zeros(1), torch.tensor([[trials]]))
        for noise in torch.randn(20, 3, 2, generator=torch.Generator().manual_seed(0)):
            moved = near + 1e-6 * noise
            assert start_points(moved[None], 2, draws=draws).tolist() == [[0, chosen]]


def steps(folder: Path) -> list[dict[str, Any]]:
    """The log's lines of steps; the gradient's norm is no weight and no loss."""
    rows = [line for line in lines(folder) if "loss" in line]
    return [{k: v for k, v in line.items() if k != "grad_norm"} for line in rows]
