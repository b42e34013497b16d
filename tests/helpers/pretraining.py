"""What the tests of pretraining share: a few small photographs, and command lines.

`python -m tests.helpers.pretraining JSON` runs several of them in a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from anyregion.cli.main import main
from anyregion.r2o.training.task import R2OTask

SMALL = {
    "log_every": 1,
    "tensorboard": "false",
    "readers": 1,
    "r2o.backbone": "timm/test_resnet",
    "r2o.views.size": 64,
    "r2o.prior.segments": 12,
    "r2o.curriculum.values": "[8, 2]",
    "r2o.batch": 4,
    "r2o.epochs": 2,
    "r2o.warmup_epochs": 0.5,
    "r2o.heads.hidden": 32,
    "r2o.heads.out": 16,
    "r2o.workers": 1,
    # stated, so that these runs stay what they are when the recipe is tuned
    "optimizer.lr": 1e-3,
    "r2o.base_batch": "null",
    "r2o.momentum": 0.98,
    "r2o.views.scale": "[0.08, 1.0]",
    "r2o.views.blur_sigma": "[0.1, 2.0]",
}


def write_photos(folder: Path, count: int = 8, *, seed: int = 0) -> Path:
    """Patches of colour with some noise, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for i in range(count):
        coarse = draw.integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((56, 48), Image.Resampling.NEAREST))
        noisy = pixels.astype(np.int64) + draw.integers(-20, 21, size=pixels.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"photo{i}.png")
    return folder


def command(images: Path | str, out: Path, **changes: Any) -> list[str]:
    """`anyregion pretrain` with small settings; `__` stands for a dot in `changes`."""
    settings = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    words = [f"--{name}={value}" for name, value in settings.items()]
    return ["pretrain", str(images), "--out", str(out), *words]


def pretrain(images: Path | str, out: Path, **changes: Any) -> int:
    """Run it here; the exit code."""
    return main(command(images, out, **changes))


def _remember(tasks: list[R2OTask]) -> None:
    begin = R2OTask.on_step_start

    def remembered(self: R2OTask, step: int) -> float:
        tasks[:] = [self]
        return begin(self, step)

    R2OTask.on_step_start = remembered  # type: ignore[method-assign]


def _check_alike(task: R2OTask) -> None:
    """All processes have the same weights, to the last bit, those of the target too."""
    if dist.is_initialized():
        own = torch.cat([p.detach().flatten() for p in task.module.parameters()])
        all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(all_of_them, own)
        assert all(torch.equal(own, other) for other in all_of_them)


def _slower(seconds: float) -> None:
    load = R2OTask.load

    def slow(self: R2OTask, item: Any) -> Any:
        time.sleep(seconds)
        return load(self, item)

    R2OTask.load = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    request = json.loads(sys.argv[1])
    _slower(request.get("delay", 0.0))
    tasks: list[R2OTask] = []
    _remember(tasks)
    for words in request["commands"]:
        if code := main(words):
            sys.exit(code)
        _check_alike(tasks[0])
