"""Exact means of grid cells over boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.masks import RLE, decode_mask
from anyregion.regions import Boxes

# Box means come from a summed-area table from so many boxes and cells on; else one axis after the
# other is sooner. Measured with `benchmarks/compact_speed.py --pooling` on one core: at 1,000 boxes
# the table takes half of the time on 60 x 80 cells and three quarters on 30 x 40; at 256 boxes, and
# on 15 x 20 and 24 x 24 cells, it does not pay.
SUMMED_BOXES, SUMMED_CELLS = 512, 1000

# A box that covers less of the grid than this, in cells, has no summed-area mean: the difference
# of two sums of thousands of cells, divided by so little, is off by more than 1e-6.
SMALLEST_SUMMED = 1e-2


@dataclass(frozen=True, eq=False)
class DecodedMasks(Sequence[NDArray[np.bool_] | None]):
    """Masks `(height, width)` of regions, each decoded when it is read: together they are large."""

    codes: Sequence[RLE | None]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: Any) -> Any:
        code = self.codes[row]
        return None if code is None else decode_mask(code)


def pool(
    dense: DenseMap, boxes: Boxes, masks: Sequence[NDArray[np.bool_] | None] | None = None
) -> NDArray[np.float32]:
    """Average the cells of each region, `(N, F)`: in its mask where it has one, else in its box.

    A cell counts by the share of the region's area that lies in it, so small boxes and boxes
    between cells lose nothing to rounding.

    Args:
        dense: features `(h, w, F)` and the pixels that they cover.
        boxes: `(N, 4)` xyxy in pixels of the image.
        masks: per region `(height, width)` at the image's size, or None; None for boxes alone.
    """
    height, width, channels = dense.features.shape
    masked: list[int] = []
    shares: list[NDArray[np.float32]] = []
    for i, mask in enumerate(masks or ()):
        if mask is not None:
            masked.append(i)
            shares.append(_mask_shares(dense, boxes[i], mask).ravel())
    if len(masked) == len(boxes):
        pooled = np.zeros((len(boxes), channels), dtype=np.float32)
    else:
        pooled = _pool_boxes(dense, boxes)
    if masked:
        pooled[masked] = np.stack(shares) @ dense.features.reshape(height * width, channels)
    return pooled


def _pool_boxes(dense: DenseMap, boxes: Boxes) -> NDArray[np.float32]:
    height, width = dense.features.shape[:2]
    if len(boxes) >= SUMMED_BOXES and height * width >= SUMMED_CELLS:
        return _pool_summed(dense, boxes)
    # (N, h) and (N, w): a cell's share of the box is the product of those along both axes
    rows = _overlaps(boxes[:, 1], boxes[:, 3], dense.span[0] / height, height)
    columns = _overlaps(boxes[:, 0], boxes[:, 2], dense.span[1] / width, width)
    for i in np.flatnonzero((rows.sum(axis=1) <= 0) | (columns.sum(axis=1) <= 0)).tolist():
        row, column = _nearest_cell(dense, boxes[i])
        rows[i], columns[i] = np.arange(height) == row, np.arange(width) == column
    rows, columns = (
        (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
        for overlap in (rows, columns)
    )
    lines = columns @ dense.features  # (h, N, F)
    pooled: NDArray[np.float32] = np.einsum("nh,hnf->nf", rows, lines)
    return pooled


def _mask_shares(
    dense: DenseMap, box: NDArray[np.float64], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The share of a mask's area that lies in each cell, `(h, w)`."""
    height, width = dense.features.shape[:2]
    # only where it has pixels: the product over a large photo costs a tenth of a second
    y, x = (_filled(mask.any(axis=axis)) for axis in (1, 0))
    in_row = _overlaps(y, y + 1, dense.span[0] / height, height)  # (H, h)
    in_column = _overlaps(x, x + 1, dense.span[1] / width, width)  # (W, w)
    areas = in_row.T @ mask[np.ix_(y, x)] @ in_column  # (h, w)
    if areas.sum() <= 0:
        areas[_nearest_cell(dense, box)] = 1.0
    shares: NDArray[np.float32] = (areas / areas.sum()).astype(np.float32)
    return shares


def _nearest_cell(dense: DenseMap, box: NDArray[np.float64]) -> tuple[int, int]:
    """Row and column for a region beyond the grid's last cell (rounding of the span)."""
    height, width = dense.features.shape[:2]
    x, y = box[:2] + box[2:]
    row = min(max(int(y / 2 / dense.span[0] * height), 0), height - 1)
    column = min(max(int(x / 2 / dense.span[1] * width), 0), width - 1)
    return row, column


def _pool_summed(dense: DenseMap, boxes: Boxes) -> NDArray[np.float32]:
    """Box means from a summed-area table (Crow 1984): 16 of its entries a box, of any size.

    Features are constant within a cell, so their integral is bilinear between the table's entries:
    the mean is as exact as that of `pool`.
    """
    height, width, channels = dense.features.shape
    limits = np.array([width, height] * 2)
    corners = np.clip(boxes * limits / np.tile(dense.span[::-1], 2), 0, limits)  # (N, 4) in cells
    area = (corners[:, 2:] - corners[:, :2]).prod(axis=1)  # (N,)
    # float64: sums over thousands of cells are subtracted from each other
    table = np.zeros((height + 1, width + 1, channels))
    np.cumsum(dense.features, axis=0, dtype=np.float64, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    table = table.reshape(-1, channels)
    cell = np.minimum(np.floor(corners).astype(np.int64), limits - 1)  # (N, 4)
    # Along an axis the integral from side to side is that up to the far side less that up to the
    # near one, each of them a mean of the two entries around it: four entries, with signs.
    part = corners - cell
    at = np.stack([cell, cell + 1], axis=2)  # (N, 4, 2)
    weight = np.stack([1 - part, part], axis=2) * np.array([-1, -1, 1, 1])[:, None]  # (N, 4, 2)
    integral = np.zeros((len(boxes), channels))  # (N, F)
    for side_y, end_y in ((1, 0), (1, 1), (3, 0), (3, 1)):
        for side_x, end_x in ((0, 0), (0, 1), (2, 0), (2, 1)):
            entries = at[:, side_y, end_y] * (width + 1) + at[:, side_x, end_x]
            shares = weight[:, side_y, end_y] * weight[:, side_x, end_x]
            integral += table[entries] * shares[:, None]
    # tiny boxes, and those without a cell, take the plain way: fewer at once than lead here again
    summed = area >= SMALLEST_SUMMED
    pooled = (integral / np.where(summed, area, 1.0)[:, None]).astype(np.float32)
    few = np.flatnonzero(~summed)
    for start in range(0, len(few), SUMMED_BOXES - 1):
        rows = few[start : start + SUMMED_BOXES - 1]
        pooled[rows] = _pool_boxes(dense, boxes[rows])
    return pooled


def _filled(line: Any) -> NDArray[np.int64]:
    """Of `(n,)` booleans, all positions from the first true one to the last."""
    true = np.flatnonzero(line)
    return np.arange(true[0], true[-1] + 1) if len(true) else true


def _overlaps(
    low: NDArray[np.generic], high: NDArray[np.generic], cell: float, count: int
) -> NDArray[np.float64]:
    """Length of each interval `[low, high]` within each of `count` cells, `(N, count)`."""
    edges = np.arange(count + 1) * cell
    stop = np.minimum(np.asarray(high, dtype=np.float64)[:, None], edges[1:])
    start = np.maximum(np.asarray(low, dtype=np.float64)[:, None], edges[:-1])
    lengths: NDArray[np.float64] = np.clip(stop - start, 0, None)
    return lengths
