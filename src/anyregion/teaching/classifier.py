"""`TaughtClassifier`: names regions by what was learnt from corrections and by words, in one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import CheckpointError, InputError
from anyregion.region_encoder import (
    RegionAnswers,
    RegionEmbeddings,
    ScoringRules,
    name_embeddings,
    word_logits,
)
from anyregion.scoring import Score
from anyregion.teaching.familiarity import Familiarity, fit_likeness
from anyregion.teaching.features import Layout, feature_rows, likeness
from anyregion.teaching.mixing import Mixing, fit_mixing
from anyregion.teaching.ridge import by_image, fit_ridge

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What is said of each corrected region by a fit that has not seen its image.

    Attributes:
        probabilities: `(n, C + 1)` float32 of each name, and last of "none of these".
    """

    probabilities: Floats

    @property
    def best(self) -> Labels:
        """`(n,)`, the best name of each region."""
        return np.asarray(self.probabilities[:, :-1].argmax(axis=1))

    @property
    def scores(self) -> Floats:
        """`(n,)`, the best name's probability."""
        return np.asarray(self.probabilities[:, :-1].max(axis=1))

    def right(self, labels: Labels) -> NDArray[np.bool_]:
        """`(n,)`, whether each is answered rightly: the right name, or more probably none of them.

        Args:
            labels: `(n,)`, what they are; C for "none of these".
        """
        names = self.probabilities.shape[1] - 1
        refused = self.probabilities[:, names] > self.scores
        return np.asarray(np.where(labels == names, refused, self.best == labels))


# Examples of one name alone say nothing of what is another, and every region would be called so:
# what was learnt answers only of regions that look nearly the same. Of pairs of COCO's training
# regions of two photographs that are more alike than this 86 % have one name (0.65: 70 %)
ALONE = Familiarity(threshold=0.7, unit=0.02)


@dataclass(frozen=True, eq=False)
class TaughtClassifier:
    """A `RegionClassifier`, fitted to corrections.

    Attributes:
        layout: of the rows of features.
        weights: `(F, K)`, from a row to the answers for the `K` shown classes.
        shown: `(K,)`, the position of each shown class among the names; C: "none of these".
        counts: `(C,)`, how many examples each name has.
        landmark_rows: `(m,)`, which corrected regions are the landmarks.
        landmarks: `(m, F)`, the rows of those.
        familiarity, mixing: see there.
        thresholds: `(C,)`, below which a name's answer is refused; None where none is asked for.
    """

    layout: Layout
    weights: Floats
    shown: Labels
    counts: Labels
    landmark_rows: Labels
    landmarks: Floats
    familiarity: Familiarity
    mixing: Mixing
    thresholds: Floats | None = field(default=None)

    @property
    def digest(self) -> str:
        """See `RegionClassifier`."""
        near = self.familiarity
        digest = hashlib.sha256(
            repr((self.layout, self.mixing, near.threshold, near.unit)).encode()
        )
        arrays = (self.weights, self.shown, self.counts, self.landmarks, near.direction)
        for values in (*arrays, self.thresholds):
            digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def answer(
        self,
        encoder: ScoringRules,
        embedded: RegionEmbeddings,
        matrix: Floats,
        size: tuple[int, int],
        score: Score | None,
    ) -> RegionAnswers:
        """See `RegionClassifier`."""
        if score not in (None, "probability"):
            raise InputError(f"a taught vocabulary scores by probability, not by {score}")
        features = feature_rows(embedded, size)
        if features.layout != self.layout:
            raise CheckpointError(
                f"the corrections were seen as {_describe(self.layout)}, but {encoder.name} sees "
                f"{_describe(features.layout)}: teach that model"
            )
        names = len(matrix)
        learnt = np.zeros((len(features.rows), names + 1))
        learnt[:, self.shown] = features.rows @ self.weights
        if self.familiarity.direction is not None:
            alike = features.rows @ self.familiarity.direction  # (M,)
        else:
            kernel = features.rows @ self.landmarks.T  # (M, m)
            alike = likeness(kernel, features.rows, self.landmarks, self.layout).max(axis=1)
        probabilities = mix(
            learnt,
            word_probabilities(encoder, embedded.embeddings, matrix),
            np.broadcast_to(self.counts, (len(learnt), names)),
            self.familiarity.of(alike),
            self.mixing,
        )
        refused = probabilities[:, names] > probabilities[:, :names].max(axis=1, initial=0)
        # without any region that was none of these, nobody has said that there is such a thing
        refused &= names in self.shown
        if self.thresholds is not None and len(probabilities):
            best = probabilities[:, :names].argmax(axis=1)
            refused |= probabilities[np.arange(len(best)), best] < self.thresholds[best]
        return RegionAnswers(
            probabilities[:, :names].astype(np.float32),
            probabilities[:, names].astype(np.float32),
            refused,
        )

    def at_precision(self, left_out: LeftOut, labels: Labels, precision: float) -> TaughtClassifier:
        """The same with the lowest thresholds at which each name's answers are so often right.

        Args:
            left_out: what was said of the corrections.
            labels: `(n,)`, what they are; C for "none of these".
            precision: the share of right answers, 0 to 1.
        """
        return replace(self, thresholds=precision_thresholds(left_out, labels, precision))


