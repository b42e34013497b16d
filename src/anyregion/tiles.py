"""Tiles: parts of a large image that are encoded by themselves, for regions too small in the whole.

An encoder sees every image at one size, so that a small region of a large photograph has few pixels
left. `TiledEncoder` and `TiledProposer` stand in front of any `RegionEncoder` and `RegionProposer`
and show them tiles as if each was an image. Tiles lie on fixed grids, and the tile of a region
follows from the region alone: neither its answer nor its cost depends on the order of the regions,
and regions near each other share a tile.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.errors import InputError, InputWarning
from anyregion.images import Pixels, size_of
from anyregion.masks import RLE, decode_mask, encode_crop, encode_mask, mask_box
from anyregion.proposals import RegionProposer, nms
from anyregion.region_encoder import RegionEmbeddings, RegionEncoder
from anyregion.regions import Boxes, Regions
from anyregion.scoring import AnswerModel, Score
from anyregion.vocabulary import TextEncoder

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
# tiles whose features are kept while an image is asked about again and again
KEPT = 4
# How often the thing at points alone is looked for, each time in the tile that fits what was found.
# Boxes grown from a pixel of things in mosaics of 4 x 4 photographs have an IoU of 0.155 without
# tiles, 0.268 with one look, 0.301 with two and 0.307 with three (0.334 in single photographs)
LOOKS = 2
# what a proposal may lack to the border of its tile, as a share of the tile's length: nearer, it
# was probably cut off there, and another tile or the whole image shows more of it
BORDER = 0.02


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


@dataclass(frozen=True, eq=False)
class TiledImage:
    """An image as `TiledEncoder` encodes it.

    Attributes:
        pixels: the image.
        whole: what the encoder made of the whole image.
        sides: how long the tiles of each grid are (see `grid_sides`).
        tiles: what it made of the tiles that were needed last, at most `KEPT`.
    """

    pixels: Pixels
    whole: Any
    sides: list[float]
    tiles: dict[Window, Any]

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` of the image."""
        return size_of(self.pixels)

    def tile(self, window: Window, encoder: RegionEncoder) -> Any:
        """What the encoder makes of a tile."""
        encoded = self.tiles.pop(window, None)
        if encoded is None:
            (encoded,) = encoder.encode_images([cut_tile(self.pixels, window)])
        # the one that was needed last goes last
        self.tiles[window] = encoded
        while len(self.tiles) > KEPT:
            del self.tiles[next(iter(self.tiles))]
        return encoded


