"""What is learnt and what words say, as one probability for each name.

A multinomial logistic regression of four numbers, by Newton's method, on the answers that a fit
without the region's image gives: stacked generalisation (Wolpert 1992), which weighs the two sides
and calibrates them at once. A Gaussian prior around coefficients of other data keeps it sane where
there are few corrections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# of the words' logit of a name: a third of it with this many examples, and ever less
HALF_WORDS = 3.0
# per coefficient (see `Mixing`) its prior mean and precision, fitted to eight data sets' training
# photographs, from three regions a class to all (`benchmarks/teaching_prior.py`)
PRIOR = (6.6, 0.9, 0.3, 1.2)
PRECISION = (0.1, 10.0, 3.0, 3.0)
# regions that the coefficients are fitted to: four numbers need no more
_FITTED_TO = 1000
_STEPS = 25


@dataclass(frozen=True)
class Mixing:
    """Coefficients of a name's logit.

    Attributes:
        learnt: of the ridge's answer, which is about 1 for the right name and 0 for the others.
        words: of the words' logit, which loses weight with every example of the name.
        unshown: of a name without any example.
        none: of "none of these".
    """

    learnt: float
    words: float
    unshown: float
    none: float

    def __post_init__(self) -> None:
        values = (self.learnt, self.words, self.unshown, self.none)
        if not np.isfinite(values).all():
            raise InputError(f"mixing coefficients that are not finite: {values}")

    def probabilities(self, learnt: Doubles, words: Doubles, counts: Doubles) -> Doubles:
        """Of each name, and last of "none of these", `(M, C + 1)`; see `_design`."""
        design = _design(learnt, words, counts)
        return _softmax(design @ [self.learnt, self.words, self.unshown, self.none])


def fit_mixing(learnt: Doubles, words: Doubles, counts: Doubles, labels: Labels) -> Mixing:
    """Fit the coefficients to answers for left-out images.

    Args:
        learnt: `(n, C + 1)`, the ridge's answers, last for "none of these"; 0 for names without
            example.
        words: `(n, C)`, the words' logits.
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
    """What the coefficients multiply, `(M, C + 1, 4)`; the last choice is "none of these"."""
    regions, names = words.shape
    design = np.zeros((regions, names + 1, 4))
    design[:, :, 0] = learnt
    # only differences count, and "none of these" stands where an average name does
    relative = words - words.mean(axis=1, keepdims=True)
    design[:, :names, 1] = relative / (1 + counts / HALF_WORDS)
    design[:, :names, 2] = counts == 0
    design[:, names, 3] = 1
    return design


def _softmax(logits: Doubles) -> Doubles:
    exponentials: Doubles = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
