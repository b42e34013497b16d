"""Regions given, names asked: how often the right name comes first, or among the first five."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import SetAside
from anyregion.evaluation.regions.names import AskedNames, ask_names
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_categories
from anyregion.evaluation.regions.walk import Photo, find_files, name_regions, nothing, walk
from anyregion.exemplars import ExemplarVocabulary
from anyregion.io.regions import load_regions
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Progress, Vocabulary

SIZES = ("small", "medium", "large")
"""COCO's sizes by area of the box in pixels of the stored image: below 32^2, below 96^2, above."""


@dataclass(frozen=True)
class Accuracy:
    """Of some regions: how many there are, and the fractions (0 to 1) named rightly."""

    regions: int
    top1: float
    top5: float


@dataclass(frozen=True)
class SplitAccuracy:
    """Accuracy on the classes that training saw and on those it did not, among all names.

    Attributes:
        unseen_classes: the names of the unseen classes.
        seen, unseen: accuracy over regions; None without such regions.
        seen_mean_class, unseen_mean_class: `top1` averaged over the classes that occur.
        harmonic_mean: of the two `top1`.
    """

    unseen_classes: tuple[str, ...]
    seen: Accuracy | None
    unseen: Accuracy | None
    seen_mean_class: float | None
    unseen_mean_class: float | None
    harmonic_mean: float | None


