"""Object discovery: a frozen backbone's features of one image, clustered, against people's masks.

Nothing is trained: whatever objects come out were in the features, which is what R2O asks of its
encoder on CUB-200-2011 (arXiv 2208.11821). Two questions: the segments of an image, by `k`
clusters; and its foreground, by two clusters and the border prior (objects seldom hold the image's
border; Zhu et al., "Saliency optimization from robust background detection", CVPR 2014).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.backbones.features import Backbone, BackboneIdentity, Layer, feature_maps
from anyregion.evaluation.backbones.segmentation_datasets import (
    BACKGROUND,
    SegmentationDataset,
    SegmentedImage,
    SegmentMap,
)
from anyregion.evaluation.backbones.segmentation_overlap import (
    Match,
    Partition,
    border_prior,
    centred_box,
    foreground_ious,
    grid_partition,
    match_segments,
    pixel_accuracy,
    resize_partition,
    segment_ious,
    tight_box_iou,
)
from anyregion.torch_utils.kmeans import draw, kmeans
from anyregion.training.seeds import generator
from anyregion.vocabulary import Progress

RESOLUTION = 56
"""Of R2O's own region maps. 112 takes four times the time and says nearly the same."""
# entries of unit vectors that differ by less are rounding, which float32 has from 6e-8 on
_ROUNDING = 1e-5

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class DiscoveryOptions:
    """How features are clustered and compared.

    Attributes:
        foreground: two clusters; the one that holds less of the border is the foreground, and all
            segments together are what it should be.
        layer: the last feature map, or the intermediate one (`early`).
        resolution: side of the square that is clustered.
        k: clusters of each image; without, as many as it has segments, its background among them
            where it has any (whether or not it is counted).
        match: see `match_segments`.
        count_background: the background is a segment to be found too.
        seed: of k-means.
    """

    foreground: bool = False
    layer: Layer = "early"
    resolution: int = RESOLUTION
    k: int | None = None
    match: Match = "hungarian"
    count_background: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        points = self.resolution**2
        if not 2 <= self.resolution <= 2048:
            raise InputError(f"the resolution must be from 2 to 2048; it is {self.resolution}")
        if self.k is not None and not 1 <= self.k <= points:
            raise InputError(
                f"k must be from 1 to {points:,}, the points clustered; it is {self.k}"
            )
        if self.seed < 0:
            raise InputError(f"the seed must not be negative; it is {self.seed}")


