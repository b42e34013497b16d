"""Collective operations over all processes; with one process they return their input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import pad


def summed(values: Tensor) -> Tensor:
    """Each number's sum over all processes, in the same shape. Without gradients."""
    if dist.is_available() and dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def gather_points(points: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor | None, slice]:
    """Every process's points beside each other, so that all cluster the same group.

    With the same draws each process then finds the same clusters, and keeps `labels[:, local]`.

    Args:
        points: `(G, n, D)`, G and D equal in all processes; n may differ.
        present: `(G, n)` bool, or None in all processes.

    Returns:
        All points `(G, N, D)` in the order of the ranks, their `present` (or None), and the
        slice of N that is this process's.
    """
    count = points.shape[1]
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return points, present, slice(0, count)
    world, rank = dist.get_world_size(), dist.get_rank()
    counts = [torch.zeros(1, dtype=torch.int64, device=points.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([count], device=points.device))
    sizes = [int(count) for count in counts]

    def all_gather(local: Tensor) -> Tensor:
        # along dim 1, padded to the longest: dist.all_gather takes equal sizes only
        padding = [0, 0] * (local.dim() - 2) + [0, max(sizes) - count]
        padded = pad(local, padding).contiguous()
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:, :n] for part, n in zip(parts, sizes, strict=True)], dim=1)

    begin = sum(sizes[:rank])
    all_present = None if present is None else all_gather(present.to(torch.uint8)).bool()
    return all_gather(points.detach()), all_present, slice(begin, begin + count)
