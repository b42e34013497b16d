"""The fit of a `Confidence`: answers to regions of known classes, by many vocabularies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from anyregion.compact.calibration import Calibration
from anyregion.compact.confidence import (
    FEATURES,
    NONE,
    SHARPNESS,
    Confidence,
    answer_features,
)
from anyregion.compact.training.metrics import fit_scores, minimise
from anyregion.errors import InputError
from anyregion.evaluation.metrics.calibration import ece
from anyregion.training.seeds import generator

Floats = NDArray[np.float32]

# of the regions whose class a vocabulary lacks, against those whose class it has: people mostly
# draw what they have a name for
ABSENT_WEIGHT = 0.2
# How many names there are says nothing that how many are new does not (docs/results/compact.md)
NOT_FITTED = {"names": 0.0}
# The weights of new names cannot be learned where only trained ones are ever right: they are from
# splits of COCO's classes and from other data sets (tools/fit_confidence.py)
NEW_WEIGHTS = {"new_names": 0.9, "new": -1.9}
# of held-out regions, in the file of the calibration: 0.8 MB
MOST_KNOWN = 1000
# of the squared weights, of features in units of their deviation
_DECAY = 1e-3


@dataclass(frozen=True, eq=False)
class Answers:
    """The best names of regions in one vocabulary.

    Attributes:
        label: of the vocabulary; answers of one label count together.
        features: `(N, 6)`, see `answer_features`.
        correct: `(N,)`, whether the best name is right.
        present: `(N,)`, whether the vocabulary has the region's class at all.
        weight: of all of them together in a fit.
    """

    label: str
    features: NDArray[np.float64]
    correct: NDArray[np.bool_]
    present: NDArray[np.bool_]
    weight: float = 1.0


def answer(
    label: str,
    calibration: Calibration,
    embeddings: Floats,
    names: Floats,
    rows: NDArray[np.int64] | Sequence[Sequence[int]],
    *,
    weight: float = 1.0,
) -> Answers:
    """The best of some names for each region.

    Args:
        calibration: of the region head that the embeddings are from.
        embeddings: `(N, 384)` of regions, length 1.
        names: `(C, 384)`, the text embeddings of a whole vocabulary, length 1.
        rows: of each of `N` regions the right name, -1: not in the vocabulary; or all right ones.
        label, weight: see `Answers`.
    """
    right = [np.atleast_1d(row) for row in rows]
    newness = calibration.newness(names)
    gains = calibration.gains(names, newness=newness)
    doubt = calibration.doubt(embeddings)  # (N,)
    cosines = embeddings @ names.T + doubt[:, None] * gains  # (N, C)
    best, highest = cosines.argmax(axis=1), cosines.max(axis=1)
    features = answer_features(
        highest[:, None],
        np.exp(SHARPNESS * cosines.astype(np.float64)).sum(axis=1),
        sharpness=SHARPNESS,
        none=NONE,
        names=len(names),
        new_names=float(newness.mean()),
        new=newness[best],
        doubt=doubt,
        outside=calibration.outside(embeddings, names[best], highest),
    )
    correct = np.array([b in r for b, r in zip(best, right, strict=True)], dtype=bool)
    present = np.array([(r >= 0).any() for r in right], dtype=bool)
    return Answers(label, features[:, 0], correct, present, weight)


def subset_answers(
    calibration: Calibration,
    embeddings: Floats,
    names: Floats,
    rows: NDArray[np.int64],
    distractors: Floats,
    random: np.random.Generator,
) -> list[Answers]:
    """Answers of whole, small and padded vocabularies, as people have them.

    All names; all and 5 to 1,000 distractors; half of them, alone and with as many distractors; ten
    and three of them. Sizes that there are too few names for are left out.

    Args:
        embeddings, names, rows: see `answer`.
        distractors: `(D, 384)`, names that are right of no region.
        random: for what is drawn.
    """

    def padded(count: int, chosen: NDArray[np.int64]) -> Floats:
        drawn = random.choice(len(distractors), count, replace=False)
        return np.concatenate([names[chosen], distractors[drawn]])

    count, everything = len(names), np.arange(len(names))
    made = [answer("all", calibration, embeddings, names, rows)]
    for extra in (5, 20, 100, 300, 1000):
        if extra <= len(distractors):
            matrix = padded(extra, everything)
            made.append(answer(f"all+{extra}", calibration, embeddings, matrix, rows))
    small = [(3, 6), (10, 3)]
    subsets = [
        random.choice(count, n, replace=False) for n, t in small if n < count for _ in range(t)
    ]
    subsets += [everything[start::2] for start in range(2) if count >= 2]
    for chosen in subsets:
        position = np.full(count, -1)
        position[chosen] = np.arange(len(chosen))
        inside = np.where(rows < 0, -1, position[rows])
        if not (inside >= 0).any():
            continue
        label, matrices = str(len(chosen)), [names[chosen]]
        if len(chosen) == (count + 1) // 2 and len(chosen) <= len(distractors):
            matrices.append(padded(len(chosen), chosen))
        for matrix in matrices:
            name = label if len(matrix) == len(chosen) else f"{label}+{label}"
            made.append(answer(name, calibration, embeddings, matrix, inside))
    return made


def fit_confidence(
    answers: Sequence[Answers], *, known: Mapping[str, float] = NOT_FITTED | NEW_WEIGHTS
) -> Confidence:
    """Fit a logistic regression to answers of many vocabularies, each label as heavy as another.

    Args:
        answers: see `Answers.weight`; within a label regions of absent classes count
            `ABSENT_WEIGHT` times as much as the others.
        known: weights, by feature, that are not fitted.

    Raises:
        InputError: no region.
    """
    if not any(len(a.correct) for a in answers):
        raise InputError("scores cannot be calibrated: the validation data has no region")
    labels = [a.label for a in answers]
    features = np.concatenate([a.features for a in answers])
    correct = np.concatenate([a.correct for a in answers]).astype(np.float64)
    weights = np.concatenate(
        [_weights(a.present) * (a.weight / labels.count(a.label)) for a in answers]
    )
    free = np.array([name not in known for name in FEATURES])
    slopes = np.array([known.get(name, 0.0) for name in FEATURES])
    centre, spread = features.mean(axis=0), features.std(axis=0)
    # what never differs has no weight
    spread[spread < 1e-6] = np.inf
    x = torch.from_numpy(((features - centre) / spread)[:, free])
    offset = torch.from_numpy(features @ slopes)
    y, w = torch.from_numpy(correct), torch.from_numpy(weights / weights.sum())
    line = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)

    def loss_of() -> torch.Tensor:
        logits = x @ line[1:] + line[0] + offset
        by_region = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return (w * by_region).sum() + _DECAY * line[1:].square().sum()

    minimise(line, loss_of)
    fitted = line.detach().numpy()
    slopes[free] = fitted[1:] / spread[free]
    bias = float(fitted[0] - slopes[free] @ centre[free])  # the known weights have no centre
    # too few regions to tell: further ahead is not less probable
    slopes[0] = max(slopes[0], 0.0)
    return Confidence.of(bias, slopes.tolist())


def _weights(present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`(N,)`, 1 in sum over the present regions and `ABSENT_WEIGHT` over the absent ones."""
    inside, outside = max(1, int(present.sum())), max(1, int((~present).sum()))
    return np.where(present, 1 / inside, ABSENT_WEIGHT / outside)


