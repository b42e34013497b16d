"""What is learnt and what words say, as one probability for each name.

A multinomial logistic regression of five numbers, by Newton's method, on the answers that a fit
without the region's image gives: stacked generalisation (Wolpert 1992), which weighs the two sides
and calibrates them at once. A Gaussian prior around coefficients of other data keeps it sane where
there are few corrections.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# The part of the words' weight that is lost with examples is halved by this many of a name
HALF_WORDS = 3.0
# Below this probability a name is not told from others that words do not mean
_FLOOR = 0.003
# Per coefficient (see `Mixing`) its prior mean and precision. Means are those that fit held-out
# thirds of the training photographs of eight data sets and of COCO's `val` together, from three
# regions a class to all; there, looser priors lose up to 15 points with few corrections of two
# classes, and tighter ones calibration with many. The data say little of "none of these"
PRIOR = (9.0, 0.6, 0.4, -0.3, -2.0)
PRECISION = (0.1, 3.0, 3.0, 3.0, 1.0)
# regions that the coefficients are fitted to: five numbers need no more
_FITTED_TO = 600
_STEPS = 25


@dataclass(frozen=True)
class Mixing:
    """Coefficients of a name's logit.

    Attributes:
        learnt: of the ridge's answer, which is about 1 for the right name and 0 for the others.
        fading: of the words' log-probability, with less weight the more examples the name has.
        words: of the same with its full weight.
        unshown: of a name without any example.
        none: of "none of these".
    """

    learnt: float
    fading: float
    words: float
    unshown: float
    none: float

    def __post_init__(self) -> None:
        if not np.isfinite(astuple(self)).all():
            raise InputError(f"mixing coefficients that are not finite: {self}")

    def probabilities(self, learnt: Doubles, words: Doubles, counts: Doubles) -> Doubles:
        """Of each name, and last of "none of these", `(M, C + 1)`; see `_design`."""
        design = _design(learnt, words, counts)
        return _softmax(design @ np.array(astuple(self)))


def fit_mixing(learnt: Doubles, words: Doubles, counts: Doubles, labels: Labels) -> Mixing:
    """Fit the coefficients to answers for left-out images.

    Args:
        learnt: `(n, C + 1)`, the ridge's answers, last for "none of these"; 0 for names without
            example.
        words: `(n, C)`, the words' probabilities.
        counts: `(n, C)`, how many examples each name has in other images.
        labels: `(n,)`, the right name; C for "none of these".
    """
    chosen = np.arange(len(labels))
    if len(labels) > _FITTED_TO:
        chosen = np.linspace(0, len(labels) - 1, _FITTED_TO).astype(np.int64)
    design = _design(learnt[chosen], words[chosen], counts[chosen])
    coefficients = fit_logits(design, labels[chosen], np.array(PRIOR), np.array(PRECISION))
    return Mixing(*coefficients.tolist())


def fit_logits(
    design: Doubles,
    labels: Labels,
    prior: Doubles,
    precision: Doubles,
    weights: Doubles | None = None,
) -> Doubles:
    """Coefficients `(k,)` of a conditional logit with a Gaussian prior, by damped Newton steps.

    Args:
        design: `(n, C, k)`; a choice's logit is its row times the coefficients.
        labels: `(n,)`, which choice is right.
        prior, precision: `(k,)`, mean and inverse variance.
        weights: `(n,)`; None for 1.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    right = design[np.arange(len(labels)), labels]  # (n, k)

    def loss(coefficients: Doubles) -> float:
        logits = design @ coefficients  # (n, C)
        high = logits.max(axis=1, initial=-np.inf)
        sums = high + np.log(np.exp(logits - high[:, None]).sum(axis=1))
        pull = 0.5 * (precision * (coefficients - prior) ** 2).sum()
        return float(pull + (weights * (sums - right @ coefficients)).sum())

    current = prior.astype(np.float64)
    value = loss(current)
    for _ in range(_STEPS):
        shares = _softmax(design @ current) * weights[:, None]  # (n, C)
        means = (shares[:, None] @ design)[:, 0]  # (n, k), weighted
        gradient = precision * (current - prior) + (means - weights[:, None] * right).sum(axis=0)
        flat = design.reshape(-1, design.shape[-1])
        safe = np.maximum(weights, 1e-300)[:, None]
        hessian = np.diag(precision) + (flat * shares.reshape(-1, 1)).T @ flat
        hessian -= (means / safe).T @ means
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        # the loss is convex: only a step that overshoots is shortened
        while (lower := loss(current - size * step)) > value and size > 1e-6:
            size /= 2
        if lower > value:
            break
        current, gain, value = current - size * step, value - lower, lower
        if gain < 1e-9 * max(1.0, abs(value)):
            break
    return current


def _design(learnt: Doubles, words: Doubles, counts: Doubles) -> Doubles:
    """What the coefficients multiply, `(M, C + 1, 5)`; the last choice is "none of these"."""
    regions, names = words.shape
    design = np.zeros((regions, names + 1, 5))
    design[:, :, 0] = learnt
    logs = np.log(words + _FLOOR)
    # only differences count, and "none of these" stands where an average name does
    logs -= logs.mean(axis=1, keepdims=True)
    design[:, :names, 1] = logs / (1 + counts / HALF_WORDS)
    design[:, :names, 2] = logs
    design[:, :names, 3] = counts == 0
    design[:, names, 4] = 1
    return design


def _softmax(logits: Doubles) -> Doubles:
    exponentials: Doubles = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
