"""How familiar a region is: whether it is of the kind that was corrected, or of any other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.teaching.features import Layout, without_place
from anyregion.teaching.ridge import by_image, choose_landmarks, fit_ridge

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# What is known before any correction of how alike a region and its nearest one elsewhere look, and
# how many corrections that counts as: of clothes, streets, facades and blood cells means are 0.57
# to 0.80, deviations about 0.1
PRIOR_MEAN, PRIOR_DEVIATION, PRIOR_COUNT = 0.65, 0.12, 10.0
# Half familiar is a region this many deviations less alike than a corrected one is on average, and
# this many deviations are a unit of the logit
FAR, UNIT = 3.0, 0.2
# Of a line between corrections and everyday regions: how many deviations below the corrections'
# mean half familiar may lie at most, and the unit of the logit. Regions of other photographs of the
# same kind reach from 0.5 to 1 on it, those of COCO are below 0.4, all but a twentieth
NEAR, LINE_UNIT = 2.0, 0.05
# deviation of what one photograph's corrections say of another's
OTHERS = 0.4
# deviations above the mean of everyday regions
AWAY = 1.5
# of 0.03 to 3 what keeps most regions of other facades with corrections of three photographs
LINE_PENALTY = 1.0
# corrections that such a line is fitted to, the first ones
FITTED_TO = 512


@dataclass(frozen=True, eq=False)
class Familiarity:
    """From a region's score to how familiar it is.

    Regions of other kinds than the corrected ones are no business of what was learnt: there the
    words answer, as they would without corrections.

    Attributes:
        threshold, unit: where a region is half familiar, and the unit of the logit.
        direction: `(F,)`, whose product with a region's row is its score; None: it is how alike the
            nearest corrected region looks.
    """

    threshold: float
    unit: float
    direction: Floats | None = None

    def of(self, scores: NDArray[np.floating]) -> Doubles:
        """How familiar regions with these scores are, `(M,)` from 0 to 1."""
        logits = (scores.astype(np.float64) - self.threshold) / self.unit
        familiar: Doubles = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        return familiar


def fit_likeness(alike: NDArray[np.floating]) -> Familiarity:
    """By how alike each corrected region looks to the nearest one of another image, `(n,)`.

    Regions without such a one (-inf: all corrections are of one image) say nothing.
    """
    finite = alike[np.isfinite(alike)].astype(np.float64)
    count = len(finite) + PRIOR_COUNT
    mean = (finite.sum() + PRIOR_COUNT * PRIOR_MEAN) / count
    prior = PRIOR_COUNT * (PRIOR_DEVIATION**2 + (PRIOR_MEAN - mean) ** 2)
    deviation = float(np.sqrt((((finite - mean) ** 2).sum() + prior) / count))
    return Familiarity(float(mean) - FAR * deviation, UNIT * deviation)


def fit_line(
    rows: Floats, images: Labels, layout: Layout, everyday: Floats
) -> tuple[Familiarity, Doubles]:
    """By a line between corrections and everyday regions, wherever they lie (ridge regression).

    Half familiar is where both are equally many deviations away, but never so near the corrections
    that many of them were strange: whoever corrects everyday photographs is not to be told that
    they are.

    Args:
        rows: `(n, F)` of corrections.
        images: `(n,)`, the image of each.
        layout: of the rows.
        everyday: `(R, F)`, rows of everyday regions.

    Returns:
        The fit, and the score `(n,)` of each correction by a fit without its image.
    """
    joined = without_place(np.concatenate([rows, everyday]), layout)  # (n + R, F)
    classes = np.repeat([0, 1], [len(rows), len(everyday)])
    # every everyday region is of an image of its own
    alone = np.arange(len(everyday)) + images.max(initial=0) + 1
    landmarks = choose_landmarks(classes)
    fit = fit_ridge(
        joined @ joined[landmarks].T,
        landmarks,
        classes,
        by_image(np.concatenate([images, alone])),
        2,
        LINE_PENALTY,
    )
    own, others = fit.left_out[: len(rows), 0], fit.left_out[len(rows) :, 0]
    # a fit says nothing of the only image: there is no other to be like
    if len(np.unique(images)) < 2:
        own = np.ones(len(rows))
    # a few photographs do not say how much others differ from them
    near = float(np.hypot(max(own.std(), 0.05), OTHERS / np.sqrt(len(np.unique(images)))))
    far = max(float(others.std()), 0.05)
    middle = (others.mean() * near + own.mean() * far) / (near + far)
    lowest = float(own.mean()) - NEAR * near
    # where the two are clearly apart, most everyday regions are strange all the same
    if own.mean() > others.mean() + 2 * AWAY * far:
        lowest = max(lowest, float(others.mean()) + AWAY * far)
    threshold = min(float(middle), lowest)
    direction = joined[landmarks].T @ fit.coefficients[:, 0].astype(np.float32)
    return Familiarity(threshold, LINE_UNIT, direction), own
