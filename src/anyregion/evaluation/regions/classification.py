"""Classification of given regions: top-1 and top-5 accuracy, by size, by class, seen and unseen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import SetAside
from anyregion.evaluation.metrics.accuracy import Ranks, mean_class_accuracy, ranks_of, top_k
from anyregion.evaluation.regions.inputs import (
    SIZE_EDGES,
    SIZE_NAMES,
    CategoryNames,
    EmptyEvaluationError,
    EvaluationOptions,
    annotated_samples,
    category_names,
    keep_categories,
    loaded,
)
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_categories
from anyregion.io.regions import load_regions
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import RecognizeOptions, RegionNamer, run_pipeline


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
        regions, images, names: how many regions, in how many images; size of the vocabulary.
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
    options: EvaluationOptions | None = None,
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
        options: how regions are named; of the figures, only `mean_score` depends on `score`.

    Raises:
        InputError: files that cannot be used, or no region that could be named.
    """
    options = options or EvaluationOptions()
    file = load_regions(annotations, masks=options.use_masks, scores=False, images=images)
    names = category_names(file.categories, options, source=annotations)
    unseen = None if options.unseen is None else unseen_categories(options.unseen, file.categories)
    set_aside = [*file.set_aside, *names.set_aside]
    listed = annotated_samples(
        file.images.values(), Path(images), limit=options.limit, set_aside=set_aside
    )
    if not listed:
        raise EmptyEvaluationError(annotations, set_aside, "no image has regions")
    # regions whose class the vocabulary lacks are counted, but not named; here by image
    samples = []
    outside: dict[str, int] = {}
    for sample in listed:
        sample, outside[sample.name] = keep_categories(sample, names.positions)
        samples.append(sample)
    recognizer = loaded(recognizer)
    track = options.track
    encoding = track("reading the vocabulary", "names")
    encoded = recognizer.encode_vocabulary(names.vocabulary, progress=encoding)
    started = time.perf_counter()
    parts: list[_Answers] = []
    outside_vocabulary = 0
    for batch in run_pipeline(
        samples,
        recognizer.encoder,
        RegionNamer(recognizer, encoded, RecognizeOptions(top_k=5, score=options.score)),
        batch_size=options.batch_size,
        progress=track("naming regions", "images"),
    ):
        set_aside += batch.set_aside
        outside_vocabulary += sum(outside[item.sample.name] for item in batch.read)
        parts += [_Answers.of(predictions, names.positions) for _, predictions in batch.results]
    seconds = time.perf_counter() - started
    if not parts:
        reason = "no region has a class of the vocabulary"
        raise EmptyEvaluationError(annotations, set_aside, reason)
    answers = _Answers.join(parts)
    # (N,) rows of regions, over all images
    overall = answers.accuracy(np.ones(len(answers.labels), dtype=bool))
    size = np.digitize(answers.areas, SIZE_EDGES)
    by_class = {
        names.names.names[label]: answers.accuracy(answers.labels == label)
        for label in np.unique(answers.labels)
    }
    return ClassificationReport(
        top1=overall.top1,
        top5=overall.top5,
        mean_class_accuracy=mean_class_accuracy(answers.ranks, answers.labels),
        mean_score=float(answers.scores.mean()),
        regions=overall.regions,
        images=len(parts),
        names=len(names.names),
        by_size={
            name: answers.accuracy(size == i)
            for i, name in enumerate(SIZE_NAMES)
            if (size == i).any()
        },
        by_class=by_class,
        outside_vocabulary=outside_vocabulary,
        seconds=seconds,
        set_aside=tuple(set_aside),
        split=None if unseen is None else _split(answers, names, unseen),
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    """Per region `(N,)`: its right name, that name's rank, the best score, the box's area."""

    labels: NDArray[np.int64]
    ranks: Ranks
    scores: NDArray[np.float32]
    areas: NDArray[np.float64]

    @classmethod
    def of(cls, predictions: Predictions, positions: dict[int, int]) -> _Answers:
        """Of one image, all of whose regions have a category in `positions`."""
        regions = predictions.regions
        categories = [] if regions.categories is None else regions.categories.tolist()
        labels = np.array([positions[c] for c in categories], dtype=np.int64)
        # the size goes by the box: not every file has masks
        sides = regions.boxes[:, 2:] - regions.boxes[:, :2]  # (N, 2)
        ranks = ranks_of(predictions.indices, labels)
        return cls(labels, ranks, predictions.scores[:, 0], sides.prod(axis=1))

    @classmethod
    def join(cls, parts: Sequence[_Answers]) -> _Answers:
        """One image after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def accuracy(self, rows: NDArray[np.bool_]) -> Accuracy:
        """Of some regions, at least one."""
        ranks = self.ranks[rows]
        return Accuracy(regions=len(ranks), top1=top_k(ranks, 1), top5=top_k(ranks, 5))


def _split(answers: _Answers, names: CategoryNames, ids: frozenset[int]) -> SplitAccuracy:
    positions = sorted({names.positions[i] for i in ids if i in names.positions})
    is_unseen = np.isin(answers.labels, positions)  # (N,)
    seen, unseen = (
        answers.accuracy(rows) if rows.any() else None for rows in (~is_unseen, is_unseen)
    )
    seen_mean, unseen_mean = (
        mean_class_accuracy(answers.ranks[rows], answers.labels[rows]) if rows.any() else None
        for rows in (~is_unseen, is_unseen)
    )
    return SplitAccuracy(
        unseen_classes=tuple(names.names.names[i] for i in positions),
        seen=seen,
        unseen=unseen,
        seen_mean_class=seen_mean,
        unseen_mean_class=unseen_mean,
        harmonic_mean=harmonic_mean(*(None if a is None else a.top1 for a in (seen, unseen))),
    )
