"""Exact averages of grid cells over boxes and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.regions import Regions

Weights = NDArray[np.float32]


def pool(dense: DenseMap, regions: Regions) -> NDArray[np.float32]:
    """Average the cells of each region, `(N, F)`: in its mask where it has one, else in its box.

    A cell counts by the share of the region's area that lies in it, so small boxes and boxes
    between cells lose nothing to rounding.
    """
    height, width, channels = dense.features.shape
    weights = cell_weights(regions, (height, width), dense.span)
    pooled: NDArray[np.float32] = weights @ dense.features.reshape(height * width, channels)
    return pooled


def cell_weights(regions: Regions, grid: tuple[int, int], span: tuple[float, float]) -> Weights:
    """The share of each region that lies in each cell, `(N, h * w)`, rows adding up to 1.

    Args:
        regions: regions of an image; one without box or mask takes part by `Regions.extents`.
        grid: `(h, w)` cells.
        span: `(height, width)` in pixels that the grid covers.
    """
    (height, width), (down, across) = grid, span
    boxes = regions.extents()
    rows = _overlaps(boxes[:, 1], boxes[:, 3], down / height, height)
    columns = _overlaps(boxes[:, 0], boxes[:, 2], across / width, width)
    weights = rows[:, :, None] * columns[:, None, :]
    for i in range(len(regions)):
        mask = regions.mask(i)
        if mask is not None:
            y, x = np.arange(mask.shape[0]), np.arange(mask.shape[1])
            in_row = _overlaps(y, y + 1, down / height, height)
            in_column = _overlaps(x, x + 1, across / width, width)
            weights[i] = in_row.T @ mask @ in_column
    flat = weights.reshape(len(regions), height * width)
    total = flat.sum(axis=1, keepdims=True)
    # a region beyond the grid's last cell (rounding of the span) has no cell: its nearest one then
    for i in np.flatnonzero(total[:, 0] <= 0).tolist():
        x, y = boxes[i, :2] + boxes[i, 2:]
        row = min(max(int(y / 2 / down * height), 0), height - 1)
        column = min(max(int(x / 2 / across * width), 0), width - 1)
        flat[i, row * width + column] = total[i, 0] = 1.0
    shares: Weights = (flat / total).astype(np.float32)
    return shares


def _overlaps(
    low: NDArray[np.generic], high: NDArray[np.generic], cell: float, count: int
) -> NDArray[np.float64]:
    """Length of each interval `[low, high]` within each of `count` cells, `(N, count)`."""
    edges = np.arange(count + 1) * cell
    stop = np.minimum(np.asarray(high, dtype=np.float64)[:, None], edges[1:])
    start = np.maximum(np.asarray(low, dtype=np.float64)[:, None], edges[:-1])
    lengths: NDArray[np.float64] = np.clip(stop - start, 0, None)
    return lengths