class TiledEncoder:
    """A `RegionEncoder` that shows another one small regions of large images in tiles.

    Of each grid a region may have the tile whose middle is nearest to its own, and has that of the
    finest grid which holds it with its surroundings (`context` times its width and height, as far
    as the image goes). An image whose regions need more than `limit` tiles is seen on coarser
    grids, the finest with which the limit suffices (with an `InputWarning`).

    Always seen in the whole image are regions of images up to `whole` pixels long, or that could be
    shrunk to that without losing detail, regions too large for a tile to gain anything, and those
    with mask logits, which belong to the whole image.
    The thing at points alone is looked for in the whole image first, and then in the tile that fits
    what was found there, `LOOKS` times in all before it is named.

    Args:
        encoder: the method.
        options: which regions are seen in which tiles.
    """

    def __init__(self, encoder: RegionEncoder, options: TileOptions) -> None:
        self.encoder, self.options = encoder, options
        self.name = encoder.name
        self.logit_scale, self.logit_bias = encoder.logit_scale, encoder.logit_bias
        self.default_score: Score = encoder.default_score
        self.answers: AnswerModel | None = getattr(encoder, "answers", None)

    @property
    def text(self) -> TextEncoder:
        """See `RegionEncoder`."""
        return self.encoder.text

    @property
    def fingerprint(self) -> str:
        """The encoder's, and all that decides on tiles."""
        return f"{self.encoder.fingerprint} {_settings(self.options)}"

    def encode_images(self, images: Sequence[Pixels]) -> list[TiledImage]:
        """The whole of each image; tiles are encoded when regions need them."""
        encoded = self.encoder.encode_images(images)
        return [
            TiledImage(pixels, whole, grid_sides(pixels, self.options), {})
            for pixels, whole in zip(images, encoded, strict=True)
        ]

    def embed_regions(
        self,
        encoded: Sequence[TiledImage],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. Where an image has tiles, there are no `mask_logits` of it."""
        plans = [self._plan(image, r) for image, r in zip(encoded, regions, strict=True)]
        options: dict[str, bool] = {"masks": masks, "multimask": multimask}
        # all images together, and those without tiles with all of their regions, as without tiles
        wholes = self.encoder.embed_regions(
            [image.whole for image in encoded],
            [r[p[None]] if len(p) > 1 else r for r, p in zip(regions, plans, strict=True)],
            **options,
        )
        results: list[RegionEmbeddings] = []
        for image, r, plan, whole in zip(encoded, regions, plans, wholes, strict=True):
            parts = [whole]
            for window, rows in plan.items():
                if window is None:
                    continue
                tile, prompts = image.tile(window, self.encoder), regions_in_tile(r[rows], window)
                (part,) = self.encoder.embed_regions([tile], [prompts], **options)
                parts.append(_from_tile(part, window, image.size))
            results.append(_join(parts, list(plan.values())) if len(parts) > 1 else whole)
        return results

    def _plan(self, image: TiledImage, regions: Regions) -> dict[Window | None, list[int]]:
        """By tile, and first for the whole image (None), the rows of the regions that it is for."""
        plan: dict[Window | None, list[int]] = {None: []}
        if not image.sides:
            plan[None] = list(range(len(regions)))
            return plan
        spans = region_spans(regions)  # (N, 4)
        at_points = [
            i
            for i, mask in enumerate(regions.masks)
            if mask is None and np.isnan(regions.boxes[i, 0])
        ]
        if at_points:
            spans[at_points] = self._grow(image, regions[at_points])
        movable = np.array([logits is None for logits in regions.mask_logits], dtype=bool)
        windows, limited = plan_tiles(spans, image.size, image.sides, self.options, movable=movable)
        for row, window in enumerate(windows):
            plan.setdefault(window, []).append(row)
        if limited:
            # the same words for every image, so that a run says them once
            warnings.warn(
                f"images whose small regions need more than {self.options.limit} tiles are seen in "
                "larger tiles, in which these regions have fewer pixels: --tiles or tiles= sets "
                "how many an image may have",
                InputWarning,
                stacklevel=2,
            )
        return plan

    def _grow(self, image: TiledImage, regions: Regions) -> Boxes:
        """How far the things at points reach, `(N, 4)`: in the whole image, then seen closer."""
        points = region_spans(regions)
        spans = points.copy()
        windows: list[Window | None] = [None] * len(regions)
        rows_of: dict[Window | None, list[int]] = {None: list(range(len(regions)))}
        for _ in range(LOOKS):
            for window, rows in rows_of.items():
                seen, prompts, offset = image.whole, regions[rows], np.zeros(4)
                if window is not None:
                    seen = image.tile(window, self.encoder)
                    prompts, offset = regions_in_tile(prompts, window), _offset(window)
                # with masks: some methods know the box of points by their mask alone
                (grown,) = self.encoder.embed_regions([seen], [prompts], masks=True)
                # of each region's candidates the first, which its model ranks highest
                of_rows = np.arange(len(rows)) if grown.rows is None else grown.rows
                best = np.unique(of_rows, return_index=True)[1]
                spans[rows] = _union(points[rows], grown.boxes[best] + offset)
            closer, _ = plan_tiles(
                spans,
                image.size,
                image.sides,
                self.options,
                movable=np.ones(len(regions), dtype=bool),
            )
            rows_of = {}
            for row, window in enumerate(closer):
                if window not in (None, windows[row]):
                    rows_of.setdefault(window, []).append(row)
            windows = closer
        return spans


class TiledProposer:
    """A `RegionProposer` that looks for regions in the whole image and in tiles all over it.

    Tiles are those of every second grid, from the coarsest to the finest with which they are no
    more than `limit`. Proposals that a tile's border cuts are dropped, and of those that overlap
    the better ones stay.

    Args:
        proposer: looks at the image, and at each tile as if it was one.
        options: as for `TiledEncoder`.
        nms_iou: of two proposals with a higher IoU the worse is dropped.
        encoder: the recogniser's, if `proposer` builds on the encoder in it (`EncodedProposer`).
    """

    def __init__(
        self,
        proposer: RegionProposer,
        options: TileOptions,
        *,
        nms_iou: float,
        encoder: TiledEncoder | None = None,
    ) -> None:
        self.proposer, self.options, self.nms_iou = proposer, options, nms_iou
        shared = encoder is not None and getattr(proposer, "encoder", None) is encoder.encoder
        self.encoder = encoder if shared else None
        self.name = proposer.name

    @property
    def fingerprint(self) -> str:
        """The proposer's, and all that decides on tiles."""
        return f"{self.proposer.fingerprint} {_settings(self.options)} {self.nms_iou}"

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        sides = grid_sides(image, self.options)
        windows = covering_tiles(size_of(image), sides, self.options.limit)
        whole = self.proposer.propose(image)
        tiles = (self.proposer.propose(cut_tile(image, window)) for window in windows)
        return self._merge(whole, zip(windows, tiles, strict=True), size_of(image))

    def propose_encoded(self, encoded: TiledImage) -> Regions:
        """See `EncodedProposer`."""
        windows = covering_tiles(encoded.size, encoded.sides, self.options.limit)
        encoder, proposer = self.encoder, self.proposer
        if encoder is None:
            return self.propose(encoded.pixels)
        whole = proposer.propose_encoded(encoded.whole)  # type: ignore[attr-defined]
        tiles = (
            proposer.propose_encoded(encoded.tile(window, encoder.encoder))  # type: ignore[attr-defined]
            for window in windows
        )
        return self._merge(whole, zip(windows, tiles, strict=True), encoded.size)

    def _merge(
        self, whole: Regions, tiles: Iterable[tuple[Window, Regions]], size: tuple[int, int]
    ) -> Regions:
        """What was found in the whole image and in its tiles, best first; `whole` without tiles."""
        boxes, masks, scores = [whole.boxes], list(whole.masks), [_objectness(whole)]
        number = 0
        for window, regions in tiles:  # one by one: a tile's features are not needed any more then
            number += 1
            uncut = regions[~_is_cut(regions.boxes, window, size)]
            boxes.append(uncut.boxes + _offset(window))
            masks += [None if m is None else mask_from_tile(m, window, size) for m in uncut.masks]
            scores.append(_objectness(uncut))
        if not number:
            return whole
        joined, values = np.concatenate(boxes), np.concatenate(scores)
        kept = nms(joined, values, self.nms_iou)
        return Regions.from_prompts(
            boxes=joined[kept], masks=[masks[i] for i in kept], scores=values[kept]
        )


def tiled(encoder: RegionEncoder, options: TileOptions) -> RegionEncoder:
    """The encoder with tiles, or itself where there are to be none."""
    return TiledEncoder(encoder, options) if options.limit else encoder


def untiled(encoder: RegionEncoder) -> RegionEncoder:
    """The method itself, of an encoder with tiles or without."""
    return encoder.encoder if isinstance(encoder, TiledEncoder) else encoder


def tiled_proposer(
    proposer: RegionProposer,
    options: TileOptions,
    *,
    nms_iou: float,
    encoder: TiledEncoder | None = None,
) -> RegionProposer:
    """The proposer with tiles, or itself where there are to be none. See `TiledProposer`."""
    if not options.limit:
        return proposer
    return TiledProposer(proposer, options, nms_iou=nms_iou, encoder=encoder)


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


def region_spans(regions: Regions) -> Boxes:
    """All that belongs to each prompt, `(N, 4)` xyxy: box, mask and points."""
    spans = np.stack([np.full((len(regions), 2), np.inf), np.full((len(regions), 2), -np.inf)], 1)
    spans = spans.reshape(-1, 4)
    for i, (box, mask, points) in enumerate(
        zip(regions.boxes, regions.masks, regions.points, strict=True)
    ):
        parts = [] if np.isnan(box).any() else [box]
        if mask is not None:
            parts.append(mask_box(mask))
        # a point is the position of a pixel, which ends one further
        parts += [np.concatenate([point, point + 1]) for point in points]
        for part in parts:
            spans[i] = _union(spans[i], part)
    return spans


def cut_tile(pixels: Pixels, window: Window) -> Pixels:
    """A part of an image as an image."""
    x0, y0, x1, y1 = window
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


def regions_in_tile(regions: Regions, window: Window) -> Regions:
    """Regions of an image as regions of a tile that holds them."""
    x0, y0, x1, y1 = window
    limits = np.array([x1 - x0, y1 - y0] * 2)
    return replace(
        regions,
        # clipped for the rounding of tiles to whole pixels
        boxes=np.clip(regions.boxes - _offset(window), 0, limits),
        points=tuple(points - [x0, y0] for points in regions.points),
        masks=tuple(
            None if mask is None else encode_mask(decode_mask(mask)[y0:y1, x0:x1])
            for mask in regions.masks
        ),
    )


def mask_from_tile(mask: RLE, window: Window, size: tuple[int, int]) -> RLE:
    """The mask of a tile as a mask of the image."""
    x0, y0, x1, y1 = mask_box(mask).astype(int).tolist()
    crop = decode_mask(mask)[y0:y1, x0:x1]
    return encode_crop(crop, window[0] + x0, window[1] + y0, size=size)


def _intervals(length: int, side: float) -> list[tuple[int, int]]:
    """Where the tiles of a grid begin and end along one side of an image."""
    if length <= side:
        return [(0, length)]
    count = math.ceil((length - side) / (STEP * side)) + 1
    starts = np.linspace(0, length - side, count)
    return [(round(start), round(start + side)) for start in starts.tolist()]


def _offset(window: Window) -> NDArray[np.float64]:
    """`(4,)`: what takes a box from pixels of a tile to pixels of the image."""
    return np.array([window[0], window[1]] * 2, dtype=np.float64)


def _union(first: Boxes, second: Boxes) -> Boxes:
    """The box `(..., 4)` around two boxes."""
    low = np.minimum(first[..., :2], second[..., :2])
    high = np.maximum(first[..., 2:], second[..., 2:])
    return np.concatenate([low, high], axis=-1)


def _is_cut(boxes: Boxes, window: Window, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes of a tile end at a border of it that is none of the image's, `(N,)`."""
    x0, y0, x1, y1 = window
    height, width = size
    near = BORDER * max(x1 - x0, y1 - y0)
    low = (boxes[:, :2] < near) & (np.array([x0, y0]) > 0)
    high = (boxes[:, 2:] > np.array([x1 - x0, y1 - y0]) - near) & (
        np.array([x1, y1]) < [width, height]
    )
    return np.asarray((low | high).any(axis=1))


def _from_tile(part: RegionEmbeddings, window: Window, size: tuple[int, int]) -> RegionEmbeddings:
    """What a tile says of its regions, in pixels of the image."""
    masks = part.masks
    if masks is not None:
        masks = tuple(mask_from_tile(mask, window, size) for mask in masks)
    return replace(part, boxes=part.boxes + _offset(window), masks=masks)


def _join(parts: Sequence[RegionEmbeddings], rows: Sequence[Sequence[int]]) -> RegionEmbeddings:
    """Parts of an image's regions as one, in the regions' order.

    Args:
        parts: what is known of each part.
        rows: for each part the regions it is about.
    """
    of_part = [
        np.asarray(r, dtype=np.int64)[slice(None) if p.rows is None else p.rows]
        for p, r in zip(parts, rows, strict=True)
    ]
    joined = np.concatenate(of_part)  # (M,)
    # stable: the candidates of a region keep their order
    order = np.argsort(joined, kind="stable")
    masks = [mask for part in parts for mask in part.masks or ()]
    scores = [part.mask_scores for part in parts if part.mask_scores is not None]
    return RegionEmbeddings(
        embeddings=np.concatenate([part.embeddings for part in parts])[order],
        boxes=np.concatenate([part.boxes for part in parts])[order],
        rows=joined[order],
        masks=tuple(masks[i] for i in order) if len(masks) == len(order) else None,
        mask_scores=np.concatenate(scores)[order] if len(scores) == len(parts) else None,
        # those of a tile are no prompt for the whole image
        mask_logits=None,
    )


def _objectness(regions: Regions) -> NDArray[np.float64]:
    """The proposals' scores; 1 where there are none."""
    return np.ones(len(regions)) if regions.scores is None else regions.scores


def _settings(options: TileOptions) -> str:
    constants = (FACTOR, STEP, GAIN, BORDER, LOOKS, SHARP, PATCHES, PATCH)
    return f"tiles {sorted(asdict(options).items())} {constants}"
