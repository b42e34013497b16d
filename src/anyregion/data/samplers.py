"""Samplers: which images a step gets, as a function of the seed and the step, nothing to save."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.errors import InputError


def repeat_factors(annotations: Annotations, threshold: float) -> NDArray[np.float64]:
    """How often each image is drawn in an epoch, `(I,)`, at least 1 (LVIS, appendix B).

    `max over the image's classes of max(1, sqrt(threshold / share of images with the class))`;
    regions of crowds do not count. A threshold of 0 gives ones.
    """
    images = annotations.image_of[~annotations.crowd]  # (R,)
    labels = annotations.labels[~annotations.crowd]
    pairs = np.unique(np.stack([images, labels], axis=1), axis=0)  # (P, 2) each image's classes
    share = np.bincount(pairs[:, 1], minlength=len(annotations.categories)) / len(annotations)
    class_factors = np.ones(len(annotations.categories))  # (C,)
    occurs = share > 0
    class_factors[occurs] = np.maximum(1.0, np.sqrt(threshold / share[occurs]))
    factors = np.ones(len(annotations))
    np.maximum.at(factors, pairs[:, 0], class_factors[pairs[:, 1]])
    return factors


class EpochSampler:
    """An endless stream of positions, epoch after epoch, each shuffled anew.

    An image of factor `f` comes `floor(f)` or `ceil(f)` times in an epoch, `f` on average; all
    epochs are equally long, so that the place in the stream tells the epoch.

    Args:
        factors: `(n,)`, all above 0; ones for every image once an epoch.
        seed: any number of whole numbers: of the run, of the data set.

    Raises:
        InputError: nothing to draw from.
    """

    def __init__(self, factors: NDArray[np.float64], *seed: int) -> None:
        if not len(factors) or not factors.min() > 0:
            raise InputError("nothing to draw images from")
        self.factors = factors
        self.length = max(1, round(float(factors.sum())))
        self._seed = seed
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def draw(self, start: int, count: int) -> list[int]:
        """The positions at `start`, `start + 1`, ... of the stream."""
        positions: list[int] = []
        for place in range(start, start + count):
            epoch, row = divmod(place, self.length)
            if epoch not in self._orders:
                self._orders[epoch] = self._shuffle(epoch)
                while len(self._orders) > 2:  # a batch reaches from one epoch into the next
                    self._orders.popitem(last=False)
            positions.append(int(self._orders[epoch][row]))
        return positions

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        """The positions of one epoch in their order, `(length,)`."""
        rng = np.random.default_rng([*self._seed, epoch])
        order = rng.permutation(len(self.factors))
        if np.all(self.factors == 1):
            return order
        # systematic sampling: a comb of equal teeth over the images' factors laid end to end
        # gives every image the floor or the ceiling of its factor, and the epoch its exact length
        ends = np.cumsum(self.factors[order])  # (n,)
        ends *= self.length / ends[-1]
        teeth = np.minimum(np.floor(ends + rng.random()).astype(np.int64), self.length)
        teeth[-1] = self.length  # whatever rounding left
        counts = teeth - np.concatenate([[0], teeth[:-1]])
        return rng.permutation(np.repeat(order, counts))


class Mixture:
    """Which data set a step draws from, by whole-numbered ratios: exact in every `sum(ratios)`.

    Raises:
        InputError: no ratio, or one below 1.
    """

    def __init__(self, ratios: Sequence[int], *seed: int) -> None:
        if not ratios or min(ratios) < 1:
            raise InputError(f"ratios must be whole numbers from 1: {list(ratios)}")
        # one round of steps, shuffled anew each time it is used up
        self._round = np.repeat(np.arange(len(ratios)), ratios)
        self._ratios = tuple(ratios)
        self._seed = seed

    def at(self, step: int) -> tuple[int, int]:
        """The data set of a step, and how many steps before it drew from the same."""
        number, place = divmod(step, len(self._round))
        order = np.random.default_rng([*self._seed, number]).permutation(self._round)
        data_set = int(order[place])
        before = number * self._ratios[data_set] + int((order[:place] == data_set).sum())
        return data_set, before
