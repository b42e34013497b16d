"""Quality of masks grown from boxes or points: IoU with annotated masks, and the mask scores."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.calibration import auroc
from anyregion.evaluation.metrics.overlap import mask_ious, mean_iou
from anyregion.evaluation.regions.inputs import (
    SIZE_EDGES,
    SIZE_NAMES,
    EmptyEvaluationError,
    loaded,
)
from anyregion.io.regions import load_regions
from anyregion.masks import RLE, decode_mask, filled_box, mask_area, mask_box
from anyregion.proposals import box_iou
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings, RegionEncoder
from anyregion.regions import Regions
from anyregion.runs.pipeline import ReadSample, Track, annotated_samples, run_pipeline, silent

Prompt: TypeAlias = Literal["box", "point"]
GOOD_IOU = 0.5
"""A mask above it counts as good: COCO's least threshold for a match."""
# printed keys that are older than the figures' names, and stay
_JSON_KEYS = {"above_half": "fine", "mask_box_iou": "found_box_iou", "auroc": "telling"}


@dataclass(frozen=True)
class MaskReport:
    """How well masks fit.

    Attributes:
        prompt: what was given of each region.
        mean_iou: mean intersection over union of the mask with the annotated one.
        above_half: fraction of regions whose intersection over union is above a half.
        box_iou: the same mean for the box that was given, filled; None for points.
        mask_box_iou: mean intersection over union of the predicted mask's box with the annotated
            mask's box; for points, how well the region was located at all.
        by_size: mean of small, medium and large regions (COCO's areas of the annotated mask).
        auroc: of `mask_scores`, at telling masks above a half from the others; None where the
            method has none, or all masks are alike.
        regions, images: how many.
        seconds: time spent on the images, without loading the model.
        set_aside: images and regions that could not be used.
    """

    prompt: Prompt
    mean_iou: float
    above_half: float
    box_iou: float | None
    mask_box_iou: float
    by_size: dict[str, float]
    auroc: float | None
    regions: int
    images: int
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, under the keys of the first version."""
        return {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}


def evaluate_masks(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    *,
    prompt: Prompt = "box",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 4,
    track: Track = silent,
) -> MaskReport:
    """Ask for the mask of every annotated region, by its box or by one point in it.

    The box is the one that the annotations state. The point is a pixel of the annotated mask, any
    of them being as likely; it depends on the seed and the region's id alone. Crowds are left out,
    and so are regions without a mask. What is compared is the best candidate, at the image's size.

    Args:
        recognizer, images: as for `evaluate_classification`.
        annotations: COCO annotations with masks.
        limit, batch_size, track: see `EvaluationOptions`.

    Raises:
        InputError: files that cannot be used, no region with a mask, or a method without masks.
    """
    if prompt not in ("box", "point"):
        raise InputError(f"prompt must be box or point, not {prompt!r}")
    if seed < 0:
        raise InputError(f"the seed must not be negative; it is {seed}")
    file = load_regions(annotations, masks=True, scores=False, images=images)
    set_aside = list(file.set_aside)
    # regions without a mask have nothing to be compared with
    entries = []
    for entry in file.images.values():
        if rows := [i for i, mask in enumerate(entry.regions.masks) if mask is not None]:
            entries.append(replace(entry, regions=entry.regions[rows]))
    samples = annotated_samples(entries, Path(images), limit=limit, set_aside=set_aside)
    if not samples:
        raise EmptyEvaluationError(annotations, set_aside, "no region has a mask")
    encoder = loaded(recognizer).encoder
    predicted: list[RLE] = []
    true: list[RLE] = []
    filled: list[RLE] = []
    scores: list[float] = []
    count = 0
    started = time.perf_counter()
    for batch in run_pipeline(
        samples,
        encoder,
        _MaskPrompts(encoder, prompt, seed),
        batch_size=batch_size,
        progress=track("growing masks", "images"),
    ):
        set_aside += batch.set_aside
        count += len(batch.results)
        for item, answer in batch.results:
            if answer.masks is None:
                raise InputError(f"{encoder.name} makes no masks")
            regions = item.regions
            # of each region's candidates the first, which its model ranks highest
            best = np.arange(len(regions))
            if answer.rows is not None:
                best = np.unique(answer.rows, return_index=True)[1]
            predicted += [answer.masks[row] for row in best]
            true += [mask for mask in regions.masks if mask is not None]
            filled += [filled_box(box, item.size) for box in regions.boxes]
            # NaN of a method that does not say how well its masks fit
            unknown = np.full(len(best), np.nan)
            scores += (unknown if answer.mask_scores is None else answer.mask_scores[best]).tolist()
    seconds = time.perf_counter() - started
    if not true:
        raise EmptyEvaluationError(annotations, set_aside, "no region has a mask")
    # (N,) each, over all regions of all images
    ious, quality = mask_ious(predicted, true), np.array(scores)
    box_ious = [
        float(box_iou(mask_box(one)[None], mask_box(other)[None])[0, 0])
        for one, other in zip(true, predicted, strict=True)
    ]
    size = np.digitize([mask_area(mask) for mask in true], SIZE_EDGES)
    good, scored = ious > GOOD_IOU, np.isfinite(quality)
    return MaskReport(
        prompt=prompt,
        mean_iou=mean_iou(ious),
        above_half=float(good.mean()),
        box_iou=mean_iou(mask_ious(filled, true)) if prompt == "box" else None,
        mask_box_iou=mean_iou(box_ious),
        by_size={
            name: mean_iou(ious[size == i])
            for i, name in enumerate(SIZE_NAMES)
            if (size == i).any()
        },
        auroc=auroc(quality[good & scored], quality[~good & scored]),
        regions=len(true),
        images=count,
        seconds=seconds,
        set_aside=tuple(set_aside),
    )


@dataclass(frozen=True)
class _MaskPrompts:
    """Answers the pipeline with the masks of regions that are prompted by a box or a point."""

    encoder: RegionEncoder
    prompt: Prompt
    seed: int

    def __call__(
        self, encoded: Sequence[Any], items: Sequence[ReadSample]
    ) -> list[RegionEmbeddings]:
        prompts = []
        for regions in (item.regions for item in items):
            # ids go along: they name the region in errors
            if self.prompt == "point":
                points = [
                    self._point(name, mask)
                    for name, mask in zip(regions.ids, regions.masks, strict=True)
                ]
                prompts.append(Regions.from_prompts(points=points, ids=regions.ids))
            else:
                prompts.append(Regions.from_boxes(regions.boxes, ids=regions.ids))
        return self.encoder.embed_regions(encoded, prompts, masks=True)

    def _point(self, name: int | str, mask: RLE | None) -> list[list[float]]:
        """One pixel of a region's mask, x and y."""
        inside = np.zeros((0, 2)) if mask is None else np.argwhere(decode_mask(mask))
        # by the region's id, so that neither the limit nor other regions change it
        draw = np.random.default_rng(
            [self.seed, zlib.crc32(str(name).encode(errors="surrogatepass"))]
        )
        row, column = inside[draw.integers(len(inside))]
        return [[float(column), float(row)]]
