"""k-means of several groups of points at once, on any device, without gradients.

A group is what is clustered together: the segments of one image (scope image), or of a whole batch
(scope batch). Groups are independent: one that is finished leaves the computation. The start is
greedy k-means++ with scikit-learn's rules; a pass is one matrix product and a sum of rows.

Rules that the usual implementations leave open:

- Absent points have no weight anywhere, and the label -1.
- A cluster that lost every point takes the farthest point of its group (several take the farthest
  ones in turn), which leaves its old cluster before the centres move. Nothing is ever NaN.
- A group with fewer distinct points than clusters gets as many clusters as it has distinct points.
  The centres left over are finite, and no label names them. Two points count as one when their
  squared distance is below 4e-6 of the largest squared distance from the group's mean, which is
  where float32 products stop telling them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from anyregion.errors import InputError

# share of the largest squared norm below which two points are one: some tens of float32 roundings
_SAME_POINT = 4e-6


@dataclass(frozen=True, eq=False)
class Clusters:
    """The result of k-means in G groups of N points of D numbers.

    Attributes:
        labels: `(G, N)` int64, the cluster of each point, -1 where absent. They are those from
            which `centres` were computed.
        centres: `(G, K, D)` float32, the means of the labelled points.
        inertia: `(G,)` float64, the sum of squared distances to the centres before the last move.
        passes: `(G,)` int64, assignments made until the inertia repeated, or `max_passes`.
    """

    labels: Tensor
    centres: Tensor
    inertia: Tensor
    passes: Tensor


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a k-means++ start, all in [0, 1).

    Attributes:
        first: `(G,)`, which present point starts.
        trials: `(G, K - 1, T)`, the T candidates for each further centre.
    """

    first: Tensor
    trials: Tensor


@dataclass(frozen=True, eq=False)
class _Points:
    """Points with their group's mean at zero, which keeps float32 products precise.

    Attributes:
        rows: `(G, N, D)`; absent ones are 0.
        squares: `(G, N)`, their squared norms.
        present: `(G, N)` bool.
        mean: `(G, 1, D)`, what was subtracted.
        group: `(G, 1)`, 0 to G - 1: `rows[group, index]` are the rows at `index` `(G, T)`.
        tie: `(G, 1)`, the squared distance up to which two points are one.
        wide: the type that sums are kept in.
    """

    rows: Tensor
    squares: Tensor
    present: Tensor
    mean: Tensor
    group: Tensor
    tie: Tensor
    wide: torch.dtype


def draw(generators: Sequence[np.random.Generator], k: int) -> Draws:
    """The numbers of a start with `k` clusters, one generator a group: on the CPU, the same on all.

    Candidates for a centre: `2 + int(ln k)`, scikit-learn's rule.
    """
    trials = 2 + int(math.log(k))
    numbers = np.stack([generator.random(1 + (k - 1) * trials) for generator in generators])
    uniform = torch.from_numpy(numbers)
    return Draws(first=uniform[:, 0], trials=uniform[:, 1:].reshape(len(uniform), k - 1, trials))


def start_points(points: Tensor, k: int, *, draws: Draws, present: Tensor | None = None) -> Tensor:
    """Greedy k-means++: which points start, `(G, K)` int64, -1 where distinct points ran out.

    The first is uniform over the present points. Each further one is the candidate, drawn in
    proportion to the squared distance from the nearest centre so far, that leaves the lowest sum,
    the first drawn where sums are alike but for rounding.

    Arguments and errors are those of `kmeans`.
    """
    _check(points, k, present=present, start=None, draws=draws)
    with exact(points.device):
        return _plus_plus(_center(points, present), k, draws)


