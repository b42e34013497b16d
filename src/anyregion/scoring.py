"""Scores of region embeddings against a vocabulary's matrix, and the best names of each region."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError

Score: TypeAlias = Literal["softmax", "sigmoid", "probability"]
Floats: TypeAlias = NDArray[np.float32]


class AnswerModel(Protocol):
    """What tells how often an answer of one model is right, from all that the answer is made of.

    Attributes:
        scale: of the cosines, in the exponentials that `probabilities` is given the sum of.
        softmax_scale: of the cosines, in a softmax by which the other names share what the best one
            leaves.
    """

    scale: float
    softmax_scale: float

    def probabilities(
        self,
        logits: Floats,
        exponentials: NDArray[np.float64],
        *,
        embeddings: Floats,
        matrix: Floats,
        columns: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """The probability that each of `K` names is the right one of a region, `(M, K)`.

        Args:
            logits: `(M, K)`, `scale` times the cosines.
            exponentials: `(M,)`, the sum of `exp(logit)` over all names.
            embeddings: `(M, E)`, the regions.
            matrix: `(C, E)`, all names.
            columns: `(M, K)`, which of them the logits are of, the best first.

        Returns:
            Never larger for a name with a smaller logit.
        """
        ...


# names of a region that are looked for one after the other; more are sorted out together
_FEW = 16
# regions scored together: with a chunk of words some 30 MB. Up to so many keep their bits.
ROWS_AT_ONCE = 256


def logits(embeddings: Floats, matrix: Floats, *, scale: float, bias: float = 0.0) -> Floats:
    """Scaled cosines `scale * region / (norm(region) + 1e-7) . word + bias`, `(M, C)`.

    As RegionSpot's section 3.3 scores regions.

    Args:
        embeddings: `(M, E)` region embeddings of any length.
        matrix: `(C, E)` word embeddings of length 1.
    """
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True) + np.float32(1e-7)  # (M, 1)
    scaled: Floats = np.float32(scale) * (embeddings / lengths) @ matrix.T + np.float32(bias)
    return scaled.astype(np.float32, copy=False)


def best_names(probabilities: Floats, top_k: int) -> tuple[NDArray[np.int64], Floats]:
    """The `top_k` most probable names `(M, min(top_k, C))` of `(M, C)`, and their probabilities.

    Of equal ones the earlier name comes first.

    Raises:
        InputError: `top_k` below 1.
    """
    if not isinstance(top_k, int) or top_k < 1:
        raise InputError(f"top_k must be a whole number of at least 1; it is {top_k}")
    indices = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return indices, np.take_along_axis(probabilities, indices, axis=1)


def top_names(
    embeddings: Floats,
    matrix: Floats,
    *,
    top_k: int,
    score: Score = "softmax",
    scale: float,
    bias: float = 0.0,
    answers: AnswerModel | None = None,
    chunk: int = 8192,
) -> tuple[NDArray[np.int64], Floats]:
    """The `top_k` best words of each region and their scores, both `(M, min(top_k, C))`, sorted.

    Regions are visited `ROWS_AT_ONCE` and words `chunk` at a time, so 20,000 regions and 100,000
    words need no `(M, C)` array.
    `softmax` is over all C words (a one-word vocabulary always scores 1, as published); `sigmoid`
    scores each word on its own; `probability` is what `answers` says, which takes the place of
    `scale` and `bias`. Of equal scores the earlier word comes first.

    Raises:
        InputError: embeddings of another width than the vocabulary's, ones that are not finite, or
            `probability` without `answers`.
    """
    if embeddings.shape[-1] != matrix.shape[-1]:
        raise InputError(
            f"regions are {embeddings.shape[-1]} wide but the vocabulary {matrix.shape[-1]}: "
            "it was encoded by another model"
        )
    if not np.isfinite(embeddings).all():
        raise InputError("a region embedding is not finite: the weights or the image are broken")
    if not isinstance(top_k, int) or top_k < 1:
        raise InputError(f"top_k must be a whole number of at least 1; it is {top_k}")
    if score not in ("softmax", "sigmoid", "probability"):
        raise InputError(f"score must be softmax, sigmoid or probability, not {score!r}")
    if score == "probability":
        if answers is None:
            raise InputError(
                "this model does not tell how often its answers are right: score by softmax or "
                "sigmoid"
            )
        scale, bias = answers.scale, 0.0
    count = min(top_k, len(matrix))
    indices = np.empty((len(embeddings), count), dtype=np.int64)
    scores = np.empty((len(embeddings), count), dtype=np.float32)
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        block = embeddings[rows]  # (M, E), M up to ROWS_AT_ONCE
        best = np.zeros((len(block), 0), dtype=np.float32)  # logits, (M, up to top_k)
        columns = np.zeros((len(block), 0), dtype=np.int64)
        # the softmax's denominator over the chunks so far, a sum of exp(logit - highest); in
        # float64, or a sum over 100,000 names loses its last digits
        highest = np.full((len(block), 1), -np.inf, dtype=np.float64)
        total = np.zeros((len(block), 1), dtype=np.float64)
        for first in range(0, len(matrix), chunk):
            part = logits(block, matrix[first : first + chunk], scale=scale, bias=bias)
            if score != "sigmoid":
                high = np.maximum(highest, part.max(axis=1, keepdims=True))
                total = total * np.exp(highest - high)
                total += np.exp(part - high).sum(axis=1, keepdims=True)
                highest = high
            top = _best_columns(part, top_k)  # (M, up to top_k)
            best = np.concatenate([best, np.take_along_axis(part, top, axis=1)], axis=1)
            columns = np.concatenate([columns, first + top], axis=1)
            # of equal ones those of earlier chunks stand first
            order = np.argsort(-best, axis=1, kind="stable")[:, :top_k]  # (M, up to top_k)
            best = np.take_along_axis(best, order, axis=1)
            columns = np.take_along_axis(columns, order, axis=1)
        if score == "softmax":
            scores[rows] = np.exp(best - highest) / total
        elif answers is not None and score == "probability":
            scores[rows] = answers.probabilities(
                best,
                (total * np.exp(highest))[:, 0],
                embeddings=block,
                matrix=matrix,
                columns=columns,
            )
        else:
            scores[rows] = 1.0 / (1.0 + np.exp(-best.astype(np.float64)))
        indices[rows] = columns
    return indices, scores


def _best_columns(values: Floats, count: int) -> NDArray[np.int64]:
    """The columns of the `count` largest of each row `(M, min(count, n))`, best first.

    Of equal ones the earlier column comes first.
    """
    if count <= _FEW and values.shape[1] > count:
        remaining, rows = values.copy(), np.arange(len(values))
        best = np.empty((len(values), count), dtype=np.int64)
        for place in range(count):
            # the first of the largest; a processor looks at many at once, as it does for no sort
            best[:, place] = remaining.argmax(axis=1)
            remaining[rows, best[:, place]] = -np.inf
        return best
    if values.shape[1] > 4 * count:
        # a cut by value first, so that only the few survivors are sorted
        top = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
        lowest = np.take_along_axis(values, top, axis=1).min(axis=1, keepdims=True)
        # argpartition breaks ties at the cut as it likes; the earlier name is to win them
        if (values >= lowest).sum() == top.size:
            order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable")
            return np.take_along_axis(top, order, axis=1)
    return np.argsort(-values, axis=1, kind="stable")[:, :count]
