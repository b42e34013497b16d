"""Which images a step gets: a function of the seed and the step, with nothing to save."""

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
    counts = (annotations.starts[1:] - annotations.starts[:-1]).astype(np.int64)
    images = np.repeat(np.arange(len(annotations)), counts)[~annotations.crowd]
    labels = annotations.labels[~annotations.crowd]
    pairs = np.unique(np.stack([images, labels], axis=1), axis=0)
    share = np.bincount(pairs[:, 1], minlength=len(annotations.categories)) / len(annotations)
    of_class = np.ones(len(annotations.categories))
    seen = share > 0
    of_class[seen] = np.maximum(1.0, np.sqrt(threshold / share[seen]))
    factors = np.ones(len(annotations))
    np.maximum.at(factors, pairs[:, 0], of_class[pairs[:, 1]])
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
        return [
            int(self._order(place // self.length)[place % self.length])
            for place in range(start, start + count)
        ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders[epoch] = self._make(epoch)
            while len(self._orders) > 2:  # a batch reaches from one epoch into the next
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def _make(self, epoch: int) -> NDArray[np.int64]:
        draw = np.random.default_rng([*self._seed, epoch])
        order = draw.permutation(len(self.factors))
        if np.all(self.factors == 1):
            return order
        # systematic sampling: a comb of equal teeth over the images' factors laid end to end
        ends = np.cumsum(self.factors[order])
        ends *= self.length / ends[-1]
        teeth = np.minimum(np.floor(ends + draw.random()).astype(np.int64), self.length)
        teeth[-1] = self.length
        counts = teeth - np.concatenate([[0], teeth[:-1]])
        return draw.permutation(np.repeat(order, counts))


class Mixture:
    """Which data set a step draws from, by whole-numbered ratios: exact in every `sum(ratios)`.

    Raises:
        InputError: no ratio, or one below 1.
    """

    def __init__(self, ratios: Sequence[int], *seed: int) -> None:
        if not ratios or min(ratios) < 1:
            raise InputError(f"ratios must be whole numbers from 1: {list(ratios)}")
        self._round = np.repeat(np.arange(len(ratios)), ratios)
        self._ratios = tuple(ratios)
        self._seed = seed

    def at(self, step: int) -> tuple[int, int]:
        """The data set of a step, and how many steps before it drew from the same."""
        number, place = divmod(step, len(self._round))
        order = np.random.default_rng([*self._seed, number]).permutation(self._round)
        chosen = int(order[place])
        return chosen, number * self._ratios[chosen] + int((order[:place] == chosen).sum())
