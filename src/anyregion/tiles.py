"""Tiles: parts of a large image that are encoded by themselves, for regions too small in the whole.

An encoder sees every image at one size, so that a small region of a large photograph has few pixels
left. `TiledEncoder` and `TiledProposer` stand in front of any `RegionEncoder` and `RegionProposer`
and show them tiles as if each was an image. Which tiles there are, and which of them shows which
region, is `tile_grids`'.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputWarning
from anyregion.images import Pixels, size_of
from anyregion.masks import RLE, decode_mask, encode_crop, encode_mask, mask_box
from anyregion.proposals import RegionProposer, nms
from anyregion.region_encoder import RegionEmbeddings, RegionEncoder
from anyregion.regions import Boxes, Regions
from anyregion.scoring import AnswerModel, Score
from anyregion.tile_grids import (
    FACTOR,
    GAIN,
    PATCH,
    PATCHES,
    SHARP,
    STEP,
    TileOptions,
    Window,
    covering_tiles,
    grid_sides,
    plan_tiles,
)
from anyregion.vocabulary import TextEncoder

# tiles whose features are kept while an image is asked about again and again
KEPT = 4
# How often the thing at points alone is looked for, each time in the tile that fits what was found.
# Boxes grown from a pixel of things in mosaics of 4 x 4 photographs have an IoU of 0.155 without
# tiles, 0.268 with one look, 0.301 with two and 0.307 with three (0.334 in single photographs)
LOOKS = 2
# what a proposal may lack to the border of its tile, as a share of the tile's length: nearer, it
# was probably cut off there, and another tile or the whole image shows more of it
BORDER = 0.02


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
        features: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. Where an image has tiles, there are no `mask_logits` of it."""
        plans = [self.plan(image, r) for image, r in zip(encoded, regions, strict=True)]
        options: dict[str, bool] = {"masks": masks, "multimask": multimask}
        if features:  # else an encoder without that argument will do
            options["features"] = True
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

    def plan(self, image: TiledImage, regions: Regions) -> dict[Window | None, list[int]]:
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
        features=None
        if parts[0].features is None
        else {
            name: np.concatenate([(part.features or {})[name] for part in parts])[order]
            for name in parts[0].features
        },
    )


def _objectness(regions: Regions) -> NDArray[np.float64]:
    """The proposals' scores; 1 where there are none."""
    return np.ones(len(regions)) if regions.scores is None else regions.scores


def _settings(options: TileOptions) -> str:
    constants = (FACTOR, STEP, GAIN, BORDER, LOOKS, SHARP, PATCHES, PATCH)
    return f"tiles {sorted(asdict(options).items())} {constants}"
