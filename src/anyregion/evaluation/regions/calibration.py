"""Calibration: whether a score means what it says, and whether absent classes can be refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.calibration import ScoreBin, auroc, ece, score_bins
from anyregion.evaluation.regions.error_report import AnswerLog, ErrorReport
from anyregion.evaluation.regions.inputs import (
    EmptyEvaluationError,
    EvaluationOptions,
    category_names,
    keep_categories,
    loaded,
)
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_categories
from anyregion.evaluation.regions.vocabulary_subsets import VocabularySubset, vocabulary_subsets
from anyregion.io.regions import load_regions
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import name_embeddings
from anyregion.runs.pipeline import RecognizeOptions, RegionNamer, annotated_samples, run_pipeline
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

EVERY_SECOND = "every:2:1"
# names as one types them by hand, as many as COCO has, and about as many as LVIS
VOCABULARY_SIZES = (3, 80, 1000)
REFUSED_SHARE = 0.05
"""Of the present regions, for `threshold_of_5_percent`."""


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
        auroc: of refusing regions of absent classes with the `half` vocabulary, or the taught one.
        refusals: each vocabulary: `all`, `half`, and the sizes that were asked for.
        threshold: the score below which `refusals` count a region as refused.
        absent_classes: the classes that were left out of the vocabularies but `all`.
        regions, images, names: how many regions, in how many images; size of the vocabulary.
        seconds: time spent on the images.
        set_aside: images and regions that could not be used, and sizes that could not be made.
        split: the same by seen and unseen classes, where it was asked for.
        errors: what was written to `EvaluationOptions.report`, where it was asked for.
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
    errors: ErrorReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_calibration(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    options: EvaluationOptions | None = None,
    *,
    absent: str = EVERY_SECOND,
    sizes: Sequence[int] = VOCABULARY_SIZES,
    distractors: Vocabulary | None = None,
    threshold: float = 0.5,
) -> CalibrationReport:
    """Name given regions with vocabularies that have their classes, and with ones that do not.

    The annotations' categories are the vocabulary. Half of them are then left out; a region of a
    class that was left out should be refused: its best score should be low. The same is asked of
    vocabularies of other sizes: small ones are drawn from the classes that stay, large ones are
    filled up with distractors that share no word with any category (see `vocabulary_subsets`).

    Args:
        recognizer, annotations, images: as for `evaluate_classification`.
        options: how regions are named; of vocabularies only a taught one makes sense here: it is
            asked as it is, and regions whose category it does not have are the absent ones.
        absent: which classes are left out, as `unseen_categories` reads it; every second one, in
            the order of their ids, unless given.
        sizes: sizes of further vocabularies.
        distractors: names to fill up with; the built-in lists unless given.
        threshold: a score below it counts as refused.

    Raises:
        InputError: files that cannot be used, or no region that could be named.
    """
    options = options or EvaluationOptions()
    taught = isinstance(options.vocabulary, EncodedVocabulary) and options.vocabulary.classifier
    if options.vocabulary is not None and not taught:
        raise InputError(
            "calibration makes its vocabularies of the annotations' categories; it takes only a "
            "taught one"
        )
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold must be from 0 to 1; it is {threshold}")
    file = load_regions(annotations, masks=options.use_masks, scores=False, images=images)
    names = category_names(file.categories, options, source=annotations)
    left_out = set() if taught else _positions(absent, file.categories, names.positions)
    unseen = None
    if options.unseen is not None:
        unseen = _positions(options.unseen, file.categories, names.positions)
    set_aside = [*file.set_aside, *names.set_aside]
    if taught:
        # what was learnt belongs to these names: no part of them, and no others
        subsets = [VocabularySubset("all", names.names, np.arange(len(names.names)))]
    else:
        subsets = vocabulary_subsets(
            names.names, left_out, sizes=sizes, distractors=distractors, set_aside=set_aside
        )
    samples = annotated_samples(
        file.images.values(), Path(images), limit=options.limit, set_aside=set_aside
    )
    if not samples:
        raise EmptyEvaluationError(annotations, set_aside, "no image has regions")
    recognizer = loaded(recognizer)
    encoder, track = recognizer.encoder, options.track
    encoding = track("reading the vocabulary", "names")
    if taught:
        encoded = [recognizer.encode_vocabulary(names.vocabulary)]
    else:
        encoded = [recognizer.encode_vocabulary(s.vocabulary, progress=encoding) for s in subsets]

    labels: list[NDArray[np.int64]] = []
    best: list[list[NDArray[np.int64]]] = [[] for _ in subsets]
    scores: list[list[NDArray[np.float32]]] = [[] for _ in subsets]
    log = AnswerLog()
    started = time.perf_counter()
    for batch in run_pipeline(
        samples if taught else [keep_categories(s, names.positions)[0] for s in samples],
        encoder,
        RegionNamer(recognizer, encoded[0], RecognizeOptions(top_k=1, score=options.score)),
        batch_size=options.batch_size,
        progress=track("naming regions", "images"),
    ):
        set_aside += batch.set_aside
        for item, predictions in batch.results:
            categories = item.regions.categories
            listed = [] if categories is None else categories.tolist()
            labels.append(np.array([names.positions.get(c, -1) for c in listed], dtype=np.int64))
            if options.report is not None and len(listed) == len(predictions):
                true = [file.categories[c] for c in listed]
                correct = predictions.indices[:, 0] == labels[-1]
                log.add(item.sample.name, predictions, true, correct)
            if taught:
                best[0].append(predictions.indices[:, 0])
                scores[0].append(predictions.scores[:, 0])
                continue
            # the regions' embeddings are the same whatever names they are compared with
            for i, vocabulary in enumerate(encoded):
                indices, values = name_embeddings(
                    encoder, predictions.embeddings, vocabulary.matrix, top_k=1, score=options.score
                )
                best[i].append(indices[:, 0])
                scores[i].append(values[:, 0])
    seconds = time.perf_counter() - started
    if not labels:
        raise EmptyEvaluationError(annotations, set_aside, "no region has a known class")
    errors = None
    if options.report is not None:
        errors, not_shown = log.write(options.report, names.names.names, options.picture, track)
        set_aside += not_shown
    # (N,) over the regions of all images, as are the answers of each vocabulary
    truth = np.concatenate(labels)
    answers = [
        _Answers.of(subset, truth, np.concatenate(b), np.concatenate(s))
        for subset, b, s in zip(subsets, best, scores, strict=True)
    ]
    refusals = tuple(
        _refusal(label, [a for a in answers if a.label == label], threshold)
        for label in dict.fromkeys(subset.label for subset in subsets)
    )
    # the vocabulary that nothing was left out of
    full, known = answers[0].of_present(), truth[truth >= 0]
    return CalibrationReport(
        ece=ece(full.scores, full.correct),
        bins=score_bins(full.scores, full.correct),
        top1=float(full.correct.mean()),
        mean_score=float(full.scores.mean()),
        auroc=refusals[0 if taught else 1].auroc,
        refusals=refusals,
        threshold=threshold,
        absent_classes=tuple(names.names.names[i] for i in sorted(left_out)),
        regions=len(truth),
        images=len(labels),
        names=len(names.names),
        seconds=seconds,
        set_aside=tuple(set_aside),
        split=None if unseen is None else _split(full, known, unseen, names.names.names),
        errors=errors,
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    """One vocabulary's answers, per region `(N,)`: has it the class, is it right, the score."""

    label: str
    names: int
    present: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    scores: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        subset: VocabularySubset,
        truth: NDArray[np.int64],
        best: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> _Answers:
        """Of the true names, as positions in the whole vocabulary, and the best in the subset."""
        present = np.isin(truth, subset.origin)
        correct = subset.origin[best] == truth
        count = len(subset.vocabulary)
        return cls(subset.label, count, present, correct, scores.astype(np.float64))

    def of_present(self) -> _Answers:
        """Those about regions whose class the vocabulary has."""
        rows = self.present
        return replace(
            self, present=rows[rows], correct=self.correct[rows], scores=self.scores[rows]
        )


