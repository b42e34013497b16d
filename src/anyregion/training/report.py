"""What came of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TrainingReport:
    """What `fit` did.

    Attributes:
        folder: of the run.
        steps: optimiser steps taken in all, of `steps_wanted`.
        steps_wanted: as configured.
        resumed_from: step at which this call went on; 0 for a new run.
        parameters: how many learned.
        images: seen in all (an image counts each time).
        seconds: of training in all, of every call.
        losses: the last that were logged.
        validation: the last figures.
        best: the best value of the figure that was watched, or None.
        interrupted: whether it was asked to stop before the end.
    """

    folder: Path
    steps: int
    steps_wanted: int
    resumed_from: int
    parameters: int
    images: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    interrupted: bool = False

    @property
    def images_per_second(self) -> float:
        """Over the whole training."""
        return self.images / self.seconds if self.seconds else 0.0