def kmeans(
    points: Tensor,
    k: int,
    *,
    present: Tensor | None = None,
    start: Tensor | None = None,
    draws: Draws | None = None,
    max_passes: int = 200,
) -> Clusters:
    """Cluster each group's points around `k` centres, in float32 and without gradients.

    A pass assigns every point to its nearest centre and moves the centres to the means. It ends
    when the inertia of an assignment repeats. The module's text has the rules for absent points,
    empty clusters and groups smaller than `k`.

    Args:
        points: `(G, N, D)`, any floating type, on the device to compute on.
        k: the number of clusters.
        present: `(G, N)` bool; what is False is left out, NaN or not. All by default.
        start: `(G, K, D)` centres to start from; or else `draws`.
        draws: random numbers of a k-means++ start (`draw`).
        max_passes: the most passes to make.

    Raises:
        InputError: shapes do not fit, not one of `start` and `draws`, or present points are not
            finite (says of which groups).
    """
    _check(points, k, present=present, start=start, draws=draws)
    if max_passes < 1:
        raise InputError(f"max_passes is {max_passes}: at least one pass is needed")
    with exact(points.device):
        data = _center(points, present)
        if start is not None and draws is None:
            centres = start.to(data.rows) - data.mean
            if not bool(centres.isfinite().all()):
                raise InputError("NaN, infinite or too large numbers among the start centres")
            used = torch.ones(centres.shape[:2], dtype=torch.bool, device=points.device)
        elif draws is not None and start is None:
            index = _plus_plus(data, k, draws)  # (G, K), -1 where distinct points ran out
            used = index >= 0
            # without points there is no row to take: padded by one of zeros
            rows = data.rows if points.shape[1] else pad(data.rows, [0, 0, 0, 1])
            centres = rows[data.group, index.clamp_min(0)]  # (G, K, D)
        else:
            raise InputError("k-means needs either start centres or draws for k-means++")
        return _lloyd(data, centres, used, max_passes)


def _check(
    points: Tensor, k: int, *, present: Tensor | None, start: Tensor | None, draws: Draws | None
) -> None:
    if points.dim() != 3 or not points.is_floating_point():
        raise InputError(
            f"points are (groups, points, numbers) of a floating type, not "
            f"{tuple(points.shape)} of {points.dtype}"
        )
    if k < 1:
        raise InputError(f"{k} clusters: at least one is needed")
    groups, count, width = points.shape
    if present is not None and (
        present.shape != (groups, count) or present.dtype is not torch.bool
    ):
        raise InputError(
            f"present is {tuple(present.shape)} of {present.dtype}, not ({groups}, {count}) of bool"
        )
    if start is not None and start.shape != (groups, k, width):
        raise InputError(f"start centres are {tuple(start.shape)}, not ({groups}, {k}, {width})")
    if draws is not None and (
        draws.first.shape != (groups,) or draws.trials.shape[:-1] != (groups, k - 1)
    ):
        raise InputError(
            f"draws are {tuple(draws.first.shape)} and {tuple(draws.trials.shape)}, not those of "
            f"{groups} groups and {k} clusters"
        )


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32: a label must not depend on how the caller trains."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if not hasattr(torch.backends, "fp32_precision"):  # torch before 2.9
            overall = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(overall)
            return
        # by library, which can be read and put back whichever way the caller set it
        mkldnn: Any = torch.backends.mkldnn
        libraries = (torch.backends.cuda.matmul, mkldnn.matmul)
        before = [library.fp32_precision for library in libraries]
        try:
            for library in libraries:
                library.fp32_precision = "ieee"
            yield
        finally:
            for library, precision in zip(libraries, before, strict=True):
                library.fp32_precision = precision


def _center(points: Tensor, present: Tensor | None) -> _Points:
    """Subtract each group's mean of the present points; refuse numbers that are not finite."""
    rows = points.float()  # (G, N, D)
    if present is None:
        present = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        mean = rows.sum(1, keepdim=True) / max(rows.shape[1], 1)
        rows = rows - mean
    else:
        present = present.to(rows.device)
        absent = ~present[..., None]
        rows = rows.masked_fill(absent, 0.0)  # an absent row may hold NaN
        mean = rows.sum(1, keepdim=True) / present.sum(1).clamp_min(1)[:, None, None]
        rows = (rows - mean).masked_fill_(absent, 0.0)
    # unlike rows.square(), this writes nothing of the rows' size
    squares: Tensor = torch.linalg.vector_norm(rows, dim=-1).square_()  # (G, N)
    broken = ~squares.isfinite().all(-1)
    if bool(broken.any()):
        groups = broken.nonzero().flatten().tolist()
        numbers = ", ".join(map(str, groups[:8])) + (", ..." if len(groups) > 8 else "")
        raise InputError(f"NaN, infinite or too large numbers among the points of group {numbers}")
    largest = pad(squares, [0, 1]).amax(-1, keepdim=True)  # 0 for a group of no points
    wide = torch.float32 if rows.device.type == "mps" else torch.float64  # mps has no float64
    group = torch.arange(len(rows), device=rows.device)[:, None]
    return _Points(rows, squares, present, mean, group, largest * _SAME_POINT, wide)