def _refusal(label: str, answers: list[_Answers], threshold: float) -> Refusal:
    present = np.concatenate([a.present for a in answers])
    correct = np.concatenate([a.correct for a in answers])[present]
    scores = np.concatenate([a.scores for a in answers])
    # pooled over the trials of a size: a region counts once for each vocabulary
    inside, outside = scores[present], scores[~present]
    some = len(inside) > 0
    return Refusal(
        vocabulary=label,
        names=answers[0].names,
        present=len(inside),
        absent=len(outside),
        trials=len(answers),
        top1=float(correct.mean()) if some else None,
        ece=ece(inside, correct) if some else None,
        auroc=auroc(1 - outside, 1 - inside),
        refused_present=float((inside < threshold).mean()) if some else None,
        refused_absent=float((outside < threshold).mean()) if len(outside) else None,
        threshold_of_5_percent=float(np.quantile(inside, REFUSED_SHARE)) if some else None,
    )


def _split(
    full: _Answers, truth: NDArray[np.int64], unseen: set[int], names: Sequence[str]
) -> SplitCalibration:
    is_unseen = np.isin(truth, sorted(unseen))  # (N,)
    sides = [(full.scores[rows], full.correct[rows]) for rows in (~is_unseen, is_unseen)]
    errors = [ece(scores, correct) if len(correct) else None for scores, correct in sides]
    tops = [float(correct.mean()) if len(correct) else None for _, correct in sides]
    (seen_ece, unseen_ece), (seen_top1, unseen_top1) = errors, tops
    classes = tuple(names[i] for i in sorted(unseen))
    mean = harmonic_mean(seen_top1, unseen_top1)
    return SplitCalibration(classes, seen_ece, unseen_ece, seen_top1, unseen_top1, mean)


def _positions(
    spec: str | frozenset[int], categories: Mapping[int, str], positions: Mapping[int, int]
) -> set[int]:
    return {positions[i] for i in unseen_categories(spec, categories) if i in positions}
