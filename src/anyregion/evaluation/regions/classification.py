"""Classification of given regions: top-1 and top-5 accuracy, by size, by class, seen and unseen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import SetAside
from anyregion.evaluation.metrics.accuracy import (
    Ranks,
    first_ranks_of,
    mean_class_accuracy,
    ranks_of,
    top_k,
)
from anyregion.evaluation.metrics.calibration import auroc, ece
from anyregion.evaluation.regions.error_report import AnswerLog, ErrorReport
from anyregion.evaluation.regions.inputs import (
    SIZE_EDGES,
    SIZE_NAMES,
    CategoryNames,
    EmptyEvaluationError,
    EvaluationOptions,
    category_names,
    keep_categories,
    loaded,
)
from anyregion.evaluation.regions.right_names import RightNames
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_categories
from anyregion.io.regions import load_regions
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import RecognizeOptions, RegionNamer, annotated_samples, run_pipeline
from anyregion.vocabulary import name_key


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
        ece: expected calibration error of the best names' scores, 15 bins of equal width.
        auroc: of telling right best names from wrong ones by their score; None without either.
        regions, images, names: how many regions, in how many images; size of the vocabulary.
        by_size: accuracy of `small`, `medium` and `large` boxes; a size without regions is absent.
        by_class: accuracy of each class that occurs, in the vocabulary's order; with several right
            names a class, in the order of the annotations' categories and by their names.
        outside_vocabulary: regions left out because no name of the vocabulary is right for them.
        seconds: time spent on the images, without loading the model or encoding the names.
        set_aside: images and regions that could not be used.
        split: the same by seen and unseen classes, where it was asked for.
        right_names: the list by which several names were right for a class, where there was one.
        errors: what was written to `EvaluationOptions.report`, where it was asked for.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    mean_score: float
    ece: float
    auroc: float | None
    regions: int
    images: int
    names: int
    by_size: dict[str, Accuracy]
    by_class: dict[str, Accuracy]
    outside_vocabulary: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    split: SplitAccuracy | None = None
    right_names: str | None = None
    errors: ErrorReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_classification(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    options: EvaluationOptions | None = None,
    *,
    right_names: RightNames | None = None,
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
        options: how regions are named; of the figures, only `mean_score`, `ece` and `auroc` depend
            on `score`.
        right_names: which names are right for each class: its own, synonyms, kinds of it. The best
            placed one counts. Without it, the class's own name alone.

    Raises:
        InputError: files that cannot be used, or no region that could be named.
    """
    options = options or EvaluationOptions()
    file = load_regions(annotations, masks=options.use_masks, scores=False, images=images)
    names = category_names(file.categories, options, source=annotations, right_names=right_names)
    classes = _Classes.of(names, file.categories)
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
    log = AnswerLog()
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
        for item, predictions in batch.results:
            parts.append(_Answers.of(predictions, classes))
            if options.report is not None:
                true = [classes.names[label] for label in parts[-1].labels.tolist()]
                log.add(item.sample.name, predictions, true, parts[-1].ranks == 0)
    seconds = time.perf_counter() - started
    if not parts:
        reason = "no region has a class of the vocabulary"
        raise EmptyEvaluationError(annotations, set_aside, reason)
    errors = None
    if options.report is not None:
        errors, not_shown = log.write(options.report, names.names.names, options.picture, track)
        set_aside += not_shown
    answers = _Answers.join(parts)
    # (N,) rows of regions, over all images
    overall = answers.accuracy(np.ones(len(answers.labels), dtype=bool))
    correct = answers.ranks == 0  # (N,)
    size = np.digitize(answers.areas, SIZE_EDGES)
    by_class = {
        classes.names[label]: answers.accuracy(answers.labels == label)
        for label in np.unique(answers.labels)
    }
    return ClassificationReport(
        top1=overall.top1,
        top5=overall.top5,
        mean_class_accuracy=mean_class_accuracy(answers.ranks, answers.labels),
        mean_score=float(answers.scores.mean()),
        ece=ece(answers.scores.astype(np.float64), correct),
        auroc=auroc(answers.scores[correct], answers.scores[~correct]),
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
        split=None if unseen is None else _split(answers, classes, unseen),
        right_names=None if right_names is None else right_names.source,
        errors=errors,
    )


@dataclass(frozen=True, eq=False)
class _Classes:
    """The classes that regions are of, and which answers are right for each.

    Attributes:
        names: of each class.
        labels: `{category id: class}`; categories that come to one name are one class.
        right: `{class: positions of its right names in the vocabulary}`; None where each class is
            a name of the vocabulary, and right is that position alone.
    """

    names: Sequence[str]
    labels: Mapping[int, int]
    right: Mapping[int, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, names: CategoryNames, categories: Mapping[int, str]) -> _Classes:
        """Of the annotations' categories, as far as the vocabulary has names for them."""
        if names.right is None:
            return cls(names.names.names, names.positions)
        keys: dict[str, int] = {}
        labels = {
            category: keys.setdefault(name_key(name, names.names.cleaning), len(keys))
            for category, name in categories.items()
            if category in names.right
        }
        # of categories with one name, the first says how it is written
        written = {label: categories[category] for category, label in reversed(labels.items())}
        right = {labels[category]: at for category, at in names.right.items()}
        return cls([written[label] for label in range(len(keys))], labels, right)


@dataclass(frozen=True, eq=False)
class _Answers:
    """Per region `(N,)`: its class, the right name's rank, the best score, the box's area."""

    labels: NDArray[np.int64]
    ranks: Ranks
    scores: NDArray[np.float32]
    areas: NDArray[np.float64]

    @classmethod
    def of(cls, predictions: Predictions, classes: _Classes) -> _Answers:
        """Of one image, all of whose regions have a category in `classes.labels`."""
        regions = predictions.regions
        categories = [] if regions.categories is None else regions.categories.tolist()
        labels = np.array([classes.labels[c] for c in categories], dtype=np.int64)
        # the size goes by the box: not every file has masks
        sides = regions.boxes[:, 2:] - regions.boxes[:, :2]  # (N, 2)
        if classes.right is None:
            ranks = ranks_of(predictions.indices, labels)
        else:
            right = [classes.right[label] for label in labels.tolist()]
            ranks = first_ranks_of(predictions.indices, right)
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


def _split(answers: _Answers, classes: _Classes, ids: frozenset[int]) -> SplitAccuracy:
    labels = sorted({classes.labels[i] for i in ids if i in classes.labels})
    is_unseen = np.isin(answers.labels, labels)  # (N,)
    seen, unseen = (
        answers.accuracy(rows) if rows.any() else None for rows in (~is_unseen, is_unseen)
    )
    seen_mean, unseen_mean = (
        mean_class_accuracy(answers.ranks[rows], answers.labels[rows]) if rows.any() else None
        for rows in (~is_unseen, is_unseen)
    )
    return SplitAccuracy(
        unseen_classes=tuple(classes.names[i] for i in labels),
        seen=seen,
        unseen=unseen,
        seen_mean_class=seen_mean,
        unseen_mean_class=unseen_mean,
        harmonic_mean=harmonic_mean(*(None if a is None else a.top1 for a in (seen, unseen))),
    )
