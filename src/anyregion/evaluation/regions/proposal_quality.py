"""Quality of region proposals: recall of annotated things, and how many regions each thing has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.average_precision import PrecisionTable, proposal_recall
from anyregion.evaluation.metrics.overlap import boxes_per_thing
from anyregion.evaluation.regions.inputs import (
    SIZE_NAMES,
    EmptyEvaluationError,
)
from anyregion.images import Pixels, size_of
from anyregion.io.regions import ImageEntry
from anyregion.masks import RLE, filled_box
from anyregion.proposals import RegionProposer, box_iou
from anyregion.regions import Boxes, Regions
from anyregion.runs.pipeline import Track, annotated_samples, run_pipeline, silent

LIMITS = (10, 100, 300, 1000)
"""Proposals of an image that recall is given for, the best ones."""


@dataclass(frozen=True)
class KeptRegions:
    """Those of a proposer's regions that a run names, and how they lie on the annotated things.

    Attributes:
        regions: how many an image, the mean.
        found: fraction of the things that a region meets by an IoU of 0.5.
        at_most_one: fraction of the things with one region or none; see `boxes_per_thing`.
        once: of the things with any region the fraction with exactly one.
        most: the largest number of regions of one thing.
    """

    regions: float
    found: float
    at_most_one: float
    once: float | None
    most: int


@dataclass(frozen=True)
class ProposalReport:
    """How well proposals cover annotated things, whatever their class. Fractions from 0 to 1.

    Attributes:
        proposer: its name.
        ar: average recall over IoU 0.5 to 0.95 of the best `N` proposals, by `N`.
        ar_by_size: of the 100 best, by the things' size (COCO's areas).
        recall50: recall at IoU 0.5, by `N`.
        mask_ar: average recall of masks, by `N`, where they were asked for.
        ap50, ap: average precision as one class, at IoU 0.5 and over 0.5 to 0.95: the regions
            of things that nobody annotated count as wrong.
        kept: see there.
        things, images: how many.
        seconds: of proposing, without loading the model.
        set_aside: what could not be used.
    """

    proposer: str
    ar: dict[str, float]
    ar_by_size: dict[str, float]
    recall50: dict[str, float]
    ap50: float | None
    ap: float | None
    kept: KeptRegions
    things: int
    images: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    mask_ar: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; null where there is no thing of a size."""
        sizes = {name: None if np.isnan(ar) else ar for name, ar in self.ar_by_size.items()}
        return asdict(self) | {"ar_by_size": sizes}


class GridProposer:
    """A `RegionProposer` that looks at nothing: boxes on grids, the baseline of all others.

    Grids are of 1, 2, 4 and 8 boxes a shorter side, which overlap by half, in three shapes. Coarser
    ones come first, and within a grid rows from above.
    """

    name = "grid"
    fingerprint = "grid"

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        height, width = size_of(image)
        parts: list[Boxes] = []
        for share in (1, 2, 4, 8):
            for aspect in (1.0, 0.5, 2.0):
                side = min(height, width) / share
                w, h = min(side * aspect**0.5, width), min(side / aspect**0.5, height)
                y, x = (
                    np.linspace(0, free, int(2 * free / length) + 1)
                    for free, length in ((height - h, h), (width - w, w))
                )
                low = np.stack(np.meshgrid(x, y), axis=2).reshape(-1, 2)
                parts.append(np.concatenate([low, low + np.array([w, h])], axis=1))
        boxes = np.concatenate(parts)
        return Regions.from_boxes(boxes, scores=np.linspace(1, 0, len(boxes)))


