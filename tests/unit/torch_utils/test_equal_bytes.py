"""What is saved twice is the same file: the library's own order of metadata is random."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anyregion.files import order_metadata
from anyregion.torch_utils.weights import write_tensors

# enough entries that two processes agree by chance once in 40,320 times
METADATA = {f"entry {i}": f'"quoted" \n \x1f \u00e9 \U0001f600 {i}' for i in range(8)}
TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.float16)}
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from tests.unit.torch_utils.test_equal_bytes import METADATA, TENSORS
from anyregion.compact.calibration import Calibration
from anyregion.compact.training.checkpoint import save_region_head, write_head
from anyregion.compact.training.modules import MaskHeadConfig, MaskHeadModule
from anyregion.compact.training.region_head_module import RegionHeadConfig, RegionHeadModule
from anyregion.model_card import ModelCard
from anyregion.torch_utils.weights import write_tensors
from anyregion.training.seeds import seed_torch

out = Path(sys.argv[1])
write_tensors(out / "tensors.safetensors", TENSORS, METADATA)
seed_torch(0, "weights")
write_head(MaskHeadModule(MaskHeadConfig()), out / "mask_head.safetensors")
head = RegionHeadModule(RegionHeadConfig(width=16, layers=1))
trained = np.eye(2, 384, dtype=np.float32)
save_region_head(
    head, out, Calibration(trained, ("cat", "dog"), gamma=0.1, scale=1.0, bias=0.0),
    card=ModelCard(licence="MIT", terms="none", origin="a test"), metrics={"top1": 0.5},
)
"""


def test_two_processes_with_other_hash_seeds_save_the_same_bytes(tmp_path: Path) -> None:
    saved = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parents[3]
        command = [sys.executable, "-c", PROGRAM, str(out)]
        subprocess.run(command, env=environment, cwd=root, check=True, timeout=300)
        saved.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(saved[0]) >= 6
    assert {n for n in saved[0] if saved[0][n] != saved[1][n]} == set()


def test_ordered_metadata_are_the_same_entries_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "ordered.safetensors"
    write_tensors(path, TENSORS, METADATA)
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == METADATA
    loaded = load_file(path)
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    text = path.read_bytes().decode("utf-8", errors="replace")
    places = [text.index(name) for name in sorted(METADATA)]
    assert places == sorted(places)


@pytest.mark.parametrize("metadata", [None, {"one": "entry"}])
def test_a_file_without_an_order_is_left_alone(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(TENSORS, path, metadata=metadata)
    before = path.read_bytes()
    order_metadata(path)
    assert path.read_bytes() == before