def _squared_distances(data: _Points, index: Tensor | None) -> Tensor:
    """Squared distances of the points at `(G, T)`, or of all, to all: `(G, T, N)`."""
    rows, squares = data.rows, data.squares
    if index is not None:
        rows, squares = rows[data.group, index], squares.gather(1, index)
    sums = squares[:, :, None] + data.squares[:, None]
    distances = torch.baddbmm(sums, rows, data.rows.mT, alpha=-2)
    # what only rounding tells apart is the same point
    return distances.masked_fill_(distances <= data.tie[:, None], 0.0)


def _plus_plus(data: _Points, k: int, draws: Draws) -> Tensor:
    """Greedy k-means++, the body of `start_points`: `(G, K)` positions of points, -1 for none."""
    device, (groups, count) = data.rows.device, data.squares.shape
    start = torch.full((groups, k), -1, dtype=torch.int64, device=device)
    if start.numel() == 0 or count == 0:
        return start
    uniform = draws.first.to(device, data.wide)  # (G,)
    trials = draws.trials.to(device, data.wide)  # (G, K - 1, T)
    # Small groups: all distances in one product cost less than many thin products.
    table = _squared_distances(data, None) if count <= 2 * trials.shape[1:].numel() else None

    present = data.present.sum(1, keepdim=True)
    rank = (uniform[:, None] * present).long().clamp_max(present - 1)
    first = torch.searchsorted(data.present.cumsum(1), rank + 1)
    first.clamp_max_(count - 1)
    start[:, :1] = first.where(present > 0, -1)
    to_first = _squared_distances(data, first) if table is None else table[data.group, first]
    closest = to_first[:, 0].masked_fill_(~data.present, 0.0)  # (G, N), to the nearest centre
    for number in range(1, k):
        mass = closest.cumsum(-1, dtype=data.wide)
        # right: a point without mass, such as an absent one, is never drawn
        index = torch.searchsorted(mass, trials[:, number - 1] * mass[:, -1:], right=True)
        index.clamp_max_(count - 1)  # (G, T), the candidates
        to_all = _squared_distances(data, index) if table is None else table[data.group, index]
        remaining = torch.minimum(to_all, closest[:, None])  # (G, T, N)
        sums = remaining.sum(-1, dtype=data.wide)
        # Either of two neighbours leaves the same sum: rounding is not to choose between them, for
        # it differs between one process and several.
        tied = sums <= sums.amin(-1, keepdim=True) + data.tie
        best = tied.byte().argmax(-1, keepdim=True)
        start[:, number : number + 1] = index.gather(1, best).where(mass[:, -1:] > 0, -1)
        closest = remaining.gather(1, best[:, :, None].expand(-1, -1, count))[:, 0]
    return start


