"""Region refinement: superpixels with similar features are clustered into regions (section 3.2).

Also what it is made of: segments as masks on a coarser grid, and features averaged under masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyregion.r2o.collectives import gather_points
from anyregion.torch_utils.kmeans import draw, kmeans

Scope: TypeAlias = Literal["batch", "image"]


@dataclass(frozen=True, eq=False)
class RegionMasks:
    """The regions of a batch.

    Attributes:
        masks: `(B, K, H, W)`; region `k` of each image. With scope `batch`, region `k` is the same
            cluster in all images. One-hot, but for the published soft ones.
        cluster_ids: `(B, N)` cluster of each segment, -1 where an image has no such segment; None
            where the segments themselves are the regions.
    """

    masks: Tensor
    cluster_ids: Tensor | None = None


def segment_features(features: Tensor, labels: Tensor, *, published: bool = False) -> Tensor:
    """The mean feature of each segment, at length 1.

    Args:
        features: `(B, C, h, w)` of the whole images.
        labels: `(B, H, W)` ids of segments, from 0.
        published: look at four pixels a cell only, as bilinear resizing does.

    Returns:
        `(B, N, C)`, float32; zeros where an image has no such segment.
    """
    shares = soft_masks if published else cell_shares
    # (B, N, h, w): the features' own grid, so that no feature is interpolated
    masks = shares(labels, count_segments(labels), (features.shape[2], features.shape[3]))
    return F.normalize(mask_pool(features.float().flatten(2), masks.flatten(2)), dim=-1)


def cluster_segments(
    features: Tensor,
    clusters: int,
    generators: Sequence[np.random.Generator],
    *,
    scope: Scope = "batch",
    absent_too: bool = False,
) -> Tensor:
    """k-means over segments.

    Args:
        features: `(B, N, C)` at length 1; zeros where an image has no such segment.
        clusters: how many. More than there are segments: every segment is its own.
        generators: what the start is drawn from: one for scope `batch`, one an image for `image`.
        scope: `batch`, over all segments of all images, those of the other processes too;
            `image`, over each image's own.
        absent_too: let zero rows take part, as published.

    Returns:
        `(B, N)` ids, 0 to `clusters` - 1; -1 where there is no segment.
    """
    images, segments, width = features.shape
    present = None if absent_too else features.square().sum(dim=-1) > 0
    if scope == "image":
        draws = draw(generators, clusters)
        return kmeans(features, clusters, present=present, draws=draws).labels
    rows = features.reshape(1, images * segments, width)  # (1, B * N, C): one group
    present = None if present is None else present.reshape(1, -1)
    # every process clusters the points of all, so that cluster k means the same everywhere
    points, all_present, local = gather_points(rows, present)
    draws = draw(generators, clusters)
    labels = kmeans(points, clusters, present=all_present, draws=draws).labels  # (1, all points)
    return labels[0, local].reshape(images, segments)


def region_masks(labels: Tensor, cluster_ids: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Each pixel takes the cluster of the segment that covers most of it.

    Segments `(B, H, W)` and their clusters `(B, N)`, -1 for none, to `(B, count, h, w)` one-hot.
    """
    winner = cell_shares(labels, cluster_ids.shape[1], size).argmax(dim=1)  # (B, h, w) segments
    ids = cluster_ids.gather(1, winner.flatten(1)).view_as(winner)  # (B, h, w) clusters
    return (ids[:, None] == torch.arange(count, device=ids.device)[:, None, None]).float()


def published_map(labels: Tensor, cluster_ids: Tensor, size: tuple[int, int]) -> Tensor:
    """The published label map: soft masks times cluster ids, truncated; `(B, h, w)` ids.

    `labels` are `(B, H, W)`, `cluster_ids` `(B, N)`. Only for comparison with published numbers.
    """
    masks = soft_masks(labels, cluster_ids.shape[1], size)  # (B, N, h, w)
    # the truncation is the published fault: where segments meet, 0.5 * 3 + 0.5 * 8 is in neither
    # cluster (2 % of the pixels at 6 clusters, 12 % at 128)
    mixed = (masks * cluster_ids[:, :, None, None].to(masks.dtype)).sum(dim=1)
    return mixed.long()


