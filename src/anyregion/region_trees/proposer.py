"""Regions that nobody labelled as proposals: superpixels joined by what features say of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.baselines.embedder import DenseMap
from anyregion.errors import InputError, require
from anyregion.images import Pixels, size_of
from anyregion.masks import encode_crop
from anyregion.proposals import nms
from anyregion.r2o.superpixels import PriorConfig, segment
from anyregion.region_trees.tree import (
    MergeTree,
    label_boxes,
    merge_costs,
    merge_tree,
    neighbour_pairs,
    normalised,
    superpixel_features,
)
from anyregion.regions import Boxes, Regions

Joining: TypeAlias = Literal["tree", "kmeans", "none"]

# a region of fewer pixels a side shows nothing
SMALLEST = 2.0


@dataclass(frozen=True)
class TreeOptions:
    """How superpixels become regions, and which of these are proposals.

    Chosen on photographs of COCO's `train` (see docs/results/proposals.md).

    Attributes:
        join: `tree`, the nodes of a merge tree; `kmeans`, the connected parts of clusters;
            `none`, the superpixels themselves.
        superpixels: about how many (SLIC).
        side: of larger images a copy of this longer side is segmented.
        clusters: for `kmeans`, how many, one clustering after the other.
        limit: most proposals of an image.
        min_score: lowest score; see `tree_scores`.
        nms_iou: of two boxes that overlap more, the better one stays.

    Raises:
        InputError: a number out of its range.
    """

    join: Joining = "tree"
    superpixels: int = 400
    side: int = 512
    clusters: tuple[int, ...] = (4, 8, 16, 32, 64)
    limit: int = 50
    min_score: float = 0.0
    nms_iou: float = 0.8

    def __post_init__(self) -> None:
        if self.superpixels < 2 or self.side < 16 or self.limit < 1 or not self.clusters:
            raise InputError(f"superpixels from 2, side from 16, limit from 1 on, not {self}")


class DenseFeatures(Protocol):
    """What gives a feature map of an image: every `ImageEmbedder`, and backbones.

    Attributes:
        name: what people call it.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever a feature would."""
        ...

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """The features of each image, on a grid."""
        ...


class ColourFeatures:
    """Colour as `DenseFeatures`: the baseline of all features that were learned.

    Red, green and blue from 0 to 1, and a constant 1, so that directions tell greys apart.
    """

    name = "colour"
    fingerprint = "colour"
    CELL = 4

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """See `DenseFeatures`: a cell for `CELL` x `CELL` pixels."""
        maps = []
        for pixels in images:
            height, width = size_of(pixels)
            columns, rows = max(1, width // self.CELL), max(1, height // self.CELL)
            small = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BOX)
            features = np.ones((rows, columns, 4), dtype=np.float32)
            features[..., :3] = np.asarray(small) / np.float32(255)
            maps.append(DenseMap(features, (height, width)))
        return maps


class TreeProposer:
    """A `RegionProposer` without labels, on features of any kind. Its regions have masks.

    Args:
        features: what superpixels are joined by.
        options: see there.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """

    def __init__(self, features: DenseFeatures, options: TreeOptions | None = None) -> None:
        require("regions", "skimage", "scipy")  # now, not at the first image
        self.features, self.options = features, options or TreeOptions()
        self.name = f"r2o:{features.name}"

    @property
    def fingerprint(self) -> str:
        """The features', and the options."""
        return tree_fingerprint(self.features.fingerprint, self.options)

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        (dense,) = self.features.dense_features([image])
        return join_superpixels(image, dense, size_of(image), self.options).best(self.options)