def _lloyd(data: _Points, centres: Tensor, used: Tensor, max_passes: int) -> Clusters:
    """Lloyd's passes about the mean; `used` `(G, K)` tells which centres may be nearest."""
    (groups, count), k = data.squares.shape, centres.shape[1]
    device = data.rows.device
    result = Clusters(
        labels=torch.full((groups, count), -1, dtype=torch.int64, device=device),
        centres=centres + data.mean,
        inertia=torch.zeros(groups, dtype=data.wide, device=device),
        passes=torch.zeros(groups, dtype=torch.int64, device=device),
    )
    # groups that are finished leave: the tensors below are those of the open ones
    open_groups = torch.arange(groups if count else 0, device=device)
    rows, squares, present, tie = data.rows, data.squares, data.present, data.tie
    labels_before = torch.full_like(result.labels, -2)
    inertia_before = torch.full_like(result.inertia, -1.0)
    scores: Tensor | None = None
    stale: Tensor | None = None
    for number in range(1, max_passes + 1):
        if not len(open_groups):
            break
        scores = _scores(rows, centres, used, scores, stale)  # (G, N, K)
        lowest, labels = scores.min(-1)
        distances = (lowest + squares).clamp_min_(0.0).masked_fill_(~present, 0.0)  # (G, N)
        labels = labels.masked_fill_(~present, k)
        labels, distances, sizes = _fill_empty(labels, distances, tie, k)
        sums = _cluster_sums(rows, labels, sizes)  # (G, K, D)
        centres_before, used_before = centres, used
        used = sizes[:, :k] > 0
        means = sums.div_(sizes[:, :k, None].clamp_min(1))
        centres = torch.where(used[:, :, None], means, centres)
        if groups == 1:  # late passes move few centres: the scores of the others still hold
            moved = (centres != centres_before).any(-1) | (used != used_before)
            stale = moved[0].nonzero().flatten()
        inertia = distances.sum(-1, dtype=data.wide)
        repeats = inertia == inertia_before
        # the same labels make the same centres: the next pass would repeat the inertia
        settled = (labels == labels_before).all(-1)
        done = repeats | settled | (number == max_passes)
        labels_before, inertia_before = labels, inertia
        if bool(done.any()):
            at = open_groups[done]
            result.labels[at] = labels[done].masked_fill_(~present[done], -1)
            result.centres[at] = centres[done] + data.mean[at]
            result.inertia[at] = inertia[done]
            foreseen = settled[done] & ~repeats[done] & (number < max_passes)
            result.passes[at] = number + foreseen.long()
            going = ~done
            open_groups, rows, squares, present, tie = (
                tensor[going] for tensor in (open_groups, rows, squares, present, tie)
            )
            centres, used = centres[going], used[going]
            labels_before, inertia_before = labels_before[going], inertia_before[going]
    return result


def _scores(
    rows: Tensor, centres: Tensor, used: Tensor, before: Tensor | None, stale: Tensor | None
) -> Tensor:
    """Squared distances `(G, N, K)` less the points' squares; only of `stale` centres, if given."""
    norms = torch.linalg.vector_norm(centres, dim=-1).square_()
    norms = norms.masked_fill_(~used, math.inf)[:, None]  # (G, 1, K)
    # beyond half of the centres one whole product is quicker than a part and its copy
    if before is None or stale is None or 2 * len(stale) > centres.shape[1]:
        return torch.baddbmm(norms, rows, centres.mT, alpha=-2)
    renewed = torch.baddbmm(norms[:, :, stale], rows, centres[:, stale].mT, alpha=-2)
    return before.index_copy_(2, stale, renewed)


def _fill_empty(
    labels: Tensor, distances: Tensor, tie: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each empty cluster a far point of its own; labels, distances, sizes `(G, K + 1)`.

    The last size counts the absent points.
    """
    bags = labels + torch.arange(len(labels), device=labels.device)[:, None] * (k + 1)
    sizes = torch.bincount(bags.flatten(), minlength=len(labels) * (k + 1)).view(-1, k + 1)
    empty = sizes[:, :k] == 0
    if not bool(empty.any()):
        return labels, distances, sizes
    farthest = distances.sort(dim=-1, descending=True, stable=True)
    turn = empty.cumsum(-1) - 1  # the first empty cluster takes the farthest point, and so on
    reach = turn.clamp(0, labels.shape[1] - 1)
    able = empty & (turn < labels.shape[1]) & (farthest.values.gather(1, reach) > tie)
    group, cluster = able.nonzero(as_tuple=True)
    point = farthest.indices.gather(1, reach)[group, cluster]
    # several may leave one cluster, each goes to a cluster of its own
    one = torch.ones_like(point)
    sizes.index_put_((group, labels[group, point]), -one, accumulate=True)
    sizes[group, cluster] = one
    labels[group, point] = cluster
    distances[group, point] = 0.0
    return labels, distances, sizes


def _cluster_sums(rows: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """The sum of each cluster's rows `(G, K, D)`, added in the rows' order on every device."""
    groups, count, width = rows.shape
    bags = labels + torch.arange(groups, device=labels.device)[:, None] * sizes.shape[1]
    order = bags.flatten().argsort(stable=True)
    flat = sizes.flatten()
    begins = flat.cumsum(0) - flat
    sums = embedding_bag(order, rows.reshape(groups * count, width), begins, mode="sum")
    return sums.view(groups, -1, width)[:, :-1]
