"""k-nearest-neighbour accuracy of a frozen backbone on class folders.

The protocol of Wu et al., "Unsupervised feature learning via non-parametric instance
discrimination" (CVPR 2018, section 3.4), with the numbers that DINO made common (Caron et al.,
ICCV 2021): cosine similarity `s`, 20 neighbours, each voting for its class with `exp(s / 0.07)`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from anyregion.errors import InputError
from anyregion.evaluation.backbones.class_folders import ClassFolderReport, read_features
from anyregion.evaluation.backbones.features import Backbone
from anyregion.vocabulary import Progress

NEIGHBOURS = 20
TEMPERATURE = 0.07
_QUERIES_AT_ONCE = 1024  # 80 MB of similarities with 10,000 images


@dataclass(frozen=True)
class KnnDetails:
    """Settings of the vote.

    Attributes:
        k: neighbours that voted; fewer than demanded where there are fewer images.
        temperature: of the votes.
        leave_one_out: the images were judged among themselves.
    """

    k: int
    temperature: float
    leave_one_out: bool


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
) -> ClassFolderReport[KnnDetails]:
    """Name each image of `val` by its nearest neighbours in `train`.

    Features: the mean of the last feature map, scaled to length 1 (see `pooled_features`).

    Args:
        backbone, train, val, limit, batch_size, progress: see `read_features`. Without `val` every
            image of `train` is named by the others (leave one out).
        k: neighbours that vote; all of them where there are fewer.
        temperature: a neighbour's vote is `exp(similarity / temperature)`.

    Raises:
        InputError: folders that cannot be used, fewer than two classes, a wrong `k` or temperature.
    """
    if k < 1:
        raise InputError(f"k must be at least 1; it is {k}")
    if not 1e-3 <= temperature <= 1e3:
        raise InputError(f"the temperature must be from 0.001 to 1000; it is {temperature}")
    started = time.perf_counter()
    data = read_features(
        backbone, train, val, limit=limit, batch_size=batch_size, progress=progress
    )
    ranked, voters = nearest_classes(
        data.train,
        torch.from_numpy(data.labels),
        data.queries,
        classes=len(data.classes),
        k=k,
        temperature=temperature,
    )
    details = KnnDetails(voters, temperature, leave_one_out=val is None)
    return data.report(ranked.numpy(), backbone, details, started=started)


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
        queries: `(M, D)`; without them each of `bank` is a query among the others.
        k, temperature: as in `evaluate_knn`.

    Returns:
        `(M, min(5, classes))` int64, best first, -1 where no neighbour voted for a class any more;
        and how many neighbours voted. Of equal votes the class of the lower number comes first.
    """
    # in double precision: rounding hardly ever decides between two neighbours
    bank = F.normalize(bank.double(), dim=1)
    normalized = bank if queries is None else F.normalize(queries.double(), dim=1)
    k = min(k, len(bank) - (queries is None))
    ranked: list[Tensor] = []
    for start in range(0, len(normalized), _QUERIES_AT_ONCE):
        similarity = normalized[start : start + _QUERIES_AT_ONCE] @ bank.T  # (Q, N)
        if queries is None:
            rows = torch.arange(len(similarity))
            # an image is not its own neighbour
            similarity[rows, start + rows] = -torch.inf
        nearest, neighbours = similarity.topk(k, dim=1)  # (Q, k)
        # against the nearest, so that no temperature overflows; the order stays the same
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = torch.zeros(len(similarity), classes, dtype=weights.dtype)
        votes.scatter_add_(1, labels[neighbours], weights)
        # stable: of equal votes the lower class comes first, on every machine
        best, order = votes.sort(dim=1, descending=True, stable=True)
        ranked.append(order.masked_fill(best <= 0, -1)[:, :5])
    return torch.cat(ranked), k