def with_known_regions(
    calibration: Calibration, embeddings: Floats, conse: Floats, rows: NDArray[np.int64]
) -> Calibration:
    """A calibration whose known regions are those of held-out data.

    Args:
        calibration: of the region head, with its trained names.
        embeddings: `(N, 384)` of held-out regions, length 1.
        conse: `(N, 384)`, the training-free answers to them.
        rows: `(N,)`, their right names among the trained ones; -1: another class, not used.
    """
    trained = rows >= 0
    if not trained.any():
        return calibration
    right = np.flatnonzero(trained & ((embeddings @ calibration.trained.T).argmax(axis=1) == rows))
    # evenly, so that every part of the data has its share
    known = right[np.linspace(0, len(right) - 1, min(len(right), MOST_KNOWN)).round().astype(int)]
    return replace(calibration, known=embeddings[known], typical=conse[trained].mean(axis=0))


def halves(count: int) -> NDArray[np.int64]:
    """`(count,)`, 0 for the first half of some regions and 1 for the second."""
    return np.arange(count) * 2 // max(count, 1)


def known_of_other(
    calibration: Calibration, embeddings: Floats, conse: Floats, rows: NDArray[np.int64], side: int
) -> Calibration:
    """`with_known_regions` of the half that is not `side`: for the answers to that side."""
    other = halves(len(rows)) != side
    return with_known_regions(calibration, embeddings[other], conse[other], rows[other])


def fit_calibration(
    calibration: Calibration,
    embeddings: Floats,
    conse: Floats,
    rows: NDArray[np.int64],
    distractors: Floats,
    *,
    seed: int,
) -> tuple[Calibration, float]:
    """A calibration fitted to held-out regions of trained classes, and its expected error.

    Each half of the regions is answered with the known regions of the other half, since what a name
    gains is made for those.

    Args:
        calibration, embeddings, conse, rows: see `with_known_regions`; the order of the regions is
            that of their images.
        distractors: `(D, 384)`, names that are right of no region.
        seed: of the vocabularies that are drawn.

    Returns:
        The calibration, and the calibration error with all trained names where each half is scored
        by a fit on the other.

    Raises:
        InputError: no region of a trained class.
    """
    inside = rows >= 0
    embeddings, conse, rows = embeddings[inside], conse[inside], rows[inside]
    scale, bias = fit_scores(embeddings @ calibration.trained.T, rows)
    random = generator(seed, "vocabularies")
    half, by_half = halves(len(rows)), []
    for side in (0, 1):
        own, known = half == side, known_of_other(calibration, embeddings, conse, rows, side)
        by_half.append(
            subset_answers(
                known, embeddings[own], calibration.trained, rows[own], distractors, random
            )
        )
    scores, correct = [], []
    for fitted, judged in (by_half, by_half[::-1]):
        if len(fitted[0].correct) and len(judged[0].correct):
            confidence = fit_confidence(fitted)
            scores.append(confidence.probabilities(judged[0].features))
            correct.append(judged[0].correct)
    error = ece(np.concatenate(scores), np.concatenate(correct)) if scores else float("nan")
    made = replace(
        with_known_regions(calibration, embeddings, conse, rows),
        scale=scale,
        bias=bias,
        confidence=fit_confidence([*by_half[0], *by_half[1]]),
    )
    return made, error