@dataclass(frozen=True)
class DiscoveryReport:
    """How well clusters of features meet people's segments; fractions from 0 to 1.

    Attributes:
        figures: of the backbone. For segments: `mean_iou` (mean over an image's segments, then over
            images) and `segment_iou` (over all segments of all images). For foregrounds:
            `foreground_iou`, `background_iou` (means over images), `mean_iou`, their mean, and
            `pixel_accuracy`; where the data set states boxes (CUB) also `box_iou`, of the tight box
            round the foreground, and `corloc`, the share of images where that is 0.5 or more.
        baselines: the same of partitions that need no image: `grid`, as many equal rectangles, and
            `whole`, the image as one; or `box`, a centred box of half the area, and `whole`.
        layout: of the annotations.
        options: `k` is None where it was each image's own number of segments.
        mean_k: clusters of an image, on average.
        images, segments: judged.
        skipped: images without masks (or none but void).
        seconds: reading, features, clusters and figures.
        set_aside: what could not be used.
    """

    figures: Figures
    baselines: dict[str, Figures]
    backbone: BackboneIdentity
    layout: str
    options: DiscoveryOptions
    mean_k: float
    images: int
    segments: int
    skipped: int
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, the options among the other keys."""
        content = asdict(self)
        first = {key: content.pop(key) for key in ("figures", "baselines", "backbone", "layout")}
        return {**first, **content.pop("options"), **content}


def evaluate_discovery(
    backbone: Backbone,
    data: SegmentationDataset,
    options: DiscoveryOptions | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> DiscoveryReport:
    """Cluster the feature map of each image, and compare.

    The whole image, squashed to a square, gives one feature map; it is scaled bilinearly to
    `resolution` x `resolution`, each vector to length 1, and clustered by k-means within the image.
    Each pixel of the image takes the cluster at its place. k-means starts once (greedy k-means++),
    from random numbers that follow from the seed and the image's name alone.

    The first `limit` images are judged; `progress` is called with (done, total) images.

    Raises:
        InputError: nothing to judge, or a limit or batch below 1.
    """
    options = options or DiscoveryOptions()
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
    started = time.perf_counter()
    images = data.images[:limit]
    faults = list(data.set_aside)
    skipped = data.skipped
    rows: list[_ImageResult] = []
    for position, size, features in feature_maps(
        backbone,
        [image.path for image in images],
        layer=options.layer,
        batch_size=batch_size,
        progress=progress,
        faults=faults,
    ):
        # the map comes first: it knows the size of the upright image, which the segments must have
        image = images[position]
        try:
            truth = image.read_segments(size)
        except InputError as error:
            faults.append(SetAside(str(image.path), str(error)))
            continue
        result = _judge(truth, features, image, options)
        if result is None:
            skipped += 1
        else:
            rows.append(result)
    if not rows:
        last = f"; the last of {len(faults):,} set aside: {faults[-1]}" if faults else ""
        raise InputError(f"nothing to judge: no image with masks ({skipped:,} without){last}")
    figures = {name: _means(rows, name, options.foreground) for name in rows[0].ious}
    return DiscoveryReport(
        figures=figures.pop("backbone"),
        baselines=figures,
        backbone=backbone.identity,
        layout=data.layout,
        options=replace(options, k=2) if options.foreground else options,
        mean_k=float(np.mean([row.k for row in rows])),
        images=len(rows),
        segments=sum(row.segments for row in rows),
        skipped=skipped,
        seconds=time.perf_counter() - started,
        set_aside=tuple(faults),
    )


@torch.no_grad()
def cluster(features: Tensor, k: int, *, resolution: int, seed: int, name: str) -> Partition:
    """Cluster one feature map, `(C, h, w)`, as `evaluate_discovery` describes.

    Returns:
        `(resolution, resolution)` clusters, 0 to `k` - 1; some are empty where vectors coincide
        (a map of one cell, an image of one colour).
    """
    side = (resolution, resolution)
    scaled = F.interpolate(features[None].float(), size=side, mode="bilinear", align_corners=False)
    points = F.normalize(scaled.flatten(2).transpose(1, 2), dim=2).contiguous()  # (1, R * R, C)
    if float((points.amax(dim=1) - points.amin(dim=1)).max()) < _ROUNDING:
        return np.zeros(side, dtype=np.int64)  # else k-means would divide rounding errors
    # the name, not the position: an image's clusters are the same with any limit and order
    draws = draw([generator(seed, "discovery", name)], k)
    labels = kmeans(points, k, draws=draws).labels
    parts: Partition = labels.view(side).cpu().numpy().astype(np.int64)
    return parts


@dataclass(frozen=True)
class _ImageResult:
    """One image: per method its segments' overlaps; or foreground's and background's, the share of
    pixels that are right and, where the data set states a box, the overlap with it."""

    ious: dict[str, list[float]]
    k: int
    segments: int


def _judge(
    truth: SegmentMap, features: Tensor, image: SegmentedImage, options: DiscoveryOptions
) -> _ImageResult | None:
    """Cluster one image's `(C, h, w)` features and compare; None where there is nothing to meet."""
    present = np.unique(truth)
    objects = int((present > BACKGROUND).sum())
    has_background = BACKGROUND in present
    counted = objects + int(options.count_background and has_background)
    if not (objects if options.foreground else counted):
        return None
    # the background takes a cluster even where it is not counted: it is in the picture
    k = 2 if options.foreground else options.k or objects + int(has_background)
    parts = cluster(features, k, resolution=options.resolution, seed=options.seed, name=image.name)
    size = (truth.shape[0], truth.shape[1])
    if options.foreground:
        # the prior is judged on the square, where every side of the border counts the same
        foreground = resize_partition(border_prior(parts).astype(np.int64), size) > 0
        masks = {
            "backbone": foreground,
            "box": centred_box(size),
            "whole": np.ones(size, dtype=bool),
        }
        ious = {
            method: [*foreground_ious(truth, mask), pixel_accuracy(truth, mask)]
            for method, mask in masks.items()
        }
        if image.box is not None:
            for method, mask in masks.items():
                ious[method].append(tight_box_iou(mask, image.box))
        return _ImageResult(ious, k, objects)
    # a ruler of as many parts, and none: what a backbone has to do better than
    partitions = {
        "backbone": resize_partition(parts, size),
        "grid": grid_partition(size, k),
        "whole": np.zeros(size, dtype=np.int64),
    }
    ious = {}
    for method, partition in partitions.items():
        table = segment_ious(truth, partition, background=options.count_background)
        ious[method] = match_segments(table, options.match).tolist()
    return _ImageResult(ious, k, len(ious["backbone"]))


def _means(rows: list[_ImageResult], method: str, foreground: bool) -> Figures:
    if foreground:
        figures = [row.ious[method] for row in rows]
        front, back, pixels = (float(v) for v in np.mean([each[:3] for each in figures], axis=0))
        means = {
            "foreground_iou": front,
            "background_iou": back,
            "mean_iou": (front + back) / 2,
            "pixel_accuracy": pixels,
        }
        if boxes := [each[3] for each in figures if len(each) > 3]:
            means["box_iou"] = float(np.mean(boxes))
            # of the images with a box, as weakly supervised localisation counts
            means["corloc"] = float(np.mean([iou >= 0.5 for iou in boxes]))
        return means
    return {
        "mean_iou": float(np.mean([np.mean(row.ious[method]) for row in rows])),
        "segment_iou": float(np.mean(np.concatenate([row.ious[method] for row in rows]))),
    }