def evaluate_proposals(
    proposer: RegionProposer | Callable[[], RegionProposer],
    annotations: str | Path,
    images: str | Path,
    *,
    kept: int | None = None,
    min_score: float = 0.0,
    masks: bool = False,
    limit: int | None = None,
    track: Track = silent,
) -> ProposalReport:
    """Compare a proposer's regions with the annotated ones, whatever their class.

    Matching, crowds and sizes are COCO's (pycocotools). Also images without a thing count.

    Args:
        proposer: it, or what loads it; it should give the 1,000 best regions, whatever their
            scores.
        annotations: as `read_annotations` reads them. All things should be annotated: of federated
            ones (LVIS) only recall means anything.
        images: their folder.
        kept, min_score: which of its regions a run names: so many of an image at most, of such a
            score; all unless given.
        masks: also compare masks; every thing needs one, and a region without one is its box.
        limit: no more than the first so many images.
        track: shows how far the work is.

    Raises:
        InputError: files that cannot be used, or nothing to evaluate.
    """
    if kept is not None and kept < 1:
        raise InputError(f"at least one region an image has to be kept, not {kept}")
    truth = read_annotations(annotations, images=images, masks=masks)
    set_aside = list(truth.set_aside)
    samples = annotated_samples(
        _entries(truth), Path(images), limit=limit, without_regions=True, set_aside=set_aside
    )
    if not samples:
        raise EmptyEvaluationError(annotations, set_aside, "no image")
    loaded = proposer() if callable(proposer) else proposer
    position = {key: i for i, key in enumerate(truth.image_ids)}
    counted: list[int] = []
    all_boxes: list[Boxes] = []
    all_scores: list[NDArray[np.float64]] = []
    all_masks: list[list[RLE]] = []
    per_thing: list[NDArray[np.int64]] = []
    met: list[NDArray[np.bool_]] = []
    kept_count = 0
    started = time.perf_counter()
    for batch in run_pipeline(
        [replace(sample, regions=None) for sample in samples],
        _NoEncoder(),  # type: ignore[arg-type]
        lambda encoded, items: [None] * len(items),
        proposer=loaded,
        progress=track("proposing regions", "images"),
    ):
        set_aside += batch.set_aside
        for item in batch.read:
            image = position[str(item.sample.key)]
            counted.append(image)
            boxes, scores = item.regions.boxes, item.regions.scores
            scores = np.ones(len(boxes)) if scores is None else scores
            order = np.argsort(-scores, kind="stable")
            boxes, scores = boxes[order], scores[order]
            if masks:
                codes = [item.regions.masks[row] for row in order.tolist()]
                all_masks.append(
                    [m or filled_box(b, item.size) for m, b in zip(codes, boxes, strict=True)]
                )
            all_boxes.append(boxes)
            all_scores.append(scores)
            named = boxes[scores >= min_score][:kept]
            kept_count += len(named)
            things = truth.boxes[truth.rows(image)]  # no crowds
            per_thing.append(boxes_per_thing(named, things))
            met.append(_met(named, things))
    seconds = time.perf_counter() - started
    if not counted:
        raise EmptyEvaluationError(annotations, set_aside, "no image could be read")
    counts = np.concatenate(per_thing)
    if not len(counts):
        raise EmptyEvaluationError(annotations, set_aside, "no thing in any image")
    table = proposal_recall(truth, counted, all_boxes, all_scores, LIMITS)
    mask_ar = None
    if masks:
        of_masks = proposal_recall(truth, counted, all_boxes, all_scores, LIMITS, masks=all_masks)
        mask_ar = {str(n): _recall(of_masks, 0, i) for i, n in enumerate(LIMITS)}
    figures, any_region = table.metrics(), counts[counts > 0]
    return ProposalReport(
        proposer=loaded.name,
        ar={str(n): _recall(table, 0, i) for i, n in enumerate(LIMITS)},
        ar_by_size={name: _recall(table, s, 1) for s, name in enumerate(SIZE_NAMES, 1)},
        recall50={str(n): float(table.recall[0, 0, 0, i]) for i, n in enumerate(LIMITS)},
        ap50=figures["AP50"],
        ap=figures["AP"],
        kept=KeptRegions(
            regions=kept_count / len(counted),
            found=float(np.concatenate(met).mean()),
            at_most_one=float((counts <= 1).mean()),
            once=float((any_region == 1).mean()) if len(any_region) else None,
            most=int(counts.max()),
        ),
        things=len(counts),
        images=len(counted),
        seconds=seconds,
        set_aside=tuple(set_aside),
        mask_ar=mask_ar,
    )


class _NoEncoder:
    """Stands in for an encoder where nothing is named."""

    def encode_images(self, images: Sequence[Pixels]) -> list[None]:
        return [None] * len(images)


def _entries(truth: Annotations) -> list[ImageEntry]:
    sizes = [None if min(size) < 0 else (size[0], size[1]) for size in truth.sizes.tolist()]
    nothing = Regions.from_boxes([])
    columns = zip(truth.image_ids, truth.file_names, sizes, strict=True)
    return [ImageEntry(key, nothing, name, size) for key, name, size in columns]


def _met(boxes: Boxes, things: Boxes) -> NDArray[np.bool_]:
    """Which things a box meets by an IoU of 0.5, `(T,)`."""
    if not len(boxes):
        return np.zeros(len(things), dtype=bool)
    return np.asarray(box_iou(boxes, things).max(axis=0) >= 0.5)


def _recall(table: PrecisionTable, size: int, limit: int) -> float:
    """Average recall of a size (0 for all) with the proposals of one limit; NaN without things."""
    return float(table.recall[:, 0, size, limit].mean())