@dataclass(frozen=True, eq=False)
class JoinedRegions:
    """All regions that the superpixels of an image were joined to; one may lie in another.

    Attributes:
        labels: `(H, W)` superpixel of each pixel of the image that was segmented.
        size: `(height, width)` of the image itself, whose pixels boxes and masks are in.
        members: the superpixels of each of `N` regions.
        boxes: `(N, 4)` xyxy.
        scores: `(N,)` from 0 to 1: what joining each to its surroundings costs.
        own: `(N,)` from 0 to 1: what it cost to join its own parts, 0 of superpixels.
        shares: `(N,)` of the image's pixels.
    """

    labels: NDArray[Any]
    size: tuple[int, int]
    members: list[NDArray[np.int64]]
    boxes: Boxes
    scores: NDArray[np.float64]
    own: NDArray[np.float64]
    shares: NDArray[np.float64]

    def select(self, options: TreeOptions) -> NDArray[np.int64]:
        """Positions of the regions with the highest scores that overlap little, best first."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        large = (sides >= SMALLEST).all(axis=1)
        usable = np.flatnonzero(large & (self.scores >= options.min_score))
        boxes, scores = self.boxes[usable], self.scores[usable]
        return usable[nms(boxes, scores, options.nms_iou, limit=options.limit)]

    def best(self, options: TreeOptions) -> Regions:
        """The same, as regions with masks."""
        rows = self.select(options)
        return Regions.from_prompts(
            boxes=self.boxes[rows], masks=self.masks(rows), scores=self.scores[rows]
        )

    def masks(self, rows: NDArray[np.int64]) -> list[Any]:
        """The masks of some regions as run-length codes, at the image's size."""
        row, column = _pixels_under(self.labels, self.size)
        count = int(self.labels.max()) + 1
        codes = []
        for region in rows.tolist():
            x0, y0, x1, y1 = self.boxes[region].astype(int).tolist()
            inside = np.zeros(count, dtype=bool)
            inside[self.members[region]] = True
            crop = inside[self.labels[row[y0:y1, None], column[x0:x1]]]
            codes.append(encode_crop(crop, x0, y0, size=self.size))
        return codes


def join_superpixels(
    pixels: Pixels, dense: DenseMap, size: tuple[int, int], options: TreeOptions
) -> JoinedRegions:
    """Segment an image into superpixels, and join these by their features.

    Args:
        pixels: the image, at any size.
        dense: features of the image, whose span is in its own pixels.
        size: `(height, width)` of the image itself.
        options: see there; `limit`, `min_score` and `nms_iou` have no part in this.
    """
    labels = segment(
        _resized(pixels, size, options.side), PriorConfig(segments=options.superpixels)
    )
    features = superpixel_features(dense, labels, size)  # (n, C)
    count = len(features)
    areas = np.bincount(labels.reshape(-1), minlength=count)
    if options.join == "kmeans":
        members = _cluster_parts(labels, features, options.clusters)
    elif options.join == "tree" and count > 1:
        tree = merge_tree(labels, features)
        return _regions(labels, size, tree.members(), tree.boxes, *tree_scores(tree))
    else:
        members = [np.array([i]) for i in range(count)]
    boxes = label_boxes(labels, count)  # (n, 4)
    spans = np.array([[*boxes[m, :2].min(axis=0), *boxes[m, 2:].max(axis=0)] for m in members])
    scores = _part_scores(labels, features, areas, members)
    return _regions(labels, size, members, spans, scores, np.zeros(len(members)))


