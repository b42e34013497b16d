"""How far scores can be trusted: the expected calibration error (ECE), and AUROC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""The usual number since Guo et al. 2017, so that figures can be compared with published ones."""


@dataclass(frozen=True)
class ScoreBin:
    """Answers whose score lies in `low` to `high`: their number, mean score and accuracy.

    `mean_score` and `accuracy` are None in an empty bin.
    """

    low: float
    high: float
    regions: int
    mean_score: float | None
    accuracy: float | None


def ece(scores: NDArray[Any], correct: NDArray[np.bool_], *, bins: int = BINS) -> float:
    """The expected calibration error of `(N,)` scores from 0 to 1, at least one.

    Mean over equally wide bins of |mean score - accuracy|, weighted by the answers in each (Guo et
    al., On Calibration of Modern Neural Networks, section 2).
    """
    error = 0.0
    for part in score_bins(scores, correct, bins=bins):
        if part.mean_score is not None and part.accuracy is not None:
            error += abs(part.mean_score - part.accuracy) * part.regions / len(scores)
    return error


def score_bins(
    scores: NDArray[Any], correct: NDArray[np.bool_], *, bins: int = BINS
) -> tuple[ScoreBin, ...]:
    """The bins that `ece` is made of. A bin holds its upper end; the first holds 0 too."""
    edges = np.linspace(0, 1, bins + 1)
    # side `left`: a score on an edge belongs to the bin below it
    bin_of = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)  # (N,)
    parts: list[ScoreBin] = []
    for i in range(bins):
        inside = bin_of == i
        count = int(inside.sum())
        score = float(scores[inside].mean()) if count else None
        accuracy = float(correct[inside].mean()) if count else None
        parts.append(ScoreBin(float(edges[i]), float(edges[i + 1]), count, score, accuracy))
    return tuple(parts)


def auroc(positive: NDArray[Any], negative: NDArray[Any]) -> float | None:
    """The chance that a positive's value is above a negative's; ties count a half.

    That is the area under the ROC curve. None where either side is empty.
    """
    if not len(positive) or not len(negative):
        return None
    # by ranks (Mann-Whitney's U): no threshold to choose, and ties are exact
    _, at, counts = np.unique(
        np.concatenate([positive, negative]), return_inverse=True, return_counts=True
    )
    # equal values share their mean rank, (P + Q,)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]
    total = float(ranks[: len(positive)].sum()) - len(positive) * (len(positive) + 1) / 2
    return total / (len(positive) * len(negative))
