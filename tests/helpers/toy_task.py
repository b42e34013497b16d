"""A task small enough to be killed, divided and compared: rows of numbers, a linear module."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.training.seeds import generator
from anyregion.training.task import Metric, Task

WIDTH, CLASSES = 6, 3


class ToyTask(Task):
    """Each step draws `batch` of 40 rows; losses differ by image, so a wrong mean shows."""

    metrics: ClassVar = {
        "top1": Metric("share of the rows whose class is right"),
        "error": Metric("cross-entropy", higher_is_better=False),
    }

    def __init__(
        self, *, seed: int = 0, batch: int = 7, dropout: float = 0.0, delay: float = 0.0
    ) -> None:
        torch.manual_seed(5)
        self.module = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, CLASSES)
        )
        draw = np.random.default_rng(1)
        self.rows = draw.standard_normal((40, WIDTH)).astype(np.float32)
        self.labels = draw.integers(CLASSES, size=40)
        self.seed, self.batch, self.delay = seed, batch, delay
        self.loaded: list[int] = []

    def plan(self, step: int) -> Sequence[int]:
        return generator(self.seed, "images", step).integers(40, size=self.batch).tolist()

    def load(self, item: int) -> tuple[Tensor, int]:
        self.loaded.append(item)
        time.sleep(self.delay)
        return torch.from_numpy(self.rows[item]), int(self.labels[item])

    def losses(self, module: nn.Module, examples: Sequence[Any]) -> dict[str, Tensor]:
        out = module(torch.stack([rows for rows, _ in examples]))
        labels = torch.tensor([label for _, label in examples])
        error = nn.functional.cross_entropy(out, labels, reduction="none")
        return {"loss": error + 0.01 * out.square().sum(dim=1), "error": error}

    def describe(self, item: int) -> str:
        return f"row-{item}.jpg"

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        out = module(torch.from_numpy(self.rows))
        labels = torch.from_numpy(self.labels)
        # rounded: two processes differ from one in the seventh digit
        error = round(float(nn.functional.cross_entropy(out, labels)), 3)
        return {"top1": float((out.argmax(dim=1) == labels).float().mean()), "error": error}

    def save(self, module: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "weights.pt")