def refine(
    features: Tensor,
    labels: Tensor,
    clusters: int | None,
    generators: Sequence[np.random.Generator],
    size: tuple[int, int],
    *,
    scope: Scope = "batch",
    published: bool = False,
) -> RegionMasks:
    """The regions that the curriculum asks for (paper section 3.2).

    Args:
        features: `(B, C, h, w)` of the whole images, by the target network; not read if `clusters`
            is None.
        labels: `(B, H, W)` ids of superpixels.
        clusters: how many regions; None for the superpixels themselves.
        generators, scope: see `cluster_segments`.
        size: rows and columns of the masks.
        published: zero rows take part, maps are mixed and truncated, segments stay soft.
    """
    if clusters is None:
        segments = count_segments(labels)
        if published:
            return RegionMasks(soft_masks(labels, segments, size))
        own = torch.arange(segments, device=labels.device).expand(len(labels), -1)  # (B, N)
        return RegionMasks(region_masks(labels, own, segments, size))
    pooled = segment_features(features, labels, published=published)  # (B, N, C)
    ids = cluster_segments(pooled, clusters, generators, scope=scope, absent_too=published)
    if published:
        mixed = F.one_hot(published_map(labels, ids, size), clusters)  # (B, h, w, K)
        return RegionMasks(mixed.permute(0, 3, 1, 2).float().contiguous(), ids)
    return RegionMasks(region_masks(labels, ids, clusters, size), ids)


def count_segments(labels: Tensor) -> int:
    """One more than the largest id of `labels`: room for the segments of every image."""
    return int(labels.max()) + 1


def cell_shares(labels: Tensor, segments: int, size: tuple[int, int]) -> Tensor:
    """How much of each cell of a coarser grid each segment covers, counted pixel by pixel.

    Labels `(B, H, W)`, 0 to `segments` - 1, to `(B, segments, h, w)`: shares that sum to 1 in
    every cell. No segment gets lost, however small.
    """
    images, height, width = labels.shape
    rows, columns = size
    device = labels.device
    # the cell of every pixel, (H, W)
    row = torch.arange(height, device=device) * rows // height
    column = torch.arange(width, device=device) * columns // width
    cell = row[:, None] * columns + column
    cells = rows * columns
    image = torch.arange(images, device=device)[:, None, None]
    # one histogram over (image, segment, cell): no one-hot maps of (B, N, H, W)
    place = (image * segments + labels) * cells + cell  # (B, H, W)
    counts = torch.zeros(images * segments * cells, device=device)
    counts.index_add_(0, place.flatten(), torch.ones(1, device=device).expand(place.numel()))
    pixels = torch.bincount(cell.flatten(), minlength=cells).clamp(min=1)
    return counts.view(images, segments, cells).div(pixels).view(images, segments, rows, columns)


def soft_masks(labels: Tensor, segments: int, size: tuple[int, int]) -> Tensor:
    """One-hot maps of the segments, resized bilinearly without antialiasing, as published.

    Equal to `F.interpolate(one_hot, size, mode="bilinear")`, without the one-hot maps. It looks at
    four pixels a cell: a segment that lies between them is lost (`cell_shares` loses none).
    Labels `(B, H, W)` to `(B, segments, h, w)`, 0 to 1.
    """
    images, height, width = labels.shape
    rows, columns = size
    masks = torch.zeros(images, segments, rows, columns, device=labels.device)
    for row, row_share in _taps(height, rows, labels.device):
        for column, column_share in _taps(width, columns, labels.device):
            ids = labels[:, row][:, :, column].unsqueeze(1)  # (B, 1, h, w)
            share = (row_share[:, None] * column_share).expand_as(ids)
            masks.scatter_add_(1, ids, share)
    return masks


def _taps(pixels: int, cells: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """The two pixels that bilinear resizing reads for each cell, and the weight of each."""
    centre = ((torch.arange(cells, device=device) + 0.5) * (pixels / cells) - 0.5).clamp(min=0)
    low = centre.long().clamp(max=pixels - 1)
    share = (centre - low).float()
    return (low, 1 - share), ((low + 1).clamp(max=pixels - 1), share)


def mask_pool(features: Tensor, masks: Tensor) -> Tensor:
    """The mean feature under each mask: `(B, C, P)` and masks `(B, N, P)` from 0 to `(B, N, C)`."""
    # at least 1 cell is divided by (published): a mask of less area gives a shorter vector in the
    # same direction, one without area gives zeros
    sums = torch.bmm(masks, features.transpose(1, 2).to(masks.dtype))  # (B, N, C)
    return sums / masks.sum(dim=2, keepdim=True).clamp(min=1.0)
