"""Merge trees, against hand-made images and a slow agglomeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.region_trees.tree import (
    label_boxes,
    merge_tree,
    neighbour_pairs,
    normalised,
    superpixel_features,
)

# four columns: the outer two pairs are alike
COLUMNS = np.repeat(np.array([[0, 1, 2, 3]]), 4, axis=0)
ALIKE = np.array([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]], dtype=np.float32)


def random_labels(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    labels = (np.arange(12)[:, None] // 3 * 5 + np.arange(20) // 4).astype(np.int64)
    return labels, random.random((20, 6)).astype(np.float32)


def test_alike_neighbours_are_joined_first() -> None:
    tree = merge_tree(COLUMNS, ALIKE)
    assert sorted(map(sorted, tree.children[:2].tolist())) == [[0, 1], [2, 3]]
    assert tree.members()[6].tolist() in ([0, 1, 2, 3], [2, 3, 0, 1])
    assert tree.boxes[6].tolist() == [0, 0, 4, 4]
    assert tree.areas.tolist() == [4, 4, 4, 4, 8, 8, 16]
    assert tree.parents.tolist()[6] == 6
    np.testing.assert_allclose(tree.features[6], ALIKE.mean(axis=0), atol=1e-6)


def test_equals_a_slow_agglomeration() -> None:
    labels, features = random_labels(3)
    tree = merge_tree(labels, features)
    regions = {i: [i] for i in range(20)}
    areas = np.bincount(labels.ravel())
    edges = neighbour_pairs(labels).tolist()
    for step, joined in enumerate(tree.children.tolist()):
        best = None
        for one, other in itertools.combinations(sorted(regions), 2):
            a, b = regions[one], regions[other]
            if not any((i in a and j in b) or (i in b and j in a) for i, j in edges):
                continue
            u, v = (
                normalised(np.average(features[m], axis=0, weights=areas[m])[None])[0]
                for m in (a, b)
            )
            x, y = areas[a].sum(), areas[b].sum()
            cost = (1 - u @ v) * np.sqrt(2 * x * y / (x + y) / labels.size)
            if best is None or cost < best[0]:
                best = (cost, one, other)
        assert best is not None
        assert sorted(best[1:]) == sorted(joined)
        regions[20 + step] = regions.pop(best[1]) + regions.pop(best[2])


def test_heights_never_fall_towards_the_root() -> None:
    for seed in range(5):
        tree = merge_tree(*random_labels(seed))
        assert (tree.heights[tree.parents] >= tree.heights).all()


def test_one_superpixel_is_a_tree() -> None:
    tree = merge_tree(np.zeros((3, 4), dtype=np.uint8), np.ones((1, 2), dtype=np.float32))
    assert tree.boxes.tolist() == [[0, 0, 4, 3]]
    assert len(tree.children) == 0


def test_features_are_means_over_pixels() -> None:
    random = np.random.default_rng(0)
    dense = DenseMap(random.random((3, 5, 4)).astype(np.float32), (6.0, 10.0))
    labels = random.integers(0, 4, (6, 8))  # the image has 8 of the 10 columns
    pixels = dense.features[np.arange(6)[:, None] // 2, np.arange(8) // 2]
    expected = [pixels[labels == i].mean(axis=0) for i in range(4)]
    np.testing.assert_allclose(superpixel_features(dense, labels, (6, 8)), expected, atol=1e-6)
    # of an image of twice the size, with a grid that covers as much of it
    large = DenseMap(dense.features, (12.0, 20.0))
    np.testing.assert_allclose(superpixel_features(large, labels, (12, 16)), expected, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_and_neighbours(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 5, (4, 6))
    for i, box in enumerate(label_boxes(labels, 5).tolist()):
        y, x = np.nonzero(labels == i)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    pairs = {
        tuple(sorted((labels[y, x], labels[v, u])))
        for y, x in itertools.product(range(4), range(6))
        for v, u in ((y + 1, x), (y, x + 1))
        if v < 4 and u < 6 and labels[y, x] != labels[v, u]
    }
    assert set(map(tuple, neighbour_pairs(labels).tolist())) == pairs
