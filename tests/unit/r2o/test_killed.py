"""A pretraining that was killed and went on is the one that never was, bit by bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "skimage"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.backbones.loading import build_encoder, save_encoder  # noqa: E402
from anyregion.training.logs import read_log  # noqa: E402
from anyregion.training.run_folder import last_checkpoint  # noqa: E402
from tests.helpers.pretraining import command, pretrain, write_photos  # noqa: E402
from tests.helpers.run_logs import lines  # noqa: E402

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("one_thread")


def logged(out: Path) -> int:
    return read_log(out)[-1]["step"] if (out / "log.jsonl").is_file() and read_log(out) else 0


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("precision", "adapted"), [("fp32", False), ("bf16", False), ("fp32", True)]
)
def test_killed_and_resumed_equals_never_killed(
    tmp_path: Path, precision: str, adapted: bool
) -> None:
    photos = write_photos(tmp_path / "photos", 6)
    # a checkpoint every second step, looks and pictures every fourth; batches cross the epochs
    changes: dict[str, Any] = {
        "precision": precision,
        "r2o__epochs": 6,
        "r2o__checkpoint_epochs": 1.4,
        "r2o__look_epochs": 3,
        "micro_batch": 2,
        "r2o__cache": tmp_path / "priors",
    }
    if adapted:
        torch.manual_seed(1)
        save_encoder(build_encoder("timm/test_resnet", size=64), tmp_path / "start")
        changes |= {
            "r2o__start": tmp_path / "start",
            "r2o__adapt__rate": 0.5,
            "r2o__adapt__stage_decay": 0.7,
            "r2o__adapt__frozen_stages": 1,
            "r2o__adapt__frozen_norms": "true",
            "r2o__adapt__anchor": 1,
        }
    out = tmp_path / "killed"
    request = {"delay": 0.05, "commands": [command(photos, out, **changes)]}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.pretraining", json.dumps(request)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert pretrain(photos, tmp_path / "whole", **changes) == 0
    until = time.monotonic() + 120
    while logged(out) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert logged(out) < 9
    assert not (out / "model").exists()

    assert pretrain(photos, out, **changes) == 0
    assert lines(out) == lines(tmp_path / "whole")
    ks = {line["validation"]["clusters"] for line in lines(out) if "validation" in line}
    assert len(ks) > 1, "the curriculum is to move, also behind the point where it was killed"
    for part in (last_checkpoint(out).relative_to(out), Path("model/backbone.safetensors")):
        killed, whole = load_file(out / part), load_file(tmp_path / "whole" / part)
        assert killed.keys() == whole.keys()
        assert all(torch.equal(killed[name], whole[name]) for name in killed), part
    for drawn in (tmp_path / "whole" / "samples").rglob("*.jpg"):
        again = out / drawn.relative_to(tmp_path / "whole")
        assert again.read_bytes() == drawn.read_bytes()