@dataclass(frozen=True)
class ClassificationReport:
    """How well given regions were named.

    Attributes:
        top1: fraction of the regions whose best name is right.
        top5: fraction whose right name is among the five best (or all, of a smaller vocabulary).
        mean_class_accuracy: `top1` of each class that occurs, averaged over those classes.
        mean_score: mean score of the best names: against `top1`, how sure the model is of itself.
        regions: how many regions were named.
        images: how many images they are in.
        names: size of the vocabulary.
        by_size: accuracy of `small`, `medium` and `large` boxes; a size without regions is absent.
        by_class: accuracy of each class that occurs, in the vocabulary's order.
        outside_vocabulary: regions left out because their class is not in the vocabulary.
        seconds: time spent on the images, without loading the model or encoding the names.
        set_aside: images and regions that could not be used.
        split: the same by seen and unseen classes, where it was asked for.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    mean_score: float
    regions: int
    images: int
    names: int
    by_size: dict[str, Accuracy]
    by_class: dict[str, Accuracy]
    outside_vocabulary: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    split: SplitAccuracy | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_classification(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    *,
    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary | None = None,
    templates: Sequence[str] | None = None,
    cleaning: Cleaning = "plain",
    use_masks: bool = False,
    score: Score | None = None,
    unseen: str | None = None,
    limit: int | None = None,
    batch_size: int = 4,
    progress: Progress | None = None,
    encoding: Progress | None = None,
) -> ClassificationReport:
    """Name every annotated region and compare with its category.

    Crowd regions are left out. Names of another vocabulary than the file's are matched with the
    file's category names whatever their case and underscores; regions of classes that it does not
    hold are counted and left out. Scores that the file may state for its regions are not used.

    Args:
        recognizer: the recogniser, or what loads it once the files are known to be usable.
        annotations: COCO annotations: boxes, categories and their names.
        images: the folder that `file_name` starts from (or that holds the bare file). An image
            file that several entries lead to is nobody's: those are set aside.
        vocabulary: names to choose from; the file's categories unless given.
        templates, cleaning: of the vocabulary that is made of the file's categories.
        use_masks: give the masks as prompts too, where there are any.
        score: only `mean_score` depends on it.
        unseen: which classes training never saw, as `unseen_categories` reads it.
        limit: no more than the first so many images that have regions.
        batch_size: images at once.
        progress: called with (done, total) images.
        encoding: called with (done, total) names while the vocabulary is encoded.

    Raises:
        InputError: files that cannot be used, or no region that could be named.
    """
    file = load_regions(annotations, masks=use_masks, scores=False)
    asked = ask_names(
        file.categories, vocabulary, templates=templates, cleaning=cleaning, source=annotations
    )
    hidden = None if unseen is None else unseen_categories(unseen, file.categories)
    aside = [*file.set_aside, *asked.set_aside]
    found = find_files(file.images.values(), Path(images), limit=limit, aside=aside)
    if not found:
        raise nothing(annotations, aside, "no image has regions")
    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    words = recognizer.encode_vocabulary(asked.vocabulary, progress=encoding)

    outside = 0

    def of_known_classes(photo: Photo) -> Regions:
        nonlocal outside
        regions = photo.entry.regions
        known = [i for i, c in enumerate(_categories(regions)) if c in asked.positions]
        outside += len(regions) - len(known)
        return regions[known]

    started = time.perf_counter()
    batches = walk(found, batch_size=batch_size, progress=progress, aside=aside)
    answers = name_regions(
        recognizer, words, batches, of_known_classes, aside=aside, top_k=5, score=score
    )
    results = [_Named.of(prediction, asked.positions) for _, prediction in answers]
    seconds = time.perf_counter() - started
    if not results:
        raise nothing(annotations, aside, "no region has a class of the vocabulary")
    return _report(_Named.join(results), asked, len(results), outside, seconds, aside, hidden)


@dataclass(frozen=True, eq=False)
class _Named:
    """Per region: position of the right name, whether it came first or in five, score, area."""

    truth: NDArray[np.int64]
    first: NDArray[np.bool_]
    five: NDArray[np.bool_]
    scores: NDArray[np.float32]
    areas: NDArray[np.float64]

    @classmethod
    def of(cls, answer: Predictions, positions: dict[int, int]) -> _Named:
        regions = answer.regions
        right = np.array([positions[c] for c in _categories(regions)], dtype=np.int64)
        hits = answer.indices == right[:, None]
        sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
        return cls(right, hits[:, 0], hits.any(axis=1), answer.scores[:, 0], sides.prod(axis=1))

    @classmethod
    def join(cls, parts: Sequence[_Named]) -> _Named:
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def _report(
    named: _Named,
    asked: AskedNames,
    images: int,
    outside: int,
    seconds: float,
    aside: list[SetAside],
    hidden: frozenset[int] | None,
) -> ClassificationReport:
    of_size = np.digitize(named.areas, [32.0**2, 96.0**2])
    by_size = {
        name: _accuracy(named, of_size == i) for i, name in enumerate(SIZES) if (of_size == i).any()
    }
    by_class = {
        asked.names.names[i]: _accuracy(named, named.truth == i) for i in np.unique(named.truth)
    }
    whole = _accuracy(named, np.ones(len(named.truth), dtype=bool))
    return ClassificationReport(
        top1=whole.top1,
        top5=whole.top5,
        mean_class_accuracy=float(np.mean([a.top1 for a in by_class.values()])),
        mean_score=float(named.scores.mean()),
        regions=whole.regions,
        images=images,
        names=len(asked.names),
        by_size=by_size,
        by_class=by_class,
        outside_vocabulary=outside,
        seconds=seconds,
        set_aside=tuple(aside),
        split=None if hidden is None else _split(named, asked, by_class, hidden),
    )


def _split(
    named: _Named, asked: AskedNames, by_class: dict[str, Accuracy], hidden: frozenset[int]
) -> SplitAccuracy:
    positions = sorted({asked.positions[i] for i in hidden if i in asked.positions})
    is_unseen = np.isin(named.truth, positions)
    names = tuple(asked.names.names[i] for i in positions)
    seen, unseen = (
        _accuracy(named, which) if which.any() else None for which in (~is_unseen, is_unseen)
    )
    means: list[float | None] = []
    for wanted in (False, True):
        tops = [a.top1 for name, a in by_class.items() if (name in names) == wanted]
        means.append(float(np.mean(tops)) if tops else None)
    both = harmonic_mean(seen.top1 if seen else None, unseen.top1 if unseen else None)
    return SplitAccuracy(names, seen, unseen, means[0], means[1], both)


def _accuracy(named: _Named, which: NDArray[np.bool_]) -> Accuracy:
    return Accuracy(
        regions=int(which.sum()),
        top1=float(named.first[which].mean()),
        top5=float(named.five[which].mean()),
    )


def _categories(regions: Regions) -> list[int]:
    return [] if regions.categories is None else regions.categories.tolist()
