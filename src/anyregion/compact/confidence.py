"""The confidence of `compact`'s answers: a logistic regression on how far a name is ahead.

A cosine alone says little: the best of a thousand names is nearer than the best of three, whatever
is shown. What a name is ahead of the others by, how many of them were never trained, whether it
was, whether the region is like anything that was, and whether it is more like a trained name that
the vocabulary lacks, say how often such an answer is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

SHARPNESS = 20.0
"""Of the soft maximum of the other names' cosines, in new fits: 5 points behind count a third as
much. It is the softmax's in the region head's training."""
NONE = 0.0
"""The cosine that stands for "none of these", in new fits: that of a name and anything else."""
FEATURES = ("margin", "names", "new_names", "new", "doubt", "outside")


@dataclass(frozen=True)
class Confidence:
    """Weights of the features (see `answer_features`) in the logit, and its bias.

    Attributes:
        bias: of the logit.
        margin, names, new_names, new, doubt, outside: the weights. That of how many names there are
            is 0 in new fits: how many of them are new says more, for any number of them.
        sharpness, none: of the margin (`SHARPNESS`, `NONE`).

    The defaults are those of files of before these were stated.
    """

    bias: float
    margin: float
    names: float
    new: float
    doubt: float
    new_names: float = 0.0
    outside: float = 0.0
    sharpness: float = 10.0
    none: float = 0.1

    def __post_init__(self) -> None:
        # a name that is further ahead may never be the less probable one
        if not np.isfinite(astuple(self)).all() or self.margin < 0 or self.sharpness <= 0:
            raise ValueError(
                f"{self}: numbers must be finite, the margin's weight from 0, sharpness above 0"
            )

    @classmethod
    def of(cls, bias: float, weights: Sequence[float]) -> Confidence:
        """Of weights in the order of `FEATURES`, with today's margin."""
        by_name = dict(zip(FEATURES, weights, strict=True))
        return cls(bias=bias, sharpness=SHARPNESS, none=NONE, **by_name)

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """How often answers with these features `(..., 6)` are right, `(...)`."""
        weights = np.array([getattr(self, name) for name in FEATURES])
        logits = np.clip(features @ weights + self.bias, -500, 500)  # where exp does not overflow
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return probabilities


def answer_features(
    cosines: NDArray[np.floating],
    exponentials: NDArray[np.float64],
    *,
    sharpness: float,
    none: float,
    names: int,
    new_names: float,
    new: NDArray[np.floating],
    doubt: NDArray[np.floating],
    outside: NDArray[np.floating],
) -> NDArray[np.float64]:
    """The features of answers, in the order of `FEATURES`, `(M, K, 6)`.

    The margin is the cosine less a soft maximum of all other names' cosines and of `none`. The
    last three are of a region's best name for all of its names, or one behind could have the
    higher probability.

    Args:
        cosines: `(M, K)` of regions with some names, with what these gain.
        exponentials: `(M,)`, the sum over all names of `exp(sharpness * cosine)`.
        sharpness: of the soft maximum.
        none: the cosine that stands for "none of these".
        names: how many names there are.
        new_names: how unlike all trained names they are on average, from 0 to 1.
        new: `(M,)`, how unlike all trained names each region's best name is, from 0 to 1.
        doubt: `(M,)`, how unlike all trained names the regions are, from 0 to 1.
        outside: `(M,)`, by how much a trained name unlike the best one is nearer to the region
            (`Calibration.outside`).
    """
    own = np.exp(sharpness * cosines.astype(np.float64))
    # never below 0 by rounding: the name itself is among all
    others = np.log(np.maximum(exponentials[:, None] - own, 0) + np.exp(sharpness * none))
    features = np.empty((*cosines.shape, len(FEATURES)))
    features[..., 0] = cosines - others / sharpness
    features[..., 1] = np.log(names)
    features[..., 2] = new_names
    features[..., 3] = new[:, None]
    features[..., 4] = doubt[:, None]
    features[..., 5] = outside[:, None]
    return features
