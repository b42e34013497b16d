"""Accuracies of named regions: top-1, top-5, and top-1 averaged over the classes.

All are computed from ranks: the position (from 0) at which each region's right name was listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
"""`(N,)`: 0 where the right name came first, 1 where it came second, and so on."""

UNLISTED = 2**62
"""The rank of a right name that is not among those listed: beyond every `k`."""


def ranks_of(indices: NDArray[np.int64], labels: NDArray[np.int64]) -> Ranks:
    """The rank of each region's right name, `(N,)`, among the `(N, K)` names listed, best first.

    `UNLISTED` where it is not among them.
    """
    # (N, K): a name is listed once, so at most one of a row is true
    hits = indices == labels[:, None]
    ranks: Ranks = np.where(hits.any(axis=1), hits.argmax(axis=1), UNLISTED)
    return ranks


def first_ranks_of(indices: NDArray[np.int64], right: Sequence[Sequence[int]]) -> Ranks:
    """The rank of each region's first right name, `(N,)`, among the `(N, K)` names listed.

    `right` holds, for each of the N regions, every name that is right; `UNLISTED` where none of
    them is among those listed.
    """
    ranks = np.full(len(indices), UNLISTED, dtype=np.int64)
    for i, (row, names) in enumerate(zip(indices, right, strict=True)):
        hits = np.isin(row, names)  # (K,)
        if hits.any():
            ranks[i] = hits.argmax()
    return ranks


def ranks_in_scores(scores: NDArray[Any], labels: NDArray[np.int64]) -> Ranks:
    """The rank of each region's right name, from scores or logits `(N, C)` of every name.

    Of equal scores the wrong one counts as better, so a model that says nothing gets 0.
    """
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1)  # (N, 1)
    # the right name is one of those that score at least as much
    ranks: Ranks = (scores >= true_scores).sum(axis=1) - 1
    return ranks


def top_k(ranks: Ranks, k: int) -> float:
    """Fraction of the regions whose right name is among the `k` best; NaN of no regions."""
    return float((ranks < k).mean()) if len(ranks) else float("nan")


def mean_class_accuracy(ranks: Ranks, labels: NDArray[np.int64]) -> float:
    """Top-1 of each class that occurs in `labels`, averaged over those classes."""
    return float(np.mean([top_k(ranks[labels == label], 1) for label in np.unique(labels)]))


def standard_error(accuracy: float, count: int) -> float:
    """The standard error of an accuracy of `count` items, as a fraction.

    Agresti and Coull's: with two right and two wrong items more, so that neither none nor all of a
    few items counts as certain.
    """
    share = (accuracy * count + 2) / (count + 4)
    return float(np.sqrt(share * (1 - share) / (count + 4)))


def accuracies(ranks: Ranks, labels: NDArray[np.int64]) -> dict[str, float]:
    """`top1`, `top5` and `mean_class_accuracy`, fractions from 0 to 1, of at least one region."""
    return {
        "top1": top_k(ranks, 1),
        "top5": top_k(ranks, 5),
        "mean_class_accuracy": mean_class_accuracy(ranks, labels),
    }
