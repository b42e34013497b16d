"""Whether a score means what it says, and whether regions of absent classes can be refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.calibration import ScoreBin, auroc, ece, score_bins
from anyregion.evaluation.regions.names import ask_names
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_categories
from anyregion.evaluation.regions.vocabulary_subsets import SubVocabulary, sub_vocabularies
from anyregion.evaluation.regions.walk import find_files, nothing, walk
from anyregion.images import size_of
from anyregion.io.regions import load_regions
from anyregion.recognizer import Recognizer
from anyregion.scoring import Score
from anyregion.vocabulary import Cleaning, Progress, Vocabulary

EVERY_SECOND = "every:2:1"
SIZES = (3, 80, 1000)
REFUSED_SHARE = 0.05


@dataclass(frozen=True)
class Refusal:
    """One vocabulary that lacks some classes: what regions of absent classes score in it.

    Attributes:
        vocabulary: `all` (nothing left out), `half` (without the absent classes), or its size.
        names: how many names it has.
        present, absent: regions whose class it has, and does not have. Where a size is made of
            several vocabularies (`trials`), each asks about the regions once.
        trials: how many vocabularies the figures are pooled over.
        top1: of the present regions, the fraction named rightly.
        ece: expected calibration error on the present regions, 15 bins of equal width.
        auroc: of telling absent from present by `1 - best score`; None without either.
        refused_present, refused_absent: fractions that score below the threshold.
        threshold_of_5_percent: refuses 5 % of the present regions. Where scores mean the same
            whatever the vocabulary, it is about the same for each.
    """

    vocabulary: str
    names: int
    present: int
    absent: int
    trials: int
    top1: float | None
    ece: float | None
    auroc: float | None
    refused_present: float | None
    refused_absent: float | None
    threshold_of_5_percent: float | None


@dataclass(frozen=True)
class SplitCalibration:
    """Calibration error and accuracy on seen and on unseen classes, among all names.

    None where no region is of such a class; `harmonic_mean` is of the accuracies.
    """

    unseen_classes: tuple[str, ...]
    seen_ece: float | None
    unseen_ece: float | None
    seen_top1: float | None
    unseen_top1: float | None
    harmonic_mean: float | None


@dataclass(frozen=True)
class CalibrationReport:
    """How far the scores of given regions can be trusted.

    Attributes:
        ece: expected calibration error with the whole vocabulary, 15 bins of equal width.
        bins: what it is made of.
        top1, mean_score: accuracy and mean score of the best names: equal, if calibrated.
        auroc: of refusing regions of absent classes with the `half` vocabulary.
        refusals: each vocabulary: `all`, `half`, and the sizes that were asked for.
        threshold: the score below which `refusals` count a region as refused.
        absent_classes: the classes that were left out of the vocabularies but `all`.
        regions, images, names: how many regions, in how many images; size of the vocabulary.
        seconds: time spent on the images.
        set_aside: images and regions that could not be used, and sizes that could not be made.
        split: the same by seen and unseen classes, where it was asked for.
    """

    ece: float
    bins: tuple[ScoreBin, ...]
    top1: float
    mean_score: float
    auroc: float | None
    refusals: tuple[Refusal, ...]
    threshold: float
    absent_classes: tuple[str, ...]
    regions: int
    images: int
    names: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    split: SplitCalibration | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_calibration(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    *,
    absent: str = EVERY_SECOND,
    unseen: str | None = None,
    sizes: Sequence[int] = SIZES,
    distractors: Vocabulary | None = None,
    threshold: float = 0.5,
    templates: Sequence[str] | None = None,
    cleaning: Cleaning = "plain",
    score: Score | None = None,
    limit: int | None = None,
    batch_size: int = 4,
    progress: Progress | None = None,
    encoding: Progress | None = None,
) -> CalibrationReport:
    """Name given regions with vocabularies that have their classes, and with ones that do not.

    The annotations' categories are the vocabulary. Half of them are then left out; a region of a
    class that was left out should be refused: its best score should be low. The same is asked of
    vocabularies of other sizes: small ones are drawn from the classes that stay, large ones are
    filled up with distractors that share no word with any category (see `sub_vocabularies`).

    Args:
        recognizer, annotations, images, templates, cleaning, score, limit, batch_size, progress,
            encoding: as for `evaluate_classification`.
        absent: which classes are left out, as `unseen_categories` reads it; every second one, in
            the order of their ids, unless given.
        unseen: which classes training never saw, in the same form.
        sizes: sizes of further vocabularies.
        distractors: names to fill up with; the built-in lists unless given.
        threshold: a score below it counts as refused.

    Raises:
        InputError: files that cannot be used, or no region that could be named.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold must be from 0 to 1; it is {threshold}")
    file = load_regions(annotations, scores=False)
    asked = ask_names(
        file.categories, None, templates=templates, cleaning=cleaning, source=annotations
    )
    left_out = _positions(absent, file.categories, asked.positions)
    hidden = None if unseen is None else _positions(unseen, file.categories, asked.positions)
    aside = [*file.set_aside, *asked.set_aside]
    trials = sub_vocabularies(
        asked.names, left_out, sizes=sizes, distractors=distractors, aside=aside
    )
    found = find_files(file.images.values(), Path(images), limit=limit, aside=aside)
    if not found:
        raise nothing(annotations, aside, "no image has regions")
    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    words = [recognizer.encode_vocabulary(t.vocabulary, progress=encoding) for t in trials]

    truth: list[NDArray[np.int64]] = []
    best: list[list[NDArray[np.int64]]] = [[] for _ in trials]
    scores: list[list[NDArray[np.float32]]] = [[] for _ in trials]
    started = time.perf_counter()
    for photos in walk(found, batch_size=batch_size, progress=progress, aside=aside):
        for photo in photos:
            regions, outside = photo.entry.regions.fit(*size_of(photo.pixels))
            aside += [SetAside(f"{photo.path}, {a.item}", a.reason) for a in outside]
            categories = [] if regions.categories is None else regions.categories.tolist()
            known = [i for i, c in enumerate(categories) if c in asked.positions]
            if not known:
                continue
            regions = regions[known]
            truth.append(np.array([asked.positions[categories[i]] for i in known]))
            recognizer.set_image(photo.pixels)
            for i, encoded in enumerate(words):
                answer = recognizer.predict(regions, encoded, top_k=1, score=score)
                best[i].append(answer.indices[:, 0])
                scores[i].append(answer.scores[:, 0])
    seconds = time.perf_counter() - started
    if not truth:
        raise nothing(annotations, aside, "no region has a known class")
    right = np.concatenate(truth)
    answers = [
        _Answers.of(trial, right, np.concatenate(b), np.concatenate(s))
        for trial, b, s in zip(trials, best, scores, strict=True)
    ]
    refusals = tuple(
        _refusal(label, [a for a in answers if a.label == label], threshold)
        for label in dict.fromkeys(trial.label for trial in trials)
    )
    whole = answers[0]
    return CalibrationReport(
        ece=ece(whole.scores, whole.right),
        bins=score_bins(whole.scores, whole.right),
        top1=float(whole.right.mean()),
        mean_score=float(whole.scores.mean()),
        auroc=refusals[1].auroc,
        refusals=refusals,
        threshold=threshold,
        absent_classes=tuple(asked.names.names[i] for i in sorted(left_out)),
        regions=len(right),
        images=len(truth),
        names=len(asked.names),
        seconds=seconds,
        set_aside=tuple(aside),
        split=None if hidden is None else _split(whole, right, hidden, asked.names.names),
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    """One vocabulary's answers: per region whether it has the class, is right, and the score."""

    label: str
    names: int
    present: NDArray[np.bool_]
    right: NDArray[np.bool_]
    scores: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        trial: SubVocabulary,
        truth: NDArray[np.int64],
        best: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> _Answers:
        named = trial.origin[best]
        present = np.isin(truth, trial.origin)
        count = len(trial.vocabulary)
        return cls(trial.label, count, present, named == truth, scores.astype(np.float64))


def _refusal(label: str, answers: list[_Answers], threshold: float) -> Refusal:
    present = np.concatenate([a.present for a in answers])
    right = np.concatenate([a.right for a in answers])[present]
    scores = np.concatenate([a.scores for a in answers])
    inside, outside = scores[present], scores[~present]
    known = len(inside) > 0
    return Refusal(
        vocabulary=label,
        names=answers[0].names,
        present=len(inside),
        absent=len(outside),
        trials=len(answers),
        top1=float(right.mean()) if known else None,
        ece=ece(inside, right) if known else None,
        auroc=auroc(1 - outside, 1 - inside),
        refused_present=float((inside < threshold).mean()) if known else None,
        refused_absent=float((outside < threshold).mean()) if len(outside) else None,
        threshold_of_5_percent=float(np.quantile(inside, REFUSED_SHARE)) if known else None,
    )


def _split(
    whole: _Answers, truth: NDArray[np.int64], hidden: set[int], names: Sequence[str]
) -> SplitCalibration:
    is_unseen = np.isin(truth, sorted(hidden))
    errors: list[float | None] = []
    tops: list[float | None] = []
    for which in (~is_unseen, is_unseen):
        there = bool(which.any())
        right = whole.right[which]
        errors.append(ece(whole.scores[which], right) if there else None)
        tops.append(float(right.mean()) if there else None)
    unseen = tuple(names[i] for i in sorted(hidden))
    return SplitCalibration(
        unseen_classes=unseen,
        seen_ece=errors[0],
        unseen_ece=errors[1],
        seen_top1=tops[0],
        unseen_top1=tops[1],
        harmonic_mean=harmonic_mean(tops[0], tops[1]),
    )


def _positions(spec: str, categories: Mapping[int, str], positions: Mapping[int, int]) -> set[int]:
    return {positions[i] for i in unseen_categories(spec, categories) if i in positions}
