"""k-nearest-neighbour accuracy of a frozen backbone on class folders.

The protocol of Wu et al., "Unsupervised feature learning via non-parametric instance
discrimination" (CVPR 2018, section 3.4), with the numbers that DINO made common (Caron et al.,
ICCV 2021): cosine similarity `s`, 20 neighbours, each voting for its class with `exp(s / 0.07)`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.backbones.class_folders import (
    Accuracy,
    ClassFolders,
    accuracy,
    check_classes,
    find_both,
    find_class_folders,
    labels_in,
)
from anyregion.evaluation.backbones.features import About, Backbone, pooled_features
from anyregion.vocabulary import Progress

NEIGHBOURS = 20
TEMPERATURE = 0.07
_AT_ONCE = 1024


@dataclass(frozen=True)
class KnnReport:
    """How well neighbours name images.

    Attributes:
        accuracy: the figures.
        backbone: which one it was.
        k: neighbours that voted: fewer than asked for where there are fewer images.
        temperature: of the votes.
        leave_one_out: the images were judged among themselves.
        train_images, images: learned from, and judged.
        classes: to choose from.
        missing: classes that were asked and are not among those; all their images count as wrong.
        seconds: reading, features and votes.
        set_aside: what could not be used.
    """

    accuracy: Accuracy
    backbone: About
    k: int
    temperature: float
    leave_one_out: bool
    train_images: int
    images: int
    classes: int
    missing: tuple[str, ...]
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        found = asdict(self)
        return {**found.pop("accuracy"), **found}


def evaluate_knn(
    backbone: Backbone,
    train: str | Path,
    val: str | Path | None = None,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> KnnReport:
    """Name each image of `val` by its nearest neighbours in `train`.

    Features: the mean of the last feature map, scaled to length 1 (see `pooled_features`).

    Args:
        backbone: see `open_backbone`.
        train: a folder of class folders.
        val: another, whose classes are matched by name; without it every image of `train` is named
            by the others (leave one out).
        k: neighbours that vote; all of them where there are fewer.
        temperature: a neighbour's vote is `exp(similarity / temperature)`.
        limit: no more than the first so many images of each class.
        batch_size: images at once.
        progress: called with (done, total) images, for each folder.

    Raises:
        InputError: folders that cannot be used, fewer than two classes, a wrong `k` or temperature.
    """
    if k < 1:
        raise InputError(f"k must be at least 1; it is {k}")
    if not 1e-3 <= temperature <= 1e3:
        raise InputError(f"the temperature must be from 0.001 to 1000; it is {temperature}")
    started = time.perf_counter()
    if val is None:
        bank = find_class_folders(train, limit=limit)
        asked = None
    else:
        bank, asked = find_both(train, val, limit=limit)
    aside = list(bank.set_aside)
    # a lack of classes is said before an hour of features, not after it
    check_classes(bank, bank.labels)
    features, kept = pooled_features(
        backbone, bank.paths, batch_size=batch_size, progress=progress, aside=aside
    )
    labels = bank.labels[kept]
    check_classes(bank, labels)
    if asked is None:
        judged, queries, truth = bank, None, labels
        missing: list[str] = []
        at = kept
    else:
        aside += asked.set_aside
        queries, at = pooled_features(
            backbone, asked.paths, batch_size=batch_size, progress=progress, aside=aside
        )
        if not len(at):
            raise InputError(f"{asked.root}: none of its {len(asked.paths)} images can be read")
        judged = asked
        readable = [bank.names[i] for i in np.unique(labels)]
        truth, missing = labels_in(bank.names, asked)
        # a class of which no image could be read has no neighbour to offer
        missing += [n for n in asked.names if n in bank.names and n not in readable]
        truth = truth[at]
    ranked, used = nearest_classes(
        features,
        torch.from_numpy(labels),
        queries,
        classes=len(bank.names),
        k=k,
        temperature=temperature,
    )
    return KnnReport(
        accuracy=accuracy(ranked.numpy(), truth, _names(judged, at), len(np.unique(labels))),
        backbone=backbone.about,
        k=used,
        temperature=temperature,
        leave_one_out=val is None,
        train_images=len(kept),
        images=len(at),
        classes=len(np.unique(labels)),
        missing=tuple(missing),
        seconds=time.perf_counter() - started,
        set_aside=tuple(aside),
    )


def nearest_classes(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor | None,
    *,
    classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> tuple[Tensor, int]:
    """The classes that each query's neighbours vote for.

    Args:
        bank: `(N, D)` features, of any length.
        labels: `(N,)` int64, their classes.
        queries: `(M, D)`; without them each of `bank` is asked among the others.
        classes: how many there are.
        k: neighbours, at most as many as there are.
        temperature: a vote is `exp(similarity / temperature)`.

    Returns:
        `(M, min(5, classes))` int64, best first, -1 where no neighbour voted for a class any more;
        and how many neighbours voted. Of equal votes the class of the lower number comes first.
    """
    bank = F.normalize(bank.double(), dim=1)
    asked = bank if queries is None else F.normalize(queries.double(), dim=1)
    k = min(k, len(bank) - (queries is None))
    answers: list[Tensor] = []
    for start in range(0, len(asked), _AT_ONCE):
        similar = asked[start : start + _AT_ONCE] @ bank.T
        if queries is None:
            rows = torch.arange(len(similar))
            similar[rows, start + rows] = -torch.inf
        near, which = similar.topk(k, dim=1)
        # against the nearest, so that no temperature overflows; the order stays the same
        weights = ((near - near[:, :1]) / temperature).exp()
        votes = torch.zeros(len(similar), classes, dtype=weights.dtype)
        votes.scatter_add_(1, labels[which], weights)
        best, order = votes.sort(dim=1, descending=True, stable=True)
        answers.append(order.masked_fill(best <= 0, -1)[:, :5])
    return torch.cat(answers), k


def _names(folders: ClassFolders, rows: NDArray[np.int64]) -> list[str]:
    return [folders.names[i] for i in folders.labels[rows]]
