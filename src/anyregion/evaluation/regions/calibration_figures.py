"""Figures of how far scores can be trusted: expected calibration error, AUROC of refusing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class ScoreBin:
    """Answers whose score lies in `low` to `high`: how many, their mean score, how many right.

    `mean_score` and `accuracy` are None in an empty bin.
    """

    low: float
    high: float
    regions: int
    mean_score: float | None
    accuracy: float | None


def calibration_error(
    scores: NDArray[Any], right: NDArray[np.bool_], *, bins: int = BINS
) -> tuple[float, tuple[ScoreBin, ...]]:
    """The expected calibration error, and what it is made of.

    Mean over equally wide bins of |mean score - accuracy|, weighted by the answers in each (Guo et
    al., On Calibration of Modern Neural Networks, section 2). A bin holds its upper end; the first
    holds 0 too.

    Args:
        scores: `(N,)`, 0 to 1; at least one.
        right: `(N,)` bool.
        bins: how many.
    """
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)
    found: list[ScoreBin] = []
    error = 0.0
    for i in range(bins):
        inside = at == i
        count = int(inside.sum())
        score = float(scores[inside].mean()) if count else None
        share = float(right[inside].mean()) if count else None
        found.append(ScoreBin(float(edges[i]), float(edges[i + 1]), count, score, share))
        if score is not None and share is not None:
            error += abs(score - share) * count / len(scores)
    return error, tuple(found)


def auroc(positive: NDArray[Any], negative: NDArray[Any]) -> float | None:
    """The chance that a positive's value is above a negative's; ties count a half.

    That is the area under the ROC curve. None where either side is empty.
    """
    if not len(positive) or not len(negative):
        return None
    _, at, counts = np.unique(
        np.concatenate([positive, negative]), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]  # of equal values their mean rank
    total = float(ranks[: len(positive)].sum()) - len(positive) * (len(positive) + 1) / 2
    return total / (len(positive) * len(negative))
