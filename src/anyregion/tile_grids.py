"""The tiles of large images: fixed grids of them, and which one shows which region.

The tile of a region follows from the region alone: neither its answer nor its cost depends on the
order of the regions, and regions near each other share a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.errors import InputError
from anyregion.images import Pixels, size_of
from anyregion.regions import Boxes

Window: TypeAlias = tuple[int, int, int, int]
"""A part of an image: x0, y0, x1, y1 in pixels."""

# A grid's tiles are so many times as long as those of the next finer grid, and so far apart, as a
# share of their length. Of mosaics of 4 x 4 photographs (smallest tiles of 320 pixels), where these
# name 66.0 % of the regions rightly by 56 images, a factor of 2 names 65.5 % by 54, and a step of
# two thirds 64.7 % by 50.
FACTOR, STEP = 2**0.5, 0.5
# a tile that enlarges its part of the whole image by no more than this is not worth its cost
GAIN = 2**0.5
# An image has nothing to show at a scale whose detail (see `spare_scale`) has less than this of the
# contrast of the next coarser one. Of 144 photographs as they are 2 % have less than 0.62, of
# photographs enlarged twice and more, also with JPEG or noise after it, 2 % have more than 0.57.
SHARP = 0.6
# where that is looked at: so many patches along each side, and their length in pixels
PATCHES, PATCH = 4, 256


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """Which regions are seen in tiles, and in which.

    Attributes:
        limit: most tiles of an image; 0 for none.
        side: length of the smallest tiles, in pixels of the image.
        whole: an image no longer than this is always seen as a whole.
        context: a tile holds so many times the width and height of each of its regions, with the
            region in the middle.

    Raises:
        InputError: a number out of its range.
    """

    limit: int
    side: int
    whole: int
    context: float = 1.5

    def __post_init__(self) -> None:
        if self.limit < 0 or self.side < 1 or self.whole < self.side or self.context < 1:
            raise InputError(
                "tiles: the limit must be at least 0, the side 1, whole the side, and context 1; "
                f"they are {self.limit}, {self.side}, {self.whole} and {self.context}"
            )


def grid_sides(pixels: Pixels, options: TileOptions) -> list[float]:
    """How long the tiles of each grid of an image are, the finest grid first; none if it is small.

    What an enlarged or blurred image lacks in detail its tiles have in length.
    """
    longest = max(size_of(pixels))
    if not options.limit or longest <= options.whole:
        return []
    spare = spare_scale(pixels, longest / options.whole)
    if longest <= spare * options.whole:
        return []
    sides = [float(options.side * spare)]
    while sides[-1] * GAIN <= longest:
        sides.append(sides[-1] * FACTOR)
    return sides[:-1]


def spare_scale(pixels: Pixels, most: float) -> int:
    """By what power of two an image could be shrunk without losing detail, up to about `most`.

    The detail of a scale is what is lost by halving it and enlarging it again. It is looked at in
    some patches all over the image.
    """
    height, width = size_of(pixels)
    levels = max(1, math.ceil(math.log2(most)))
    lost = np.zeros(levels + 1)  # sums of squares
    count = np.zeros(levels + 1)
    # positions of patches, none twice in an image of few pixels
    rows, columns = (
        np.unique(np.linspace(0, max(0, side - PATCH), PATCHES).astype(int)).tolist()
        for side in (height, width)
    )
    for y in rows:
        for x in columns:
            image = Image.fromarray(pixels[y : y + PATCH, x : x + PATCH]).convert("L")
            for level in range(levels + 1):
                half = image.reduce(2)
                back = half.resize(image.size, Image.Resampling.BILINEAR)
                difference = np.asarray(image, np.float32) - np.asarray(back, np.float32)
                lost[level] += float(np.square(difference).sum())
                count[level] += difference.size
                image = half
    contrast = np.sqrt(lost / count)
    # without any contrast nothing is known
    empty = [i for i in range(levels) if contrast[i] < SHARP * contrast[i + 1]]
    return int(2 ** (max(empty) + 1)) if empty else 1


def plan_tiles(
    spans: Boxes,
    size: tuple[int, int],
    sides: Sequence[float],
    options: TileOptions,
    *,
    movable: NDArray[np.bool_],
) -> tuple[list[Window | None], bool]:
    """The tile of each region, or None for the whole image; and whether the limit made them larger.

    Args:
        spans: `(N, 4)` xyxy, all that a tile has to show of each region.
        size: `(height, width)` of the image.
        sides: how long the tiles of each grid are, the finest grid first.
        options: their `limit` and `context`.
        movable: `(N,)`, the regions that may be seen in a tile.
    """
    grids = [nearest_tiles(spans, size, side) for side in sides]
    middle, half = (spans[:, :2] + spans[:, 2:]) / 2, (spans[:, 2:] - spans[:, :2]) / 2
    # (N, 4), as far as there is an image
    around = np.concatenate([middle - half * options.context, middle + half * options.context], 1)
    around = np.clip(around, 0, np.tile(size[::-1], 2))
    # a pixel for the rounding of tiles to whole pixels
    holds = [
        movable
        & (tiles[:, :2] <= around[:, :2] + 1).all(1)
        & (tiles[:, 2:] >= around[:, 2:] - 1).all(1)
        for tiles in grids
    ]
    for lowest in range(len(grids) + 1):
        windows: list[Window | None] = [None] * len(spans)
        # the finest grid last, so that it has the last word
        for tiles, fits in zip(grids[lowest:][::-1], holds[lowest:][::-1], strict=True):
            for i in np.flatnonzero(fits).tolist():
                x0, y0, x1, y1 = tiles[i].tolist()
                windows[i] = (x0, y0, x1, y1)
        if len(set(windows) - {None}) <= options.limit:
            break
    return windows, lowest > 0


def nearest_tiles(spans: Boxes, size: tuple[int, int], side: float) -> NDArray[np.int64]:
    """Of each region the tile of a grid whose middle is nearest to its own, `(N, 4)` xyxy."""
    middles = (spans[:, :2] + spans[:, 2:]) / 2  # (N, 2)
    ends = []
    for axis, length in enumerate(size[::-1]):
        intervals = np.array(_intervals(length, side))  # (n, 2)
        distances = np.abs(intervals.mean(axis=1) - middles[:, axis, None])  # (N, n)
        ends.append(intervals[distances.argmin(axis=1)])  # (N, 2)
    return np.stack([ends[0][:, 0], ends[1][:, 0], ends[0][:, 1], ends[1][:, 1]], axis=1)


def covering_tiles(size: tuple[int, int], sides: Sequence[float], limit: int) -> list[Window]:
    """All tiles of every second grid, beginning with the coarsest, as far as the limit allows."""
    windows: list[Window] = []
    for side in sides[::-2]:
        rows, columns = (_intervals(length, side) for length in size)
        grid = [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]
        if len(windows) + len(grid) > limit:
            break
        windows += grid
    return windows


def _intervals(length: int, side: float) -> list[tuple[int, int]]:
    """Where the tiles of a grid begin and end along one side of an image."""
    if length <= side:
        return [(0, length)]
    count = math.ceil((length - side) / (STEP * side)) + 1
    starts = np.linspace(0, length - side, count)
    return [(round(start), round(start + side)) for start in starts.tolist()]
