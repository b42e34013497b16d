"""Object discovery: a frozen backbone's features of one image, clustered, against people's masks.

Nothing is trained: whatever objects are found were in the features, which is what R2O asks of its
encoder on CUB-200-2011 (arXiv 2208.11821). Two questions: the segments of an image, by `k`
clusters; and its foreground, by two clusters and the border prior (objects seldom hold the image's
border; Zhu et al., "Saliency optimization from robust background detection", CVPR 2014).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.backbones.cub import Split, cub_scenes, is_cub
from anyregion.evaluation.backbones.features import About, Backbone, Layer, feature_maps
from anyregion.evaluation.backbones.label_maps import VOID_VALUE, label_map_scenes
from anyregion.evaluation.backbones.segmentation_datasets import (
    BACKGROUND,
    Scenes,
    SegmentMap,
    coco_scenes,
)
from anyregion.evaluation.backbones.segmentation_overlap import (
    Match,
    Partition,
    away_from_border,
    centred_box,
    grid,
    matched,
    overlaps,
    stretched,
    two_ious,
)
from anyregion.torch_utils.kmeans import draw, kmeans
from anyregion.training.seeds import generator
from anyregion.vocabulary import Progress

RESOLUTION = 56
"""Of R2O's own region maps. 112 takes four times the time and says nearly the same."""
_ROUNDING = 1e-5
_COCO_BESIDE = "_annotations.coco.json"

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class DiscoveryReport:
    """How well clusters of features meet people's segments; fractions from 0 to 1.

    Attributes:
        figures: of the backbone. For segments: `mean_iou` (mean over an image's segments, then over
            images) and `segment_iou` (over all segments of all images). For foregrounds:
            `foreground_iou`, `background_iou` (means over images) and `mean_iou`, their mean.
        baselines: the same of partitions that need no image: `grid`, as many equal rectangles, and
            `whole`, the image as one; or `box`, a centred box of half the area, and `whole`.
        backbone: which one it was.
        layout: of the annotations.
        foreground, layer, resolution, k, match, count_background, seed: the settings; `k` is None
            where it was each image's own number of segments.
        mean_k: clusters of an image, on average.
        images, segments: judged.
        skipped: images without masks (or none but void).
        seconds: reading, features, clusters and figures.
        set_aside: what could not be used.
    """

    figures: Figures
    baselines: dict[str, Figures]
    backbone: About
    layout: str
    foreground: bool
    layer: Layer
    resolution: int
    k: int | None
    match: Match
    count_background: bool
    seed: int
    mean_k: float
    images: int
    segments: int
    skipped: int
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_discovery(
    backbone: Backbone,
    data: Scenes,
    *,
    foreground: bool = False,
    layer: Layer = "early",
    k: int | None = None,
    match: Match = "hungarian",
    count_background: bool = False,
    resolution: int = RESOLUTION,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> DiscoveryReport:
    """Cluster the feature map of each image, and compare.

    The whole image, squashed to a square, gives one feature map; it is scaled bilinearly to
    `resolution` x `resolution`, each vector to length 1, and clustered by k-means within the image.
    Each pixel of the image takes the cluster at its place. k-means starts once (greedy k-means++),
    from random numbers that follow from the seed and the image's name alone.

    Args:
        backbone: see `open_backbone`.
        data: images with people's segments: see `find_scenes`.
        foreground: two clusters; the one that holds less of the border is the foreground, and all
            segments together are what it should be.
        layer: the last feature map, or the one before it.
        k: clusters of each image; without, as many as it has segments, its background among them
            where it has any (whether or not it is counted).
        match: see `matched`.
        count_background: the background is a segment to be found too.
        resolution: side of the square that is clustered.
        seed: of k-means.
        limit: no more than the first so many images.
        batch_size: images at once.
        progress: called with (done, total) images.

    Raises:
        InputError: nothing to judge, or settings that cannot be.
    """
    _check(k, resolution, seed, limit)
    started = time.perf_counter()
    scenes = data.scenes[:limit]
    aside = list(data.set_aside)
    skipped = data.skipped
    rows: list[_Row] = []
    for at, size, features in feature_maps(
        backbone,
        [scene.path for scene in scenes],
        layer=layer,
        batch_size=batch_size,
        progress=progress,
        aside=aside,
    ):
        scene = scenes[at]
        try:
            truth = scene.segments(size)
        except InputError as error:
            aside.append(SetAside(str(scene.path), str(error)))
            continue
        present = np.unique(truth)
        objects = int((present > BACKGROUND).sum())
        counted = objects + int(count_background and BACKGROUND in present)
        if not objects if foreground else not counted:
            skipped += 1
            continue
        number = 2 if foreground else k or objects + int(BACKGROUND in present)
        parts = cluster(features, number, resolution=resolution, seed=seed, name=scene.name)
        if foreground:
            rows.append(_judge_foreground(truth, parts))
        else:
            rows.append(_judge_segments(truth, parts, number, match, count_background))
    if not rows:
        last = f"; the last of {len(aside):,} set aside: {aside[-1]}" if aside else ""
        raise InputError(f"nothing to judge: no image with masks ({skipped:,} without){last}")
    figures = {name: _means(rows, name, foreground) for name in rows[0].ious}
    return DiscoveryReport(
        figures=figures.pop("backbone"),
        baselines=figures,
        backbone=backbone.about,
        layout=data.layout,
        foreground=foreground,
        layer=layer,
        resolution=resolution,
        k=2 if foreground else k,
        match=match,
        count_background=count_background,
        seed=seed,
        mean_k=float(np.mean([row.k for row in rows])),
        images=len(rows),
        segments=sum(row.segments for row in rows),
        skipped=skipped,
        seconds=time.perf_counter() - started,
        set_aside=tuple(aside),
    )


def find_scenes(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    split: Split | None = None,
    void: int | None = None,
    background: int | None = None,
) -> Scenes:
    """Images with people's segments; the layout is told by what lies at `annotations`.

    Args:
        annotations: COCO-format JSON (or a folder with Roboflow's `_annotations.coco.json`), the
            folder of CUB-200-2011, or a folder of label maps (PNG).
        images: the folder of the images; may be left out for CUB.
        split: of CUB: the test images by default.
        void, background: values of label maps: 255 and none by default.

    Raises:
        InputError: files that cannot be used, or options of another layout.
    """
    path = Path(annotations).expanduser()
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    cub = is_cub(path)
    maps = not cub and path.is_dir() and not (path / _COCO_BESIDE).is_file()
    if split is not None and not cub:
        raise InputError(f"{path}: a split is CUB-200-2011's, and this is not its folder")
    if (void is not None or background is not None) and not maps:
        raise InputError(f"{path}: void and background values are of label maps, a folder of PNGs")
    if cub:
        return cub_scenes(path, images, split=split or "test")
    if images is None:
        raise InputError(f"{path}: the folder of its images must be given too")
    if maps:
        chosen = VOID_VALUE if void is None else void
        return label_map_scenes(path, images, void=chosen, background=background)
    return coco_scenes(path, Path(images).expanduser())


@torch.no_grad()
def cluster(features: Tensor, k: int, *, resolution: int, seed: int, name: str) -> Partition:
    """Cluster one feature map, `(C, h, w)`, as `evaluate_discovery` describes.

    Returns:
        `(resolution, resolution)` clusters, 0 to `k` - 1; some are empty where vectors coincide
        (a map of one cell, an image of one colour).
    """
    side = (resolution, resolution)
    scaled = F.interpolate(features[None].float(), size=side, mode="bilinear", align_corners=False)
    points = F.normalize(scaled.flatten(2).transpose(1, 2), dim=2).contiguous()
    if float((points.amax(dim=1) - points.amin(dim=1)).max()) < _ROUNDING:
        return np.zeros(side, dtype=np.int64)  # else k-means would divide rounding errors
    draws = draw([generator(seed, "discovery", name)], k)
    labels = kmeans(points, k, draws=draws).labels
    found: Partition = labels.view(resolution, resolution).cpu().numpy().astype(np.int64)
    return found


@dataclass(frozen=True)
class _Row:
    """One image: per method its segments' overlaps, or foreground's and background's."""

    ious: dict[str, list[float]]
    k: int
    segments: int


def _judge_segments(
    truth: SegmentMap, parts: Partition, k: int, match: Match, background: bool
) -> _Row:
    size = (truth.shape[0], truth.shape[1])
    partitions = {
        "backbone": stretched(parts, size),
        "grid": grid(size, k),
        "whole": np.zeros(size, dtype=np.int64),
    }
    ious = {
        name: matched(overlaps(truth, p, background=background), match).tolist()
        for name, p in partitions.items()
    }
    return _Row(ious, k, len(ious["backbone"]))


def _judge_foreground(truth: SegmentMap, parts: Partition) -> _Row:
    size = (truth.shape[0], truth.shape[1])
    foregrounds = {
        "backbone": stretched(away_from_border(parts).astype(np.int64), size) > 0,
        "box": centred_box(size),
        "whole": np.ones(size, dtype=bool),
    }
    ious = {name: list(two_ious(truth, found)) for name, found in foregrounds.items()}
    return _Row(ious, 2, len(np.unique(truth[truth > BACKGROUND])))


def _means(rows: list[_Row], name: str, foreground: bool) -> Figures:
    if foreground:
        front, back = (float(v) for v in np.mean([row.ious[name] for row in rows], axis=0))
        return {"foreground_iou": front, "background_iou": back, "mean_iou": (front + back) / 2}
    return {
        "mean_iou": float(np.mean([np.mean(row.ious[name]) for row in rows])),
        "segment_iou": float(np.mean(np.concatenate([row.ious[name] for row in rows]))),
    }


def _check(k: int | None, resolution: int, seed: int, limit: int | None) -> None:
    if not 2 <= resolution <= 2048:
        raise InputError(f"the resolution must be from 2 to 2048; it is {resolution}")
    if k is not None and not 1 <= k <= resolution**2:
        raise InputError(f"k must be from 1 to {resolution**2:,}, the points clustered; it is {k}")
    if seed < 0:
        raise InputError(f"the seed must not be negative; it is {seed}")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
