"""SAM's automatic mask generator: prompts on a grid of points, and of their masks the good ones.

Kirillov et al. 2023, appendix B; the defaults are those of the published generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyregion.errors import InputError, require
from anyregion.images import Pixels, size_of
from anyregion.localizers.frame import logits_to_image
from anyregion.localizers.sam2 import stability_score
from anyregion.localizers.segmenter import LocalizedImage, PromptableSegmenter
from anyregion.localizers.square import Frame
from anyregion.masks import RLE, decode_mask, encode_mask, mask_box
from anyregion.proposals import nms
from anyregion.region_encoder import RegionEncoder
from anyregion.regions import Boxes, Regions

# a mask this near (pixels) to a border of its crop, and not of the image, was cut by it
EDGE = 20.0
# of logits at the image's size: 64 MiB
_PIXELS_AT_ONCE = 2**24


@dataclass(frozen=True, kw_only=True)
class AutomaticOptions:
    """How masks are generated and filtered.

    Attributes:
        points_per_side: points of the grid along each side of the image.
        points_per_batch: points whose low-resolution masks are in memory together.
        pred_iou_thresh: masks whose predicted IoU is not above are dropped; None for the
            published default: 0.88 for SAM and SAM-HQ, 0.8 for SAM 2 (and 3).
        stability_score_thresh: masks of lower stability are dropped.
        stability_score_offset: see `stability_score`.
        box_nms_thresh: of two boxes in one crop with a higher IoU the worse is dropped.
        crop_n_layers: layers of crops that are prompted too; layer i has `4^i` of them.
        crop_nms_thresh: the same between crops, where the smaller crop wins.
        crop_overlap_ratio: overlap of the first layer's crops, as a share of the short side.
        crop_n_points_downscale_factor: the grid of layer i is coarser by this to the power i.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed; 0 for none.

    Raises:
        InputError: a number out of its range.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float | None = None
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; it is {getattr(self, name)}")
        for name in ("crop_n_layers", "min_mask_region_area", "crop_overlap_ratio"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative; it is {getattr(self, name)}")


DEFAULTS = AutomaticOptions()


@dataclass(frozen=True, eq=False)
class MaskSet:
    """Masks of one image.

    Attributes:
        boxes: `(N, 4)` tight boxes, xyxy in pixels of the image.
        scores: `(N,)` predicted IoUs.
        areas: `(N,)` area in pixels of the crop that each was generated in.
        masks: at the image's size.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    areas: NDArray[np.float64]
    masks: list[RLE]

    def take(self, rows: NDArray[np.int64]) -> MaskSet:
        """Some of them, in the order of `rows`."""
        masks = [self.masks[i] for i in rows.tolist()]
        return MaskSet(self.boxes[rows], self.scores[rows], self.areas[rows], masks)


class AutomaticMasks:
    """A `RegionProposer` on any SAM.

    Scores are the predicted IoUs, not above 1. What is proposed depends on image and options alone.

    Args:
        encoder: the encoder of the recogniser that names the regions, where its `localizer` is this
            one, so that an image is encoded once for both (see `EncodedProposer`). Of no use with
            crops, which have to be encoded by themselves.

    Raises:
        MissingExtraError: `min_mask_region_area` without scipy.
    """

    def __init__(
        self,
        localizer: PromptableSegmenter,
        options: AutomaticOptions = DEFAULTS,
        *,
        encoder: RegionEncoder | None = None,
    ) -> None:
        if options.min_mask_region_area:
            require("torch", "scipy")
        if options.pred_iou_thresh is None:
            options = replace(options, pred_iou_thresh=localizer.backend.pred_iou_thresh)
        self.localizer = localizer
        self.encoder = None if options.crop_n_layers else encoder
        self.options: AutomaticOptions = options
        self.name = f"automatic masks ({localizer.name})"

    @property
    def fingerprint(self) -> str:
        """Hash of the localizer and the options."""
        content = repr((self.localizer.fingerprint, sorted(asdict(self.options).items())))
        return f"automatic-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    @torch.no_grad()
    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`; every region has a mask, and its tight box."""
        options, size = self.options, size_of(image)
        parts: list[MaskSet] = []
        for layer, crop in crop_boxes(size, options.crop_n_layers, options.crop_overlap_ratio):
            x0, y0, x1, y1 = crop
            (encoded,) = self.localizer.encode([np.ascontiguousarray(image[y0:y1, x0:x1])])
            parts.append(self._crop_masks(encoded, size, layer, crop))
        return self._merge_crops(parts)

    @torch.no_grad()
    def propose_encoded(self, encoded: Any) -> Regions:
        """As `propose`, from what a `RegionSpotEncoder` with this localizer made of an image."""
        height, width = encoded.size
        image = (0, 0, width, height)
        return self._merge_crops([self._crop_masks(encoded.localized, encoded.size, 0, image)])

    def _merge_crops(self, parts: list[MaskSet]) -> Regions:
        """The masks of the image and of its crops, best first, without duplicates."""
        options = self.options
        masks = MaskSet(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.areas for part in parts]),
            [rle for part in parts for rle in part.masks],
        )
        if len(parts) > 1:
            # NMS keeps the higher score: here the smaller crop's mask, which is finer
            masks = masks.take(nms(masks.boxes, 1 / masks.areas, options.crop_nms_thresh))
        if options.min_mask_region_area:
            masks = self._clean(masks)
        masks = masks.take(np.argsort(-masks.scores, kind="stable"))
        return Regions.from_prompts(
            boxes=masks.boxes, masks=masks.masks, scores=np.clip(masks.scores, 0, 1)
        )

    def _crop_masks(
        self,
        encoded: LocalizedImage,
        size: tuple[int, int],
        layer: int,
        crop: tuple[int, int, int, int],
    ) -> MaskSet:
        """The masks of one encoded crop, at the image's size, after the filters and NMS."""
        x0, y0, x1, y1 = crop
        options = self.options
        # a grid that is coarser in smaller crops may be as dense in the image
        side = max(1, options.points_per_side // options.crop_n_points_downscale_factor**layer)
        points = point_grid(side) * [x1 - x0, y1 - y0]
        codes: list[RLE] = []
        ious: list[float] = []
        for start in range(0, len(points), options.points_per_batch):
            part = points[start : start + options.points_per_batch]
            prompts = Regions.from_prompts(points=[p[None] for p in part])
            result = self.localizer.tokens(encoded, prompts, multimask=True, masks=True)
            if result.mask_logits is None or result.mask_scores is None:
                raise InputError(f"{self.localizer.name} gave no masks")
            # three candidates a point: (P, 3) to (3 P,)
            scores, logits = result.mask_scores.flatten(), result.mask_logits.flatten(0, 1)
            # by predicted IoU first: most candidates never reach the image's size
            confident = torch.nonzero(scores > (options.pred_iou_thresh or 0.0))[:, 0]
            for rows, masks in self._stable_masks(logits, confident, encoded.frame):
                for row, mask in zip(rows.tolist(), masks, strict=True):
                    if not _is_cut(mask, crop, size):
                        full = np.zeros(size, dtype=bool)
                        full[y0:y1, x0:x1] = mask
                        codes.append(encode_mask(full))
                        ious.append(float(scores[row]))
        areas = np.full(len(codes), float((x1 - x0) * (y1 - y0)))
        unfiltered = MaskSet(_mask_boxes(codes), np.array(ious, dtype=np.float64), areas, codes)
        return unfiltered.take(nms(unfiltered.boxes, unfiltered.scores, options.box_nms_thresh))

    def _stable_masks(
        self, logits: Tensor, rows: Tensor, frame: Frame
    ) -> Iterator[tuple[Tensor, NDArray[np.bool_]]]:
        """The stable ones of `rows`, a few at a time, with their masks at the image's size."""
        options = self.options
        step = max(1, _PIXELS_AT_ONCE // max(frame.size[0] * frame.size[1], frame.side**2))
        for start in range(0, len(rows), step):
            batch = rows[start : start + step]
            large = logits_to_image(logits[batch], frame)  # (M, height, width)
            scores = stability_score(large, options.stability_score_offset)
            masks = large > 0
            # a mask may be stable and still hold no pixel
            stable = (scores >= options.stability_score_thresh) & masks.flatten(1).any(1)
            yield batch[stable], masks[stable].cpu().numpy()

    def _clean(self, masks: MaskSet) -> MaskSet:
        """Without small holes and islands; what so became a duplicate yields to the untouched."""
        area = self.options.min_mask_region_area
        cleaned = [remove_small_regions(decode_mask(rle), area) for rle in masks.masks]
        codes = [
            rle if mask is None else encode_mask(mask)
            for mask, rle in zip(cleaned, masks.masks, strict=True)
        ]
        # as scores for NMS: of two equal masks the one that was not cleaned stays
        untouched = np.array([mask is None for mask in cleaned], dtype=np.float64)
        result = MaskSet(_mask_boxes(codes), masks.scores, masks.areas, codes)
        iou = max(self.options.box_nms_thresh, self.options.crop_nms_thresh)
        return result.take(nms(result.boxes, untouched, iou))


def point_grid(side: int) -> NDArray[np.float64]:
    """Centres of `side x side` cells of the unit square, `(side^2, 2)` x and y, row by row."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def crop_boxes(
    size: tuple[int, int], layers: int, overlap_ratio: float
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """The image and its crops, `(layer, (x0, y0, x1, y1))`; layer i has `2^i` along each side.

    Crops of one layer overlap by `overlap_ratio` of the image's short side, half as much in the
    second layer, and so on.
    """
    height, width = size
    crops = [(0, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size) * 2 / count)
        # rounded up, so that the last crops reach the border
        across, down = (-(-(overlap * (count - 1) + side) // count) for side in (width, height))
        for row in range(count):
            for column in range(count):
                x0, y0 = (across - overlap) * column, (down - overlap) * row
                x1, y1 = min(x0 + across, width), min(y0 + down, height)
                if x0 < x1 and y0 < y1:  # an image of a few pixels has no more to cut
                    crops.append((layer, (x0, y0, x1, y1)))
    return crops


def remove_small_regions(mask: NDArray[np.bool_], area: int) -> NDArray[np.bool_] | None:
    """Fill holes and remove islands of fewer than `area` pixels; None where there are none.

    Pixels that touch at a corner belong together. Of a mask of small islands alone the largest
    stays.
    """
    filled = mask | _small_parts(~mask, area)
    islands = _small_parts(filled, area, keep_largest=True)
    cleaned: NDArray[np.bool_] = filled & ~islands
    return None if (cleaned == mask).all() else cleaned


def _small_parts(
    mask: NDArray[np.bool_], area: int, *, keep_largest: bool = False
) -> NDArray[np.bool_]:
    """The connected parts of fewer than `area` pixels; not the largest if all are and it stays."""
    from scipy import ndimage  # type: ignore[import-untyped]

    # 3 x 3: pixels that touch at a corner are connected
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    counts = np.bincount(labels.ravel())
    small = counts < area
    small[0] = False  # the background
    if keep_largest and len(counts) > 1 and small[1:].all():
        small[1 + counts[1:].argmax()] = False
    inside: NDArray[np.bool_] = small[labels]
    return inside


def _is_cut(
    mask: NDArray[np.bool_], crop: tuple[int, int, int, int], size: tuple[int, int]
) -> bool:
    """Whether a mask of the crop reaches a border of it that is none of the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, y0, x1, y1 = crop
    # the mask's box in pixels of the image
    box = np.array([x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1])
    height, width = size
    near_crop = np.abs(box - [x0, y0, x1, y1]) <= EDGE
    near_image = np.abs(box - [0, 0, width, height]) <= EDGE
    return bool((near_crop & ~near_image).any())


def _mask_boxes(codes: list[RLE]) -> Boxes:
    return np.array([mask_box(rle) for rle in codes], dtype=np.float64).reshape(-1, 4)