def learn(
    rows: Floats,
    layout: Layout,
    kernel: Floats,
    landmarks: Labels,
    labels: Labels,
    images: Labels,
    words: Doubles,
    penalty: float,
    line: tuple[Familiarity, Doubles] | None = None,
) -> tuple[TaughtClassifier, LeftOut]:
    """Fit a classifier to corrections.

    Args:
        rows: `(n, F)` features of the corrected regions.
        layout: of the rows.
        kernel: `(n, m)`, products of the rows with the landmarks'.
        landmarks: `(m,)`, which regions are the landmarks.
        labels: `(n,)`, the right name; C for "none of these".
        images: `(n,)`, the image of each region.
        words: `(n, C + 1)`, the words' probabilities.
        penalty: of the ridge.
        line: how familiar regions are, and the score `(n,)` of each by a fit without its image;
            None to go by how alike they look.
    """
    names = words.shape[1] - 1
    shown, classes = np.unique(labels, return_inverse=True)
    groups = by_image(images)
    fit = fit_ridge(kernel, landmarks, classes, groups, len(shown), penalty)
    learnt = np.zeros((len(labels), names + 1))
    learnt[:, shown] = fit.left_out
    # (n, C) how many examples each name has in other images
    counts = np.bincount(labels, minlength=names + 1)[:names]
    others = np.tile(counts.astype(np.float64), (len(labels), 1))
    for group in groups:
        others[group] -= np.bincount(labels[group], minlength=names + 1)[:names]
    if line is None or len(shown) == 1:
        alike = likeness(kernel, rows, rows[landmarks], layout)  # (n, m)
        alike[images[:, None] == images[landmarks]] = -np.inf
        nearest = alike.max(axis=1)  # (n,)
        near = ALONE if len(shown) == 1 else fit_likeness(nearest)
        line = near, nearest.astype(np.float64)
    familiarity, scores = line
    mixing = fit_mixing(learnt, words[:, :names], others, labels)
    probabilities = mix(learnt, words, others, familiarity.of(scores), mixing)
    classifier = TaughtClassifier(
        layout=layout,
        weights=rows[landmarks].T @ fit.coefficients.astype(np.float32),
        shown=shown,
        counts=counts,
        landmark_rows=landmarks,
        landmarks=rows[landmarks],
        familiarity=familiarity,
        mixing=mixing,
    )
    return classifier, LeftOut(probabilities.astype(np.float32))


def mix(
    learnt: Doubles,
    words: Doubles,
    counts: Doubles,
    familiar: Doubles,
    mixing: Mixing,
) -> Doubles:
    """The probability of each name and of "none of these", `(M, C + 1)`.

    As far as a region is familiar, what was learnt answers with the words' help; else words alone.

    Args:
        learnt, counts: see `fit_mixing`.
        words: `(M, C + 1)`, the words' own probabilities (`word_probabilities`).
        familiar: `(M,)`.
        mixing: the coefficients.
    """
    taught = mixing.probabilities(learnt, words[:, :-1], counts)
    share = familiar[:, None]
    return np.asarray(share * taught + (1 - share) * words)


def word_probabilities(encoder: ScoringRules, embeddings: Floats, matrix: Floats) -> Doubles:
    """The probability of each name by words alone, and last of "none of these", `(M, C + 1)`.

    The best name has the encoder's own score. The others share the rest as a softmax would, but
    none has more than its share of the best one's; what is left over is "none of these".
    """
    names = len(matrix)
    probabilities = np.zeros((len(embeddings), names + 1))
    if not len(embeddings):
        return probabilities
    indices, scores = name_embeddings(encoder, embeddings, matrix, top_k=1, score=None)
    best = scores[:, :1].astype(np.float64)  # (M, 1)
    logits = word_logits(encoder, embeddings, matrix)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))  # 1 for the best name
    rest = shares.sum(axis=1, keepdims=True) - 1
    probabilities[:, :names] = np.minimum((1 - best) / np.maximum(rest, 1e-12), best) * shares
    probabilities[np.arange(len(best)), indices[:, 0]] = best[:, 0]
    probabilities[:, names] = np.maximum(1 - probabilities[:, :names].sum(axis=1), 0)
    return probabilities


# as many answers as the mean score counts, beside those that were counted
_PRIOR_ANSWERS = 5.0


def precision_thresholds(left_out: LeftOut, labels: Labels, precision: float) -> Floats:
    """Per name `(C,)` the lowest score from which on its answers are right that often.

    The share of a name's left-out answers that is right is drawn towards their mean score, so that
    two right answers do not promise that all are. A name with no answer has what all answers
    together have; one that never gets there is refused always (a threshold above 1).

    Args:
        left_out: answers for left-out images.
        labels: `(n,)`.
        precision: 0 to 1.

    Raises:
        InputError: a precision that is no share.
    """
    if not 0 < precision < 1:
        raise InputError(f"the precision must lie between 0 and 1; it is {precision}")
    best, scores = left_out.best, left_out.scores.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    best, scores = best[order], scores[order]
    right = (best == labels[order]).astype(np.float64)
    thresholds = np.full(left_out.probabilities.shape[1] - 1, 2.0)
    for name in range(len(thresholds)):
        own = np.flatnonzero(best == name)
        rows = own if len(own) else np.arange(len(best))
        counts = np.arange(1, len(rows) + 1)
        expected = np.cumsum(scores[rows]) / counts
        shares = (np.cumsum(right[rows]) + _PRIOR_ANSWERS * expected) / (counts + _PRIOR_ANSWERS)
        reached = np.flatnonzero(shares >= precision)
        if len(reached):
            thresholds[name] = scores[rows[reached[-1]]]
    return thresholds.astype(np.float32)


def _describe(layout: Layout) -> str:
    return ", ".join(f"{name} of {width}" for name, width in layout)
