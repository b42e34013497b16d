"""Which regions come when: epochs without state, from the seed and a position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.training.seeds import generator


@dataclass(frozen=True)
class SampledRegions:
    """Some regions of one image, at one place of a training.

    Attributes:
        kind: the name of its epochs.
        position: how many items of the kind came before it; what is random about it follows from
            both.
        image: of the data set.
        flipped: whether it is the mirror image.
        rows: of the annotations.
    """

    kind: str
    position: int
    image: int
    flipped: bool
    rows: tuple[int, ...]


class RegionSampler:
    """Every region once an epoch, in an order of its own, the image mirrored in every other epoch.

    Args:
        rows: per image the rows to train on; images without any are left out.
        at_most: regions of an image in one item; None for all.
        seed: of everything random.
        kind: a name, so that two of them in one training differ.

    Raises:
        InputError: no image has a row.
    """

    def __init__(
        self,
        rows: Sequence[NDArray[np.int64]],
        *,
        at_most: int | None,
        seed: int,
        kind: str = "rows",
    ) -> None:
        self._rows = rows
        self._at_most = at_most
        self._seed = seed
        self._kind = kind
        self._images = [i for i, found in enumerate(rows) if len(found)]
        self.items = sum(-(-len(rows[i]) // (at_most or len(rows[i]))) for i in self._images)
        if not self.items:
            raise InputError("no image has a region to train on")
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def item(self, position: int) -> SampledRegions:
        """The item that comes after `position` others."""
        epoch, place = divmod(position, self.items)
        image, rows = self._epoch(epoch)[place]
        return SampledRegions(
            self._kind, position, image, bool((epoch + image + self._seed) % 2), rows
        )

    def _shuffled(self, epoch: int) -> list[tuple[int, tuple[int, ...]]]:
        draw = generator(self._seed, self._kind, epoch)
        parts = []
        for image in self._images:
            mixed = draw.permutation(self._rows[image]).tolist()
            step = self._at_most or len(mixed)
            parts += [(image, tuple(mixed[s : s + step])) for s in range(0, len(mixed), step)]
        return [parts[i] for i in draw.permutation(len(parts))]
