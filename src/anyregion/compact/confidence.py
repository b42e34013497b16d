"""The confidence of `compact`'s answers: a logistic regression on how far a name is ahead.

A cosine alone says little: the best of a thousand names is nearer than the best of three, whatever
is shown. What a name is ahead of the others by, how many there are, whether it was ever trained and
whether the region is like anything that was, say how often such an answer is right.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

SHARPNESS = 10.0
"""Of the soft maximum of the other names' cosines: 5 points behind count half as much."""
NONE = 0.1
"""The cosine that stands for "none of these": about that of the best of a few absent names."""
FEATURES = ("margin", "names", "new", "doubt")


@dataclass(frozen=True)
class Confidence:
    """Weights of the features (see `answer_features`) in the logit, and its bias."""

    bias: float
    margin: float
    names: float
    new: float
    doubt: float

    def __post_init__(self) -> None:
        # a name that is further ahead may never be the less probable one
        if not np.isfinite(astuple(self)).all() or self.margin < 0:
            raise ValueError(f"{self}: weights must be finite, that of the margin from 0")

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """How often answers with these features `(..., 4)` are right, `(...)`."""
        weights = np.array([self.margin, self.names, self.new, self.doubt])
        logits = np.clip(features @ weights + self.bias, -500, 500)  # where exp does not overflow
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return probabilities


def answer_features(
    cosines: NDArray[np.floating],
    exponentials: NDArray[np.float64],
    *,
    names: int,
    new: NDArray[np.floating],
    doubt: NDArray[np.floating],
) -> NDArray[np.float64]:
    """The features of answers, in the order of `FEATURES`, `(M, K, 4)`.

    The margin is the cosine less a soft maximum of all other names' cosines and of `NONE`.

    Args:
        cosines: `(M, K)` of regions with some names, with what these gain.
        exponentials: `(M,)`, the sum over all names of `exp(SHARPNESS * cosine)`.
        names: how many names there are.
        new: `(M,)`, how unlike all trained names each region's best name is, from 0 to 1: of the
            best for all of a region's names, or one behind could have the higher probability.
        doubt: `(M,)`, how unlike all trained names the regions are, from 0 to 1.
    """
    own = np.exp(SHARPNESS * cosines.astype(np.float64))
    # never below 0 by rounding: the name itself is among all
    others = np.log(np.maximum(exponentials[:, None] - own, 0) + np.exp(SHARPNESS * NONE))
    features = np.empty((*cosines.shape, len(FEATURES)))
    features[..., 0] = cosines - others / SHARPNESS
    features[..., 1] = np.log(names)
    features[..., 2] = new[:, None]
    features[..., 3] = doubt[:, None]
    return features
