"""Ridge regression in closed form, with every image's answers as if it had been left out.

The features of regions are compared by their products (a linear kernel). Up to `LANDMARKS` regions
are a basis for all others (subset of regressors; Rasmussen and Williams 2006, section 8.3.1): with
fewer regions this is kernel ridge regression itself, with more the cost grows with their number
alone. What a fit says of an image that it was not fitted to follows from blocks of the matrix that
maps targets to answers, without another fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# of 2,563 regions of street scenes 512 lose half a point of top-1, of 1,076 of clothes nothing;
# 256 lose one to two
LANDMARKS = 512
# Each region weighs its class's count to the power of minus this. With 0.5 as many regions are
# named rightly as with equal weights, and of clothes' classes six points more on average
BALANCE = 0.5
PENALTIES = (0.03, 0.1, 0.3, 1.0)
# how many regions the penalty is chosen by, the first ones: the best one hardly changes with more
CHOSEN_BY = 1024
# share of the landmarks' mean square that is added to the diagonal of their products
_JITTER = 1e-5


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A fit to one-hot targets.

    Attributes:
        coefficients: `(m, C)` of the landmarks; an answer is the kernel with them times these.
        left_out: `(n, C)`, the answers for each image's regions by a fit without that image.
        error: mean weighted squared error of `left_out`.
    """

    coefficients: Doubles
    left_out: Doubles
    error: float


def class_weights(labels: Labels, classes: int) -> Doubles:
    """The weight of each region, `(n,)` of mean 1: its class's count to the power `-BALANCE`."""
    counts = np.bincount(labels, minlength=classes)
    weights = counts[labels].astype(np.float64) ** -BALANCE
    return np.asarray(weights / weights.mean())


def choose_landmarks(labels: Labels, limit: int = LANDMARKS) -> NDArray[np.int64]:
    """Positions of at most `limit` regions, in order: the first ones of every class.

    Args:
        labels: `(n,)` classes.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    # (n,) how many regions of its class come before each
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    earlier = np.empty(len(labels), dtype=np.int64)
    earlier[order] = np.arange(len(labels)) - starts
    return np.sort(np.argsort(earlier, kind="stable")[:limit])


def by_image(images: Labels) -> list[NDArray[np.int64]]:
    """The rows of each image, of `(n,)` images."""
    order = np.argsort(images, kind="stable")
    starts = np.unique(images[order], return_index=True)[1]
    return np.split(order, starts[1:])


def fit_ridge(
    kernel: Floats,
    landmarks: NDArray[np.int64],
    labels: Labels,
    groups: Sequence[NDArray[np.int64]],
    classes: int,
    penalty: float,
) -> RidgeFit:
    """Fit one-hot targets of `labels`, weighted by `class_weights`.

    Args:
        kernel: `(n, m)`, products of the regions' features with the landmarks', constant included.
        landmarks: `(m,)`, which regions are the landmarks.
        labels: `(n,)` classes, from 0.
        groups: the rows of each image (`by_image`).
        classes: how many classes there are.
        penalty: lambda, against features of mean square length about 1.
    """
    targets = np.zeros((len(labels), classes))
    targets[np.arange(len(labels)), labels] = 1
    roots = np.sqrt(class_weights(labels, classes))[:, None]  # (n, 1)
    weighted = kernel * roots  # (n, m) float64
    basis = kernel[landmarks].astype(np.float64)  # (m, m)
    # equal regions make it singular, and products in single precision a little less than that
    basis[np.diag_indices_from(basis)] += _JITTER * np.trace(basis) / len(basis)
    normal = weighted.T @ weighted + penalty * basis
    factor = _inverse_triangle(np.asarray(np.linalg.cholesky(normal), dtype=np.float64))  # (m, m)
    coefficients = factor.T @ (factor @ (weighted.T @ (targets * roots)))  # (m, C)
    residuals = (targets - kernel @ coefficients) * roots  # (n, C)
    # (n, m), whose products with each other are the hat matrix. All of them are at most 1 and made
    # of a root, so that single precision, which takes half the time, is off by 1e-5
    spread = weighted.astype(np.float32) @ factor.T.astype(np.float32)
    left_out = np.empty_like(targets)
    for rows in groups:
        of_image = spread[rows].astype(np.float64)
        hat = of_image @ of_image.T  # (g, g)
        # an image that alone supports something answers it whole: no fit without it would
        hat[np.diag_indices_from(hat)] -= 1 + 1e-5
        left_out[rows] = targets[rows] + np.linalg.solve(hat, residuals[rows]) / roots[rows]
    error = float(((roots * (targets - left_out)) ** 2).sum(axis=1).mean())
    return RidgeFit(coefficients, left_out, error)


def choose_penalty(
    kernel: Floats,
    landmarks: NDArray[np.int64],
    labels: Labels,
    groups: Sequence[NDArray[np.int64]],
    classes: int,
) -> float:
    """The penalty with the least error on left-out images.

    Args:
        kernel, landmarks, labels, groups, classes: see `fit_ridge`.
    """
    errors = [fit_ridge(kernel, landmarks, labels, groups, classes, p).error for p in PENALTIES]
    return PENALTIES[int(np.argmin(errors))]


def penalty_regions(count: int, limit: int = CHOSEN_BY) -> int:
    """Of `count` regions how many choose the penalty: the greatest power of two, up to a limit.

    The first ones do, so that it stays as it is from one correction to the next.
    """
    return int(min(limit, 2 ** int(np.log2(max(count, 1)))))


def _inverse_triangle(lower: Doubles) -> Doubles:
    """The inverse of a lower triangular matrix, by halves, a third of numpy's time."""
    size = len(lower)
    if size <= 64:
        return np.asarray(np.linalg.inv(lower))
    half = size // 2
    inverse = np.zeros_like(lower)
    inverse[:half, :half] = first = _inverse_triangle(lower[:half, :half])
    inverse[half:, half:] = second = _inverse_triangle(lower[half:, half:])
    inverse[half:, :half] = -second @ (lower[half:, :half] @ first)
    return inverse
