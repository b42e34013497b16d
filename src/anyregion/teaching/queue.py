"""Which regions to ask about next: those whose names would teach most about all the others.

The posterior of the ridge (a Gaussian process with the rows' products as covariance; Rasmussen and
Williams 2006, section 2.2) says how little is known of every region, and in closed form by how much
that falls, summed over all regions, if one of them is asked: its column's squares over its own
variance and the noise (transductive experimental design; Yu, Bi and Tresp 2006). That is novelty,
how many other regions a region stands for, and spread in one number: once one of a hundred equal
bolts is asked, the others have little left to tell. Names come in twice: a region is asked the
rather the less its best two names are decided, and in the sum every name counts the same, however
many regions seem to have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# variance of the noise, against rows of mean square length about 1
NOISE = 0.1
# regions that are compared with each other (which are all that can be asked about), and corrections
# that they are compared with: of more every so-many-th. Their products are 36 MB
CANDIDATES, CORRECTIONS = 3000, 1000


@dataclass(frozen=True, eq=False)
class Queue:
    """Regions in the order in which they are best asked about.

    Attributes:
        rows: `(k,)`, positions of the regions.
        gains: `(k,)`, the share of all that is not known that the region's name tells, weighed by
            its doubt.
        novelty: `(k,)`, the share of the region's variance that corrections leave, 0 to 1.
        alike: `(k,)`, how many of the regions it stands for: those nearest to it of all that are
            asked in this queue.
    """

    rows: Labels
    gains: Doubles
    novelty: Doubles
    alike: Labels


def doubt(probabilities: NDArray[np.floating]) -> Doubles:
    """How undecided the best two names are, `(N,)`: 1 less the margin between them.

    Args:
        probabilities: `(N, C + 1)`, of each name and of "none of these".
    """
    if probabilities.shape[1] < 2:
        return np.asarray(1.0 - probabilities[:, 0])
    best = np.partition(probabilities, -2, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(1 - (best[:, 1] - best[:, 0]))


def order_regions(
    rows: Floats,
    probabilities: NDArray[np.floating],
    corrected: Floats,
    count: int,
) -> Queue:
    """The regions whose names would teach most, one after the other; deterministic.

    Args:
        rows: `(N, F)` features of the regions (`feature_rows`), none of which is corrected.
        probabilities: `(N, C + 1)`, what is said of them now.
        corrected: `(n, F)`, rows of the corrections.
        count: how many to order; fewer, if there are fewer, or no more than `CANDIDATES`.
    """
    chosen = _every(len(rows), CANDIDATES)
    part = rows[chosen]  # (M, F)
    products = part @ part.T  # (M, M)
    own = np.maximum(products.diagonal().astype(np.float64), 1e-9)
    # what was subtracted from the products is kept as its factors: (r, M)
    factors = _known(part, corrected[_every(len(corrected), CORRECTIONS)])
    count = min(count, len(part))
    room = np.empty((len(factors) + count, len(part)), dtype=np.float32)
    room[: len(factors)] = factors
    used = len(factors)
    variance = own - (factors.astype(np.float64) ** 2).sum(axis=0)  # (M,)
    novelty = np.clip(variance / own, 0, 1)
    doubts, weights = doubt(probabilities[chosen]), _name_weights(probabilities[chosen])
    total = max(float(variance @ weights), 1e-12)
    # (M,) of each column of the covariance the weighted sum of squares
    squares = _column_squares(products, room[:used], weights)
    free = np.ones(len(part), dtype=bool)
    order, gains = np.empty(count, dtype=np.int64), np.empty(count)
    for k in range(count):
        gain = doubts * squares / (np.maximum(variance, 0) + NOISE)
        gain[~free] = -np.inf
        best = int(gain.argmax())
        order[k], gains[k], free[best] = best, gain[best] / total, False
        column = products[best] - room[:used, best] @ room[:used]  # (M,)
        factor = column / np.float32(np.sqrt(max(variance[best], 0.0) + NOISE))
        # the covariance loses the outer product of `factor`, and the sums of squares follow
        weighted = weights * factor
        turned = products @ weighted - (room[:used] @ weighted) @ room[:used]
        squares += (factor * (float(weighted @ factor) * factor - 2 * turned)).astype(np.float64)
        np.maximum(squares, 0, out=squares)
        variance -= factor.astype(np.float64) ** 2
        room[used], used = factor, used + 1
    nearest = (products[order] / np.sqrt(own[order])[:, None]).argmax(axis=0) if count else order
    alike = np.bincount(nearest, minlength=count).astype(np.float64) * len(rows) / len(part)
    return Queue(chosen[order], gains, novelty[order], np.maximum(np.round(alike), 1).astype(int))


def _name_weights(probabilities: NDArray[np.floating]) -> Floats:
    """Weights `(N,)` of mean 1, with which every name that regions seem to have counts the same."""
    if not len(probabilities):
        return np.zeros(0, dtype=np.float32)
    regions = probabilities.sum(axis=0) + 1  # (C + 1,), of each name; a rumour is no name
    weights = (probabilities / regions).sum(axis=1)
    return np.asarray(weights / max(float(weights.mean()), 1e-12), dtype=np.float32)


def _every(count: int, limit: int) -> Labels:
    """At most `limit` of so many positions, evenly spread."""
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(np.int64)


def _known(rows: Floats, corrected: Floats) -> Floats:
    """Factors `(n, M)` whose products with each other are what corrections tell of regions."""
    if not len(corrected):
        return np.zeros((0, len(rows)), dtype=np.float32)
    covariance = (corrected @ corrected.T).astype(np.float64)
    covariance[np.diag_indices_from(covariance)] += NOISE
    triangle = np.linalg.cholesky(covariance)
    return np.linalg.solve(triangle, (corrected @ rows.T)).astype(np.float32)


def _column_squares(products: Floats, factors: Floats, weights: Floats) -> Doubles:
    """Of each column of `products - factors.T @ factors` the weighted sum of squares, `(M,)`."""
    squares = np.empty(len(products))
    for start in range(0, len(products), 512):
        part = products[start : start + 512] - factors[:, start : start + 512].T @ factors
        squares[start : start + 512] = (part * part) @ weights
    return squares