def tree_scores(tree: MergeTree) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How long each node stays a region of its own, and what it cost to make it, `(2n - 1,)` both.

    The first is what joining it away costs. Both are shares of the last merge's cost, which is also
    the first of the whole image.
    """
    last = max(float(tree.heights[-1]), 1e-12)
    return np.clip(tree.heights[tree.parents] / last, 0, 1), tree.heights / last


def tree_fingerprint(features: str, options: TreeOptions) -> str:
    """Changes with the features and with the options."""
    digest = hashlib.sha256(repr((features, options)).encode()).hexdigest()[:32]
    return f"r2o-regions-{digest}"


def _regions(
    labels: NDArray[Any],
    size: tuple[int, int],
    members: list[NDArray[np.int64]],
    boxes: Boxes,
    scores: NDArray[np.float64],
    own: NDArray[np.float64],
) -> JoinedRegions:
    """Boxes in pixels of the segmented image become the image's, those of the regions' masks."""
    row, column = _pixels_under(labels, size)
    sides = [np.searchsorted(at, boxes[:, i]) for i, at in enumerate((column, row, column, row))]
    spans = np.stack(sides, axis=1).astype(np.float64)  # (N, 4)
    areas = np.bincount(labels.reshape(-1))
    shares = np.array([areas[m].sum() for m in members]) / labels.size
    return JoinedRegions(labels, size, members, spans, scores, own, shares)


def _pixels_under(
    labels: NDArray[Any], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of the segmented image under each of the image's, `(height,)`; the column, too."""
    row, column = (
        (2 * np.arange(side) + 1) * segmented // (2 * side)
        for side, segmented in zip(size, labels.shape, strict=True)
    )
    return row, column


def _cluster_parts(
    labels: NDArray[Any], features: NDArray[np.float32], clusters: Sequence[int]
) -> list[NDArray[np.int64]]:
    """The superpixels of each connected part of each cluster, by k-means at several K; no twice."""
    from scipy.cluster.vq import kmeans2  # type: ignore[import-untyped]
    from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    count, pairs = len(features), neighbour_pairs(labels)  # (E, 2)
    parts: dict[bytes, NDArray[np.int64]] = {}
    directions = normalised(features).astype(np.float64)
    centres = _farthest(directions, min(max(clusters), count))
    for k in clusters:
        with warnings.catch_warnings():  # a cluster that lost all its points is one less
            warnings.simplefilter("ignore", UserWarning)
            _, ids = kmeans2(directions, centres[:k], minit="matrix")
        inner = pairs[ids[pairs[:, 0]] == ids[pairs[:, 1]]]
        graph = coo_matrix((np.ones(len(inner)), tuple(inner.T)), shape=(count, count))
        _, part = connected_components(graph, directed=False)
        for members in np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1]):
            parts.setdefault(members.tobytes(), members)
    return list(parts.values())


def _farthest(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Starts of k-means `(count, C)`: the first point, then always the farthest from all so far."""
    chosen = [0]
    distances = np.full(len(points), np.inf)
    for _ in range(count - 1):
        distances = np.minimum(distances, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(distances.argmax()))
    starts: NDArray[np.float64] = points[chosen]
    return starts


def _part_scores(
    labels: NDArray[Any],
    features: NDArray[np.float32],
    areas: NDArray[np.int64],
    members: Sequence[NDArray[np.int64]],
) -> NDArray[np.float64]:
    """What it costs to join each part with all that surrounds it, as a share of the highest."""
    pairs, count = neighbour_pairs(labels), len(features)
    costs = np.zeros(len(members))
    for i, part in enumerate(members):
        inside = np.zeros(count, dtype=bool)
        inside[part] = True
        crossing = pairs[inside[pairs[:, 0]] != inside[pairs[:, 1]]]
        ring = np.unique(crossing[~inside[crossing]])
        if len(ring):  # the whole image has nothing around it
            one, other = (
                normalised(np.average(features[rows], axis=0, weights=areas[rows])[None])[0]
                for rows in (part, ring)
            )
            cost = merge_costs(1 - one @ other, areas[part].sum(), areas[ring].sum(), labels.size)
            costs[i] = float(cost)
    scores: NDArray[np.float64] = costs / max(float(costs.max(initial=0)), 1e-12)
    return scores


def _resized(pixels: Pixels, size: tuple[int, int], side: int) -> Pixels:
    """The image at its own size, or at a longer side of `side` where that is less.

    Never larger: each pixel of the image is then one of the segmented image, and none is left out.
    """
    factor = min(1.0, side / max(size))
    height, width = (max(1, round(length * factor)) for length in size)
    if size_of(pixels) == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
