"""Boxes or points given, masks asked: how well they cover what was annotated."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.calibration import auroc
from anyregion.evaluation.regions.walk import Photo, find_files, nothing, walk
from anyregion.images import size_of
from anyregion.io.regions import load_regions
from anyregion.masks import RLE, decode_mask, filled_box, mask_area, mask_box, mask_iou
from anyregion.proposals import box_iou
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.vocabulary import Progress

Prompt: TypeAlias = Literal["box", "point"]
_FINE = 0.5
_EDGES = (32.0**2, 96.0**2)


@dataclass(frozen=True)
class MaskReport:
    """How well masks fit.

    Attributes:
        prompt: what was given of each region.
        mean_iou: mean intersection over union of the mask with the annotated one.
        fine: fraction of regions whose intersection over union is above a half.
        box_iou: the same mean for the box that was given, filled; None for points.
        found_box_iou: mean intersection over union of the box of the found mask with the annotated
            mask's box; for points, how well the region was found at all.
        by_size: mean of small, medium and large regions (COCO's areas of the annotated mask).
        telling: AUROC of `mask_scores` at telling fine masks from the others; None where the
            method has none, or all masks are alike.
        regions, images: how many.
        seconds: time spent on the images, without loading the model.
        set_aside: images and regions that could not be used.
    """

    prompt: Prompt
    mean_iou: float
    fine: float
    box_iou: float | None
    found_box_iou: float
    by_size: dict[str, float]
    telling: float | None
    regions: int
    images: int
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_masks(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    *,
    prompt: Prompt = "box",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> MaskReport:
    """Ask for the mask of every annotated region, by its box or by one point in it.

    The box is the one that the annotations state. The point is a pixel of the annotated mask, any
    of them being as likely; it depends on the seed and the region's id alone. Crowds are left out,
    and so are regions without a mask. What is compared is the best candidate, at the image's size.

    Args:
        recognizer: the recogniser, or what loads it once the files are known to be usable.
        annotations: COCO annotations with masks.
        images: the folder that `file_name` starts from.
        prompt: what is given.
        seed: of the points.
        limit: no more than the first so many images that have regions.
        batch_size: images at once.
        progress: called with (done, total) images.

    Raises:
        InputError: files that cannot be used, no region with a mask, or a method without masks.
    """
    if prompt not in ("box", "point"):
        raise InputError(f"prompt must be box or point, not {prompt!r}")
    if seed < 0:
        raise InputError(f"the seed must not be negative; it is {seed}")
    file = load_regions(annotations, masks=True, scores=False)
    aside = list(file.set_aside)
    listed = [e for e in file.images.values() if any(m is not None for m in e.regions.masks)]
    found = find_files(listed, Path(images), limit=limit, aside=aside)
    if not found:
        raise nothing(annotations, aside, "no region has a mask")
    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    rows: list[tuple[float, float, float, float, float]] = []
    started = time.perf_counter()
    photos = 0
    for batch in walk(found, batch_size=batch_size, progress=progress, aside=aside):
        asked = [_with_masks(photo, aside) for photo in batch]
        prompts = [
            _points(regions, seed) if prompt == "point" else _boxes(regions) for regions in asked
        ]
        encoder = recognizer.encoder
        answers = encoder.embed_regions(
            encoder.encode_images([photo.pixels for photo in batch]), prompts, masks=True
        )
        for regions, answer in zip(asked, answers, strict=True):
            if answer.masks is None:
                raise InputError(f"{encoder.name} makes no masks")
            photos += bool(len(regions))
            first = (
                range(len(regions))
                if answer.rows is None
                else np.unique(answer.rows, return_index=True)[1]
            )
            for i, row in enumerate(first):
                quality = None if answer.mask_scores is None else float(answer.mask_scores[row])
                wanted = regions.masks[i]
                if wanted is not None:
                    rows.append(_compared(wanted, answer.masks[row], regions.boxes[i], quality))
    seconds = time.perf_counter() - started
    if not rows:
        raise nothing(annotations, aside, "no region has a mask")
    return _report(np.array(rows), prompt, photos, seconds, aside)


def _with_masks(photo: Photo, aside: list[SetAside]) -> Regions:
    """The regions of one image that have a mask and lie in it."""
    regions = photo.entry.regions
    masked = [i for i, mask in enumerate(regions.masks) if mask is not None]
    kept, outside = regions[masked].fit(*size_of(photo.pixels))
    aside += [SetAside(f"{photo.path}, {a.item}", a.reason) for a in outside]
    return kept


def _boxes(regions: Regions) -> Regions:
    return Regions.from_boxes(regions.boxes, ids=regions.ids)


def _points(regions: Regions, seed: int) -> Regions:
    """One pixel of each region's mask."""
    chosen = []
    for name, rle in zip(regions.ids, regions.masks, strict=True):
        inside = np.zeros((0, 2)) if rle is None else np.argwhere(decode_mask(rle))
        draw = np.random.default_rng([seed, zlib.crc32(str(name).encode())])
        row, column = inside[draw.integers(len(inside))]
        chosen.append([[float(column), float(row)]])
    return Regions.from_prompts(points=chosen, ids=regions.ids)


def _compared(
    wanted: RLE, found: RLE, box: NDArray[np.float64], quality: float | None
) -> tuple[float, float, float, float, float]:
    """IoU of the masks, of the filled box, of the masks' boxes; area; predicted quality or NaN."""
    height, width = wanted["size"]
    filled = filled_box(box, (height, width))
    boxes = float(box_iou(mask_box(wanted)[None], mask_box(found)[None])[0, 0])
    score = float("nan") if quality is None else quality
    ious = mask_iou(wanted, found), mask_iou(wanted, filled)
    return *ious, boxes, float(mask_area(wanted)), score


def _report(
    rows: NDArray[np.float64],
    prompt: Prompt,
    images: int,
    seconds: float,
    aside: list[SetAside],
) -> MaskReport:
    iou, box, found_box, area, score = rows.T
    size = np.digitize(area, _EDGES)
    fine = iou > _FINE
    scored = np.isfinite(score)
    return MaskReport(
        prompt=prompt,
        mean_iou=float(iou.mean()),
        fine=float(fine.mean()),
        box_iou=float(box.mean()) if prompt == "box" else None,
        found_box_iou=float(found_box.mean()),
        by_size={
            name: float(iou[size == i].mean())
            for i, name in enumerate(("small", "medium", "large"))
            if (size == i).any()
        },
        telling=auroc(score[fine & scored], score[~fine & scored]),
        regions=len(rows),
        images=images,
        seconds=seconds,
        set_aside=tuple(aside),
    )
