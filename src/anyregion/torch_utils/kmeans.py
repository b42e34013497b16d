"""k-means of several groups of points at once, on any device, without gradients.

A group is what is clustered together: the segments of one image (scope image), or those of a whole
batch (scope batch, one group). Groups do not know of each other: one that is finished leaves the
computation. The start is greedy k-means++ with scikit-learn's rules; a pass is one matrix product
and a sum of rows.

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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from anyregion.errors import InputError
from anyregion.torch_utils.deterministic import exact

_SAME_POINT = 4e-6  # share of the largest squared norm: some tens of float32 roundings


@dataclass(frozen=True, eq=False)
class Clusters:
    """What k-means found in G groups of N points of D numbers.

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

    def to(self, device: torch.device) -> Draws:
        """The same numbers, in the widest type of `device`."""
        wide = _wide(device)
        return Draws(first=self.first.to(device, wide), trials=self.trials.to(device, wide))


@dataclass(frozen=True, eq=False)
class _Points:
    """Points about their group's mean, which keeps float32 products precise; absent ones are 0."""

    rows: Tensor  # (G, N, D)
    squares: Tensor  # (G, N)
    present: Tensor  # (G, N)
    mean: Tensor  # (G, 1, D)
    same: Tensor  # (G, 1) squared distance up to which two points are one


def draw(generators: Sequence[np.random.Generator], k: int) -> Draws:
    """The numbers of a start with `k` clusters, one generator a group: on the CPU, the same on all.

    Candidates for a centre: `2 + int(ln k)`, scikit-learn's rule.
    """
    trials = 2 + int(math.log(k))
    numbers = np.stack([generator.random(1 + (k - 1) * trials) for generator in generators])
    drawn = torch.from_numpy(numbers)
    return Draws(first=drawn[:, 0], trials=drawn[:, 1:].reshape(len(drawn), k - 1, trials))


def start_points(points: Tensor, k: int, *, draws: Draws, present: Tensor | None = None) -> Tensor:
    """Greedy k-means++: which points start, `(G, K)` int64, -1 where distinct points ran out.

    The first is uniform over the present points. Each further one is the candidate, drawn in
    proportion to the squared distance from the nearest centre so far, that leaves the lowest sum,
    the first drawn where sums are alike but for rounding.

    Args:
        points: `(G, N, D)`.
        k: the number of clusters.
        draws: the random numbers, of G groups and `k` clusters.
        present: `(G, N)` bool, all by default.

    Raises:
        InputError: shapes do not fit, or present points are not finite (says of which groups).
    """
    _check(points, k, present=present, start=None, draws=draws)
    with exact(points.device):
        return _choose(_about_mean(points, present), k, draws)


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
        data = _about_mean(points, present)
        if start is not None and draws is None:
            centres = start.to(data.rows) - data.mean
            if not bool(centres.isfinite().all()):
                raise InputError("NaN, infinite or too large numbers among the start centres")
            used = torch.ones(centres.shape[:2], dtype=torch.bool, device=points.device)
        elif draws is not None and start is None:
            chosen = _choose(data, k, draws)
            centres, used = _rows_at(data.rows, chosen.clamp_min(0)), chosen >= 0
        else:
            raise InputError("k-means needs either start centres or draws for k-means++")
        return _passes(data, centres, used, max_passes)


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


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _about_mean(points: Tensor, present: Tensor | None) -> _Points:
    rows = points.float()
    if present is None:
        given = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        mean = rows.sum(1, keepdim=True) / max(rows.shape[1], 1)
        rows = rows - mean
    else:
        given = present.to(rows.device)
        absent = ~given[..., None]
        rows = rows.masked_fill(absent, 0.0)  # an absent row may hold NaN
        mean = rows.sum(1, keepdim=True) / given.sum(1).clamp_min(1)[:, None, None]
        rows = (rows - mean).masked_fill_(absent, 0.0)
    squares = _squares(rows)
    broken = ~squares.isfinite().all(-1)
    if bool(broken.any()):
        groups = broken.nonzero().flatten().tolist()
        named = ", ".join(map(str, groups[:8])) + (", ..." if len(groups) > 8 else "")
        raise InputError(f"NaN, infinite or too large numbers among the points of group {named}")
    largest = pad(squares, [0, 1]).amax(-1, keepdim=True)  # 0 for a group of no points
    return _Points(rows, squares, given, mean, largest * _SAME_POINT)


