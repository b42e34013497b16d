"""How familiar a region is: whether it looks like anything that was corrected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# What is known before any correction of how alike a region and its nearest one elsewhere look, and
# how many corrections that counts as: of clothes, streets, facades and blood cells means are 0.57
# to 0.80, deviations about 0.1
PRIOR_MEAN, PRIOR_DEVIATION, PRIOR_COUNT = 0.65, 0.12, 10.0
# Half familiar is a region this many deviations less alike than a corrected one is on average, and
# this many deviations are a unit of the logit
FAR, UNIT = 2.5, 0.33


@dataclass(frozen=True)
class Familiarity:
    """From how alike the nearest corrected region looks to how familiar a region is.

    Regions of other kinds than the corrected ones are no business of what was learnt: there the
    words answer, as they would without corrections.

    Attributes:
        mean, deviation: of corrected regions, of how alike the nearest one of another image looks.
    """

    mean: float = PRIOR_MEAN
    deviation: float = PRIOR_DEVIATION

    @classmethod
    def fit(cls, alike: Doubles) -> Familiarity:
        """From how alike each corrected region looks to the nearest one of another image, `(n,)`.

        Regions without such a one (-inf: all corrections are of one image) say nothing.
        """
        alike = alike[np.isfinite(alike)]
        count = len(alike) + PRIOR_COUNT
        mean = (alike.sum() + PRIOR_COUNT * PRIOR_MEAN) / count
        squares = ((alike - mean) ** 2).sum() + PRIOR_COUNT * (
            PRIOR_DEVIATION**2 + (PRIOR_MEAN - mean) ** 2
        )
        return cls(float(mean), float(np.sqrt(squares / count)))

    def of(self, alike: Doubles) -> Doubles:
        """How familiar regions are, `(M,)` from 0 to 1."""
        logits = ((alike - self.mean) / self.deviation + FAR) / UNIT
        familiar: Doubles = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        return familiar
