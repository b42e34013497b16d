"""Vectors to cluster, and the random numbers of k-means."""

from __future__ import annotations

import numpy as np
import torch

from anyregion.torch_utils.kmeans import draw


def features(groups, count, width, *, kinds=12, seed=0):
    """Like a network's: not negative, some numbers shared, at length 1, kinds that overlap."""
    rng = np.random.default_rng(seed)
    shape = (groups, kinds, width)
    means = np.abs(rng.normal(size=shape)) * (rng.random(shape) < 0.4)
    kind = rng.integers(kinds, size=(groups, count, 1))
    rows = np.take_along_axis(means, kind, axis=1)
    rows = rows + 0.8 * np.abs(rng.normal(size=rows.shape))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return torch.from_numpy(rows.astype(np.float32))


def draws_for(groups, k, seed=0):
    return draw([np.random.default_rng([seed, group]) for group in range(groups)], k)