def _squares(rows: Tensor) -> Tensor:
    # unlike rows.square(), this writes nothing of the rows' size
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms.square_()


def _rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """`(G, N, D)` at `(G, T)` -> `(G, T, D)`."""
    groups, count, width = rows.shape
    if count == 0:
        return rows.new_zeros(*index.shape, width)
    flat = index + torch.arange(groups, device=rows.device)[:, None] * count
    return rows.reshape(-1, width)[flat.flatten()].view(*index.shape, width)


def _apart(data: _Points, index: Tensor | None) -> Tensor:
    """Squared distances of the points at `(G, T)`, or of all, to all: `(G, T, N)`."""
    chosen, squares = data.rows, data.squares
    if index is not None:
        chosen, squares = _rows_at(chosen, index), squares.gather(1, index)
    both = squares[:, :, None] + data.squares[:, None]
    found = torch.baddbmm(both, chosen, data.rows.mT, alpha=-2)
    # what only rounding tells apart is the same point
    return found.masked_fill_(found <= data.same[:, None], 0.0)


def _choose(data: _Points, k: int, draws: Draws) -> Tensor:
    """The body of `start_points`."""
    device, wide = data.rows.device, _wide(data.rows.device)
    groups, count = data.squares.shape
    chosen = torch.full((groups, k), -1, dtype=torch.int64, device=device)
    if chosen.numel() == 0 or count == 0:
        return chosen
    draws = draws.to(device)
    # Small groups: all distances in one product cost less than many thin products.
    every = _apart(data, None) if count <= 2 * draws.trials.shape[1:].numel() else None

    def distances(index: Tensor) -> Tensor:
        return _apart(data, index) if every is None else _rows_at(every, index)

    present = data.present.sum(1, keepdim=True)
    rank = (draws.first[:, None] * present).long().clamp_max(present - 1)
    begin = torch.searchsorted(data.present.cumsum(1), rank + 1)
    begin.clamp_max_(count - 1)
    chosen[:, :1] = begin.where(present > 0, -1)
    closest = distances(begin)[:, 0].masked_fill_(~data.present, 0.0)
    for place in range(1, k):
        mass = closest.cumsum(-1, dtype=wide)
        # right: a point without mass, such as an absent one, is never drawn
        index = torch.searchsorted(mass, draws.trials[:, place - 1] * mass[:, -1:], right=True)
        index.clamp_max_(count - 1)
        left = torch.minimum(distances(index), closest[:, None])
        sums = left.sum(-1, dtype=wide)
        # Either of two neighbours leaves the same sum: rounding is not to choose between them, for
        # it differs between one process and several.
        tied = sums <= sums.amin(-1, keepdim=True) + data.same
        best = tied.byte().argmax(-1, keepdim=True)
        chosen[:, place : place + 1] = index.gather(1, best).where(mass[:, -1:] > 0, -1)
        closest = left.gather(1, best[:, :, None].expand(-1, -1, count))[:, 0]
    return chosen


