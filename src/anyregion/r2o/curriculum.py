"""The curriculum of R2O: clusters, target momentum and rate, as functions of epoch or step."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Literal

from anyregion.errors import InputError

# more clusters than this mean: no clustering, the prior's segments are the regions (published)
MOST_CLUSTERS = 128
# the published code's number, by which it also scales its rate
_PUBLISHED_NO_CLUSTERING = 9999


@dataclass(frozen=True)
class CurriculumConfig:
    """How many clusters in which epoch (paper: cosine, 128 to 4 over 300 epochs).

    Attributes:
        kind: `cosine`, from the first value to the second along a quarter of a wave, slowest at
            the larger one (`cos(pi t / 2)` falling, `sin(pi t / 2)` rising), held before and
            after; `linear`, along straight lines through all values, the outer two of which go on
            beyond the ends; `piecewise`, each value from its epoch to the next one's, the first
            value before; `constant`, the one value.
        epochs: the epoch of each value, from 0, rising. None spreads the values over the run: the
            first at its start and the last at its end, or, for `piecewise`, in equal parts.
        values: numbers of clusters. Above 128 there is no clustering, and the segments of the
            prior are the regions. Below 1 counts as 1.
    """

    kind: Literal["cosine", "linear", "piecewise", "constant"] = "cosine"
    epochs: tuple[float, ...] | None = None
    values: tuple[float, ...] = (128.0, 4.0)

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "linear", "piecewise", "constant"):
            raise InputError(
                f"curriculum.kind: {self.kind!r} is not cosine, linear, piecewise or constant"
            )
        if not self.values or not all(math.isfinite(value) for value in self.values):
            raise InputError(f"curriculum.values must be finite numbers: {self.values}")
        count = len(self.values)
        if self.kind == "cosine" and count != 2:
            raise InputError(f"curriculum: cosine needs 2 values, not {count}")
        if self.kind == "constant" and count != 1:
            raise InputError(f"curriculum: constant needs 1 value, not {count}")
        if self.kind == "linear" and count < 2:
            raise InputError("curriculum: linear needs at least 2 values")
        if self.epochs is None:
            return
        if len(self.epochs) != count:
            raise InputError(f"curriculum: {len(self.epochs)} epochs for {count} values")
        if not all(math.isfinite(epoch) for epoch in self.epochs):
            raise InputError(f"curriculum.epochs must be finite numbers: {self.epochs}")
        if any(a >= b for a, b in itertools.pairwise(self.epochs)):
            raise InputError(f"curriculum.epochs must rise: {self.epochs}")


def clusters_at(
    config: CurriculumConfig, epoch: float, *, epochs: float | None = None
) -> int | None:
    """The number of clusters in `epoch` (from 0); None for no clustering.

    Args:
        epochs: of the whole run, for a curriculum that is spread over it.

    Raises:
        InputError: it is, and `epochs` is None or not above 0.
    """
    clusters = int(clusters_float(config, epoch, epochs=epochs))
    return None if clusters > MOST_CLUSTERS else max(clusters, 1)


def clusters_float(config: CurriculumConfig, epoch: float, *, epochs: float | None = None) -> float:
    """The number in `epoch` before it is cut to a number of clusters; see `clusters_at`."""
    values, starts = config.values, config.epochs
    if config.kind == "constant":
        return float(values[0])
    if starts is None:
        if epochs is None or not epochs > 0:
            raise InputError(
                "curriculum.epochs is not given: the run's own number of them is needed"
            )
        parts = len(values) if config.kind == "piecewise" else len(values) - 1
        starts = tuple(epochs * i / parts for i in range(len(values)))  # one epoch a value
    if config.kind == "piecewise":
        return float(values[max(bisect_right(starts, epoch) - 1, 0)])
    if config.kind == "cosine":
        first, last = values
        part = min(max((epoch - starts[0]) / (starts[1] - starts[0]), 0.0), 1.0)
        # a quarter of a wave, slowest at the larger number: most epochs are spent on small regions
        if first >= last:
            return math.cos(math.pi * part / 2) * (first - last) + last
        return math.sin(math.pi * part / 2) * (last - first) + first
    # the outer two lines go on beyond the ends, as published
    i = min(max(bisect_left(starts, epoch), 1), len(starts) - 1)
    slope = (values[i] - values[i - 1]) / (starts[i] - starts[i - 1])
    return slope * (epoch - starts[i - 1]) + values[i - 1]


def target_momentum(step: int, steps: int, base: float = 0.99) -> float:
    """Of the target's running mean at `step` (from 0) of `steps`: `base` to 1 by half a cosine."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2


def rate_scale(
    clusters: int | None, *, per: float | None = 16, most: int | None = MOST_CLUSTERS
) -> float:
    """What the learning rate is multiplied by because of the number of clusters.

    Args:
        clusters: of the epoch; None for no clustering.
        per: the number of clusters whose factor is 1. None or 0 for a factor of 1 always.
        most: more clusters, and no clustering, count as so many. None is the published way, in
            which no clustering counts as 9,999 and multiplies the rate by 625.
    """
    if not per:
        return 1.0
    counted = _PUBLISHED_NO_CLUSTERING if clusters is None else clusters
    return (counted if most is None else min(counted, most)) / per
