"""Merge trees: superpixels joined two by two, the most alike neighbours first, until one is left.

Agglomeration over the graph of neighbours, as in hierarchical segmentation (Arbelaez et al., TPAMI
2011) and selective search (Uijlings et al., IJCV 2013). Every node is a region: a superpixel, or
what two nodes were joined to.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.regions import Boxes


@dataclass(frozen=True, eq=False)
class MergeTree:
    """A tree over `n` superpixels: nodes 0 to `n` - 1 are these, `n` + `i` is the `i`-th merge.

    Attributes:
        labels: `(H, W)` superpixel of each pixel.
        children: `(n - 1, 2)` the nodes that each merge joins, the older first.
        parents: `(2n - 1,)` the node that each is joined into; of the root the root itself.
        heights: `(2n - 1,)` what each merge cost, at least what the merges below it did; 0 of
            superpixels.
        areas: `(2n - 1,)` in pixels.
        boxes: `(2n - 1, 4)` xyxy in pixels.
        features: `(2n - 1, C)` the mean feature of each node's pixels.
    """

    labels: NDArray[Any]
    children: NDArray[np.int64]
    parents: NDArray[np.int64]
    heights: NDArray[np.float64]
    areas: NDArray[np.int64]
    boxes: Boxes
    features: NDArray[np.float32]

    @property
    def superpixels(self) -> int:
        """How many there are."""
        return len(self.children) + 1

    def members(self) -> list[NDArray[np.int64]]:
        """The superpixels of each node."""
        members = [np.array([leaf]) for leaf in range(self.superpixels)]
        for one, other in self.children.tolist():
            members.append(np.concatenate([members[one], members[other]]))
        return members


def merge_tree(labels: NDArray[Any], features: NDArray[np.float32]) -> MergeTree:
    """Join the two neighbours that cost least, until one region is left.

    A merge costs the cosine distance of the two mean features times the root of the harmonic mean
    of the areas, as shares of the image: small pieces go to whom they are most like, and large
    regions stay apart for longer.

    Args:
        labels: `(H, W)` superpixel of each pixel, 0 to `n` - 1, none left out.
        features: `(n, C)` mean feature of each superpixel.
    """
    count, pixels = len(features), labels.size
    nodes = 2 * count - 1
    areas = np.zeros(nodes, dtype=np.int64)
    areas[:count] = np.bincount(labels.reshape(-1), minlength=count)
    boxes = np.zeros((nodes, 4))
    boxes[:count] = label_boxes(labels, count)
    means = np.zeros((nodes, features.shape[1]), dtype=np.float32)
    means[:count] = features
    directions = np.zeros_like(means)  # of the means, at length 1
    directions[:count] = normalised(features)
    heights, parents = np.zeros(nodes), np.arange(nodes)
    children = np.zeros((count - 1, 2), dtype=np.int64)
    neighbours: list[set[int]] = [set() for _ in range(nodes)]

    def costs(node: int, others: list[int]) -> list[float]:
        distance = 1 - directions[others] @ directions[node]  # (k,)
        cost: list[float] = merge_costs(distance, areas[node], areas[others], pixels).tolist()
        return cost

    heap: list[tuple[float, int, int]] = []
    for one, other in neighbour_pairs(labels).tolist():
        neighbours[one].add(other)
        neighbours[other].add(one)
    for one in range(count):
        others = sorted(i for i in neighbours[one] if i > one)
        heap += [(c, one, other) for c, other in zip(costs(one, others), others, strict=True)]
    heapq.heapify(heap)
    alive = [True] * count
    for node in range(count, nodes):
        # pairs of which one was joined to something else since are out of date
        while not (alive[heap[0][1]] and alive[heap[0][2]]):
            heapq.heappop(heap)
        cost, one, other = heapq.heappop(heap)
        children[node - count] = one, other
        parents[[one, other]] = node
        alive[one] = alive[other] = False
        alive.append(True)
        areas[node] = areas[one] + areas[other]
        boxes[node, :2] = np.minimum(boxes[one, :2], boxes[other, :2])
        boxes[node, 2:] = np.maximum(boxes[one, 2:], boxes[other, 2:])
        share = areas[one] / areas[node]
        means[node] = share * means[one] + (1 - share) * means[other]
        directions[node] = normalised(means[node : node + 1])[0]
        # a merge can cost less than one below it: the tree's heights never fall
        heights[node] = max(cost, heights[one], heights[other])
        around = sorted((neighbours[one] | neighbours[other]) - {one, other})
        neighbours[node] = set(around)
        for i in around:
            neighbours[i] -= {one, other}
            neighbours[i].add(node)
        for c, i in zip(costs(node, around), around, strict=True):
            heapq.heappush(heap, (c, i, node))
    return MergeTree(labels, children, parents, heights, areas, boxes, means)


def merge_costs(
    distances: NDArray[np.floating], one: Any, other: Any, pixels: int
) -> NDArray[np.float64]:
    """What it costs to join regions of areas `one` and `other` in an image of so many pixels."""
    harmonic = 2 * one * other / (one + other) / pixels
    costs: NDArray[np.float64] = np.maximum(distances, 0) * np.sqrt(harmonic)
    return costs


def superpixel_features(
    dense: DenseMap, labels: NDArray[Any], size: tuple[int, int]
) -> NDArray[np.float32]:
    """The mean feature of each superpixel's pixels, `(n, C)`; a pixel has its cell's.

    Args:
        dense: features `(h, w, C)` and the pixels of the image that they cover.
        labels: `(H, W)` superpixel of each pixel, 0 to `n` - 1, of the image shrunk or not.
        size: `(height, width)` of the image.
    """
    rows, columns, channels = dense.features.shape
    height, width = labels.shape
    y = (np.arange(height) + 0.5) * size[0] / height / dense.span[0] * rows
    x = (np.arange(width) + 0.5) * size[1] / width / dense.span[1] * columns
    row, column = np.minimum(y.astype(int), rows - 1), np.minimum(x.astype(int), columns - 1)
    count, cells = int(labels.max()) + 1, rows * columns
    cell = row[:, None] * columns + column  # (H, W)
    place = labels.astype(np.int64) * cells + cell
    shares = np.bincount(place.reshape(-1), minlength=count * cells).reshape(count, cells)
    shares = shares / shares.sum(axis=1, keepdims=True)
    means: NDArray[np.float32] = shares.astype(np.float32) @ dense.features.reshape(cells, channels)
    return means


def neighbour_pairs(labels: NDArray[Any]) -> NDArray[np.int64]:
    """The superpixels that share a side of a pixel, `(E, 2)`, each pair once, ascending."""
    ids = labels.astype(np.int64)
    pairs = np.concatenate(
        [
            np.stack([ids[:, :-1].reshape(-1), ids[:, 1:].reshape(-1)], axis=1),
            np.stack([ids[:-1].reshape(-1), ids[1:].reshape(-1)], axis=1),
        ]
    )
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    count = int(ids.max()) + 1
    keys = np.unique(pairs[:, 0] * count + pairs[:, 1])
    return np.stack(np.divmod(keys, count), axis=1)


def label_boxes(labels: NDArray[Any], count: int) -> Boxes:
    """The tight box of each label, `(count, 4)` xyxy."""
    height, width = labels.shape
    ids = labels.reshape(-1).astype(np.int64)
    y, x = np.divmod(np.arange(height * width), width)
    low, high = np.full((count, 2), np.inf), np.zeros((count, 2))
    for axis, at in enumerate((x, y)):
        np.minimum.at(low[:, axis], ids, at)
        np.maximum.at(high[:, axis], ids, at + 1)
    return np.concatenate([low, high], axis=1)


def normalised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows at length 1; those of zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = features / np.maximum(length, 1e-12)
    return unit