def _passes(data: _Points, centres: Tensor, used: Tensor, max_passes: int) -> Clusters:
    """Lloyd's passes about the mean; `used` `(G, K)` tells which centres may be nearest."""
    (groups, count), k = data.squares.shape, centres.shape[1]
    wide, device = _wide(data.rows.device), data.rows.device
    found = Clusters(
        labels=torch.full((groups, count), -1, dtype=torch.int64, device=device),
        centres=centres + data.mean,
        inertia=torch.zeros(groups, dtype=wide, device=device),
        passes=torch.zeros(groups, dtype=torch.int64, device=device),
    )
    open_groups = torch.arange(groups if count else 0, device=device)
    rows, squares, present, same = data.rows, data.squares, data.present, data.same
    labels_before = torch.full_like(found.labels, -2)
    inertia_before = torch.full_like(found.inertia, -1.0)
    scores: Tensor | None = None
    stale: Tensor | None = None
    for number in range(1, max_passes + 1):
        if not len(open_groups):
            break
        scores = _scores(rows, centres, used, scores, stale)
        labels, away = _nearest(scores, squares, present)
        labels, away, sizes = _fill_empty(labels, away, same, k)
        sums = _sums(rows, labels, sizes)
        centres_before, used_before = centres, used
        used = sizes[:, :k] > 0
        means = sums.div_(sizes[:, :k, None].clamp_min(1))
        centres = torch.where(used[:, :, None], means, centres)
        if groups == 1:  # late passes move few centres: the scores of the others still hold
            moved = (centres != centres_before).any(-1) | (used != used_before)
            stale = moved[0].nonzero().flatten()
        inertia = away.sum(-1, dtype=wide)
        repeats = inertia == inertia_before
        # the same labels make the same centres: the next pass would repeat the inertia
        settled = (labels == labels_before).all(-1)
        done = repeats | settled | (number == max_passes)
        labels_before, inertia_before = labels, inertia
        if bool(done.any()):
            at = open_groups[done]
            found.labels[at] = labels[done].masked_fill_(~present[done], -1)
            found.centres[at] = centres[done] + data.mean[at]
            found.inertia[at] = inertia[done]
            foreseen = settled[done] & ~repeats[done] & (number < max_passes)
            found.passes[at] = number + foreseen.long()
            on = ~done
            open_groups, rows, squares, present, same = (
                held[on] for held in (open_groups, rows, squares, present, same)
            )
            centres, used = centres[on], used[on]
            labels_before, inertia_before = labels_before[on], inertia_before[on]
    return found


def _scores(
    rows: Tensor, centres: Tensor, used: Tensor, before: Tensor | None, stale: Tensor | None
) -> Tensor:
    """Squared distances `(G, N, K)` less the points' squares; `stale` centres alone, if told."""
    norms = _squares(centres).masked_fill_(~used, math.inf)[:, None]
    if before is None or stale is None or 2 * len(stale) > centres.shape[1]:
        return torch.baddbmm(norms, rows, centres.mT, alpha=-2)
    renewed = torch.baddbmm(norms[:, :, stale], rows, centres[:, stale].mT, alpha=-2)
    return before.index_copy_(2, stale, renewed)


def _nearest(scores: Tensor, squares: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Labels `(G, N)`, K where absent, and squared distances, 0 where absent."""
    lowest, labels = scores.min(-1)
    away = (lowest + squares).clamp_min_(0.0).masked_fill_(~present, 0.0)
    return labels.masked_fill_(~present, scores.shape[2]), away


def _fill_empty(
    labels: Tensor, away: Tensor, same: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each empty cluster a far point of its own; labels, distances, sizes `(G, K + 1)`."""
    sizes = _sizes(labels, k)
    empty = sizes[:, :k] == 0
    if not bool(empty.any()):
        return labels, away, sizes
    farthest = away.sort(dim=-1, descending=True, stable=True)
    turn = empty.cumsum(-1) - 1  # the first empty cluster takes the farthest point, and so on
    reach = turn.clamp(0, labels.shape[1] - 1)
    able = empty & (turn < labels.shape[1]) & (farthest.values.gather(1, reach) > same)
    group, cluster = able.nonzero(as_tuple=True)
    point = farthest.indices.gather(1, reach)[group, cluster]
    labels[group, point] = cluster
    away[group, point] = 0.0
    return labels, away, _sizes(labels, k)


def _sizes(labels: Tensor, k: int) -> Tensor:
    bags = labels + torch.arange(len(labels), device=labels.device)[:, None] * (k + 1)
    return torch.bincount(bags.flatten(), minlength=len(labels) * (k + 1)).view(-1, k + 1)


def _sums(rows: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """The sum of each cluster's rows `(G, K, D)`, added in the rows' order on every device."""
    groups, count, width = rows.shape
    bags = labels + torch.arange(groups, device=labels.device)[:, None] * sizes.shape[1]
    order = bags.flatten().argsort(stable=True)
    flat = sizes.flatten()
    begins = flat.cumsum(0) - flat
    sums = embedding_bag(order, rows.reshape(groups * count, width), begins, mode="sum")
    return sums.view(groups, -1, width)[:, :-1]
