"""Learning curves of teaching: how right and how honest answers are after so many corrections.

Corrections are taken from annotations in batches, as somebody would make them: all that was
corrected is taught, then the next batch is chosen, in random order or by the queue, which is asked
anew each time. Held-out regions are named after each batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.drawing.curves import BLUE, GREEN, RED, Line, Panel, draw_panels
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.accuracy import mean_class_accuracy, ranks_of, top_k
from anyregion.evaluation.metrics.calibration import auroc, ece
from anyregion.evaluation.regions.inputs import loaded
from anyregion.exemplars import all_names
from anyregion.files import atomic_path, writing
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import Track, silent
from anyregion.runs.region_tables import ListedRegions, SeenRegions, read_source, see_regions
from anyregion.scoring import Floats
from anyregion.teaching.corrections import NONE_OF_THESE
from anyregion.teaching.queue import order_regions
from anyregion.teaching.region_table import RegionTable
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, name_key

Labels = NDArray[np.int64]

ORDERS = ("random", "queue")
METRICS = ("top1", "mean_class_accuracy", "ece", "auroc")
TAUGHT = "taught.vocab"
# each seed has its own photographs: all but this share
LEFT_OUT = 0.2
# the accuracies that labels are counted for: those of random order with these shares of the labels
SHARES = (0.125, 0.25, 0.5)
_NONE = name_key(NONE_OF_THESE)


@dataclass(frozen=True, kw_only=True)
class TeachingOptions:
    """How curves are measured.

    Attributes:
        vocabulary: the names; those of the annotations unless given, which join them anyway.
        seeds: how many draws of photographs and of random order.
        first: corrections in the first batch.
        growth: how many corrections there are after a batch, as a multiple of those before it (the
            first batches have `first` regions at least).
        limit: no more than the first so many images of each file.
        use_masks, batch_size, track: as for `queue_regions`.
    """

    vocabulary: Vocabulary | EncodedVocabulary | None = None
    seeds: int = 3
    first: int = 10
    growth: float = 1.5
    limit: int | None = None
    use_masks: bool = False
    batch_size: int = 4
    track: Track = silent

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.first < 1:
            raise InputError("seeds and the first batch must be at least 1")
        if not self.growth > 1:
            raise InputError(f"the growth must be above 1; it is {self.growth}")


@dataclass(frozen=True)
class CurvePoint:
    """Held-out regions after so many corrections, means over the seeds.

    Attributes:
        corrections: regions that were corrected.
        top1, mean_class_accuracy: of the best names.
        ece: expected calibration error of their scores.
        auroc: of telling wrong answers from right ones by the score; None where all are alike.
        top1_deviation, mean_class_deviation: standard deviations over the seeds.
        exemplars_top1, exemplars_mean_class: of the corrections as exemplars; None without any.
        seconds_queue, seconds_teach, seconds_name: choosing the batch, teaching it, naming the
            held-out regions, whose features are there.
    """

    corrections: int
    top1: float
    mean_class_accuracy: float
    ece: float
    auroc: float | None
    top1_deviation: float
    mean_class_deviation: float
    exemplars_top1: float | None
    exemplars_mean_class: float | None
    seconds_queue: float
    seconds_teach: float
    seconds_name: float


@dataclass(frozen=True)
class LabelsSaved:
    """Labels that the queue needs for what random order reaches with so many.

    Attributes:
        metric: `top1` or `mean_class_accuracy`.
        accuracy: what random order reaches.
        random, queue: the labels that each needs for it, on the mean of the seeds' curves, read
            where they first reach it; None where the queue never does.
        ratio: the quotient.
        ratios: that of each seed alone.
    """

    metric: str
    accuracy: float
    random: float
    queue: float | None
    ratio: float | None
    ratios: tuple[float | None, ...]


@dataclass(frozen=True)
class TeachingReport:
    """Learning curves, and what the queue saves.

    Attributes:
        curves: by order (`random`, `queue`), the points from no correction (words alone) to all of
            a seed's.
        saved: labels saved, by metric and accuracy.
        all_corrections: the point of all corrections of all photographs, once.
        trained: the point of a model that was trained on them, by words; None without one.
        regions, images: that can be corrected.
        held_out, held_out_images: that are named.
        names: how many names there are.
        commonest: the share of the held-out regions' commonest name.
        seconds_seeing: computing all features; of kept ones, reading them.
        set_aside: what cannot be used, and why.
    """

    curves: Mapping[str, tuple[CurvePoint, ...]]
    saved: tuple[LabelsSaved, ...]
    all_corrections: CurvePoint
    trained: CurvePoint | None
    regions: int
    images: int
    held_out: int
    held_out_images: int
    names: int
    commonest: float
    seconds_seeing: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_teaching(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    held_out: str | Path,
    options: TeachingOptions | None = None,
    *,
    held_out_images: str | Path | None = None,
    keep: str | Path | None = None,
    trained: Recognizer | Callable[[], Recognizer] | None = None,
) -> TeachingReport:
    """Measure learning curves in random order and in the queue's.

    Every seed corrects four fifths of the photographs, drawn at random, so that both orders have a
    spread; the queue itself draws nothing.

    Args:
        recognizer: the model, or what loads it.
        annotations: regions with their right names, to be corrected.
        images: the folder of their images.
        held_out: regions of other images, to be named; or `every:N:K`, every N-th image of the
            annotations from the K-th on (from 0), in the order of the file.
        options: see there.
        held_out_images: the folder of their images, unless it is the same.
        keep: a folder to keep the regions' features in, and all that was taught, as
            `taught.vocab`.
        trained: a model that was trained on the same corrections, to be named beside; or what
            loads it.

    Raises:
        InputError: files that cannot be used, or none that both are about.
    """
    options = options or TeachingOptions()
    started = time.perf_counter()
    recognizer = loaded(recognizer)
    folder = None if keep is None else Path(keep)
    if folder is not None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    sources = _sources(Path(annotations), Path(images), str(held_out), held_out_images, options)
    seen: list[SeenRegions] = []
    for name, source in zip(("corrections", "held-out"), sources, strict=True):
        file = None if folder is None else folder / f"features-{name}.safetensors"
        part = see_regions(
            source, recognizer, keep=file, use_masks=options.use_masks, limit=options.limit,
            batch_size=options.batch_size, track=options.track,
        )  # fmt: skip
        seen.append(part)
    seconds_seeing = time.perf_counter() - started
    set_aside = [note for part in seen for note in part.set_aside]
    names = _names(options.vocabulary, [source.categories for source in sources])
    encoded = recognizer.encode_vocabulary(names)
    tables, labels = [], []
    for part, source in zip(seen, sources, strict=True):
        table, of_table = _labelled(part.table, source.categories, encoded.vocabulary, set_aside)
        tables.append(table)
        labels.append(of_table)
    tables[0], labels[0] = _apart(tables[0], labels[0], tables[1], set_aside)
    # "none of these" is no name that a held-out region could be given
    named = np.flatnonzero(labels[1] >= 0)
    tables[1], labels[1] = tables[1].select(named), labels[1][named]
    if not len(labels[0]) or not len(labels[1]):
        which = annotations if not len(labels[0]) else held_out
        raise InputError(f"{which}: no region that can be used")
    lab = _Lab(recognizer, encoded, tables[0], labels[0], tables[1], labels[1])
    progress = options.track("teaching", "curves")
    runs: dict[str, list[list[_Point]]] = {order: [] for order in ORDERS}
    total = len(ORDERS) * options.seeds
    for seed, pool in enumerate(lab.pools(options.seeds)):
        for i, order in enumerate(ORDERS, start=1):
            runs[order].append(lab.curve(order, pool, options))
            progress(len(ORDERS) * seed + i, total)
    taught, all_corrections = lab.everything()
    if folder is not None:
        taught.save(folder / TAUGHT)
    return TeachingReport(
        curves={
            order: tuple(_mean(points) for points in zip(*curves, strict=True))
            for order, curves in runs.items()
        },
        saved=_saved(runs),
        all_corrections=_mean([all_corrections]),
        trained=None if trained is None else _trained(loaded(trained), sources[1], lab, options),
        regions=len(tables[0]),
        images=len(np.unique(tables[0].image_of)),
        held_out=len(tables[1]),
        held_out_images=len(np.unique(tables[1].image_of)),
        names=len(encoded.vocabulary),
        commonest=float(np.bincount(labels[1]).max() / len(labels[1])),
        seconds_seeing=seconds_seeing,
        set_aside=tuple(set_aside),
    )


@dataclass(frozen=True, eq=False)
class _Point:
    """One seed's point: as `CurvePoint`, without deviations."""

    corrections: int
    figures: Mapping[str, float | None]
    exemplars: tuple[float, float] | None
    seconds: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Lab:
    """All regions with their features, and what is measured on them.

    Attributes:
        recognizer: the model.
        words: the names, not taught.
        table, labels: regions to correct, and their names; -1 for none of these.
        held_out, truth: regions to name, and their names.
    """

    recognizer: Recognizer
    words: EncodedVocabulary
    table: RegionTable
    labels: Labels
    held_out: RegionTable
    truth: Labels

    def pools(self, seeds: int) -> list[Labels]:
        """Each seed's regions, those of four fifths of the photographs, in random order."""
        images = np.unique(self.table.image_of)
        count = max(len(images) - int(LEFT_OUT * len(images)), 1)
        pools = []
        for seed in range(seeds):
            random = np.random.default_rng([15, seed])
            drawn = np.isin(self.table.image_of, random.permutation(images)[:count])
            pools.append(random.permutation(np.flatnonzero(drawn)))
        # curves of one length, to be averaged
        shortest = min(map(len, pools))
        return [pool[:shortest] for pool in pools]

    def curve(self, order: str, pool: Labels, options: TeachingOptions) -> list[_Point]:
        """From words alone to all of a pool, batch by batch."""
        teacher, asked = Teacher(self.recognizer, self.words.vocabulary), pool[:0]
        rows = self.table.rows() if order == "queue" else None
        points = [self.point(self.words, asked, 0.0, 0.0)]
        taught: EncodedVocabulary = self.words
        while len(asked) < len(pool):
            size = max(len(asked) + options.first, int(np.ceil(options.growth * len(asked))))
            size = min(size, len(pool))
            started = time.perf_counter()
            if rows is None:
                batch = pool[len(asked) : size]
            else:
                rest = np.setdiff1d(pool, asked)
                said = self.table.select(rest).probabilities(self.recognizer.encoder, taught)
                known = np.zeros((0, rows.shape[1]), dtype=np.float32)
                if teacher.corrections is not None:
                    known = teacher.corrections.rows.astype(np.float32)
                batch = rest[order_regions(rows[rest], said, known, size - len(asked)).rows]
                # of very many regions the queue orders a part
                others = np.setdiff1d(pool, np.concatenate([asked, batch]))
                batch = np.concatenate([batch, others[: size - len(asked) - len(batch)]])
            chosen = time.perf_counter()
            self.teach(teacher, batch)
            asked, taught = np.concatenate([asked, batch]), teacher.vocabulary()
            done = time.perf_counter()
            points.append(self.point(taught, asked, chosen - started, done - chosen))
        return points

    def everything(self) -> tuple[TaughtVocabulary, _Point]:
        """All corrections of all photographs: what is learnt, and how good that is."""
        asked = np.arange(len(self.table))
        teacher = Teacher(self.recognizer, self.words.vocabulary)
        started = time.perf_counter()
        self.teach(teacher, asked)
        taught = teacher.vocabulary()
        return taught, self.point(taught, asked, 0.0, time.perf_counter() - started)

    def teach(self, teacher: Teacher, rows: Labels) -> None:
        """Say what some regions are."""
        names = self.words.vocabulary.names
        labels = [None if label < 0 else names[label] for label in self.labels[rows].tolist()]
        self.table.teach(teacher, rows, labels)

    def point(
        self, taught: EncodedVocabulary, asked: Labels, choosing: float, teaching: float
    ) -> _Point:
        """Name the held-out regions and judge the answers."""
        started = time.perf_counter()
        probabilities = self.held_out.probabilities(self.recognizer.encoder, taught)[:, :-1]
        seconds = (choosing, teaching, time.perf_counter() - started)
        scores, best = probabilities.max(axis=1), probabilities.argmax(axis=1)
        ranks = ranks_of(best[:, None], self.truth)
        right = ranks == 0
        figures = {
            "top1": top_k(ranks, 1),
            "mean_class_accuracy": mean_class_accuracy(ranks, self.truth),
            "ece": ece(scores, right),
            "auroc": auroc(-scores[~right], -scores[right]),
        }
        return _Point(len(asked), figures, self.by_exemplars(asked), seconds)

    def by_exemplars(self, asked: Labels) -> tuple[float, float] | None:
        """Top-1, plain and by class, of the nearest mean embedding (`anyregion.exemplars`)."""
        asked = asked[self.labels[asked] >= 0]
        if not len(asked):
            return None
        shown, of_name = np.unique(self.labels[asked], return_inverse=True)
        unit = _unit(self.table.embeddings[asked])
        means = _unit(np.stack([unit[of_name == i].mean(axis=0) for i in range(len(shown))]))
        best = shown[(_unit(self.held_out.embeddings) @ means.T).argmax(axis=1)]
        ranks = ranks_of(best[:, None], self.truth)
        return top_k(ranks, 1), mean_class_accuracy(ranks, self.truth)


def _trained(
    recognizer: Recognizer, source: ListedRegions, lab: _Lab, options: TeachingOptions
) -> CurvePoint:
    """The held-out regions named by another model, by words."""
    seen = see_regions(
        source, recognizer, use_masks=options.use_masks, limit=options.limit,
        batch_size=options.batch_size, track=options.track,
    )  # fmt: skip
    names = lab.words.vocabulary
    table, truth = _labelled(seen.table, source.categories, names, [])
    named = np.flatnonzero(truth >= 0)
    encoded = recognizer.encode_vocabulary(names)
    other = replace(
        lab, recognizer=recognizer, words=encoded, held_out=table.select(named), truth=truth[named]
    )
    none = np.zeros(0, dtype=np.int64)
    point = _mean([other.point(encoded, none, 0.0, 0.0)])
    return replace(point, corrections=len(lab.table))


def _unit(values: NDArray[np.floating[Any]]) -> Floats:
    wide: Floats = values.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(lengths, 1e-9), dtype=np.float32)


def _mean(points: Sequence[_Point]) -> CurvePoint:
    """One point of the seeds' mean curve."""

    def values(name: str) -> list[float]:
        return [v for point in points if (v := point.figures[name]) is not None]

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if len(values) else None

    exemplars = [point.exemplars for point in points if point.exemplars is not None]
    choosing, teaching, naming = np.mean([point.seconds for point in points], axis=0).tolist()
    return CurvePoint(
        corrections=points[0].corrections,
        top1=float(np.mean(values("top1"))),
        mean_class_accuracy=float(np.mean(values("mean_class_accuracy"))),
        ece=float(np.mean(values("ece"))),
        auroc=mean(values("auroc")),
        top1_deviation=float(np.std(values("top1"))),
        mean_class_deviation=float(np.std(values("mean_class_accuracy"))),
        exemplars_top1=mean([top1 for top1, _ in exemplars]),
        exemplars_mean_class=mean([by_class for _, by_class in exemplars]),
        seconds_queue=choosing,
        seconds_teach=teaching,
        seconds_name=naming,
    )


def labels_saved(
    corrections: NDArray[np.floating[Any]],
    random: NDArray[np.floating[Any]],
    queue: NDArray[np.floating[Any]],
    metric: str,
) -> list[LabelsSaved]:
    """Labels that each order needs for the same accuracy.

    Args:
        corrections: `(P,)`, of each point, rising.
        random, queue: `(S, P)`, each seed's curve.
        metric: what they are of.
    """
    saved = []
    for share in SHARES:
        count = share * float(corrections[-1])
        accuracy, by_random, by_queue = _needed(
            corrections, random.mean(axis=0), queue.mean(axis=0), count
        )
        ratios = []
        for own_random, own_queue in zip(random, queue, strict=True):
            _, needed, queued = _needed(corrections, own_random, own_queue, count)
            ratios.append(None if queued is None else queued / needed)
        ratio = None if by_queue is None else by_queue / by_random
        saved.append(LabelsSaved(metric, accuracy, by_random, by_queue, ratio, tuple(ratios)))
    return saved


def _needed(
    corrections: NDArray[np.floating[Any]],
    random: NDArray[np.floating[Any]],
    queue: NDArray[np.floating[Any]],
    count: float,
) -> tuple[float, float, float | None]:
    """The accuracy of `random` `(P,)` with so many corrections, and what each needs for it."""
    accuracy = float(np.interp(count, corrections, np.maximum.accumulate(random)))
    needed = _reached(corrections, random, accuracy)
    # the curve passes there, though a rounding may say otherwise; no label at all is no quotient
    by_random = max(min(count, count if needed is None else needed), 1.0)
    return accuracy, by_random, _reached(corrections, queue, accuracy)


def _reached(
    corrections: NDArray[np.floating[Any]], curve: NDArray[np.floating[Any]], accuracy: float
) -> float | None:
    """Where a curve `(P,)` first reaches an accuracy, between points on a line; None: nowhere."""
    best = np.maximum.accumulate(curve)
    if best[-1] < accuracy:
        return None
    i = int(np.argmax(best >= accuracy))
    if i == 0:
        return float(corrections[0])
    share = (accuracy - best[i - 1]) / (best[i] - best[i - 1])
    return float(corrections[i - 1] + share * (corrections[i] - corrections[i - 1]))


def _saved(runs: Mapping[str, Sequence[Sequence[_Point]]]) -> tuple[LabelsSaved, ...]:
    corrections = np.array([point.corrections for point in runs["random"][0]], dtype=np.float64)
    saved: list[LabelsSaved] = []
    for metric in METRICS[:2]:
        # (S, P) each
        random, queue = (
            np.array([[point.figures[metric] for point in curve] for curve in runs[order]])
            for order in ORDERS
        )
        saved += labels_saved(corrections, random, queue, metric)
    return tuple(saved)


def _sources(
    annotations: Path,
    images: Path,
    held_out: str,
    held_out_images: str | Path | None,
    options: TeachingOptions,
) -> tuple[ListedRegions, ListedRegions]:
    """The regions to correct and those to name."""
    source = read_source(annotations, images, use_masks=options.use_masks)
    if not held_out.startswith("every:"):
        folder = images if held_out_images is None else Path(held_out_images)
        return source, read_source(Path(held_out), folder, use_masks=options.use_masks)
    try:
        _, step, start = held_out.split(":")
        every, first = int(step), int(start)
    except ValueError:
        raise InputError(f"{held_out!r} is not every:N:K, as in every:3:2") from None
    if every < 2 or not 0 <= first < every:
        raise InputError(f"{held_out!r}: N must be at least 2, and K from 0 to N - 1")
    listed = [entry for entry in source.entries if len(entry.regions)]
    named = listed[first::every]
    keys = {entry.key for entry in named}
    rest = tuple(entry for entry in listed if entry.key not in keys)
    return replace(source, entries=rest), replace(source, entries=tuple(named), set_aside=())


def _names(
    vocabulary: Vocabulary | EncodedVocabulary | None, categories: Sequence[Mapping[int, str]]
) -> Vocabulary:
    """All names: those of the vocabulary, and those of the annotations that it lacks."""
    words = vocabulary.vocabulary if isinstance(vocabulary, EncodedVocabulary) else vocabulary
    ids = {name: i for listed in reversed(categories) for i, name in listed.items()}
    names = [n for listed in categories for n in listed.values() if name_key(n) != _NONE]
    unique = {name_key(name): name for name in reversed(names)}
    listed = [name for name in dict.fromkeys(names) if unique[name_key(name)] == name]
    if not listed:
        raise InputError("no categories: nothing says what the regions are")
    return all_names(listed, words, ids)


def _labelled(
    table: RegionTable,
    categories: Mapping[int, str],
    names: Vocabulary,
    set_aside: list[SetAside],
) -> tuple[RegionTable, Labels]:
    """The regions that have a category, of equal boxes the last, and their names' positions."""
    positions = {name_key(name, names.cleaning): i for i, name in enumerate(names.names)}
    label_of = {
        i: -1 if name_key(name) == _NONE else positions[name_key(name, names.cleaning)]
        for i, name in categories.items()
    }
    known = np.isin(table.categories, list(label_of))
    if not known.all():
        reason = f"{int((~known).sum())} regions without a category that the file names"
        set_aside.append(SetAside("regions", reason))
    boxes = zip(table.image_of.tolist(), np.round(table.boxes, 2).tolist(), strict=True)
    last = {(image, *box): i for i, (image, box) in enumerate(boxes) if known[i]}
    rows = np.array(sorted(last.values()), dtype=np.int64)
    labels = np.array([label_of[c] for c in table.categories[rows].tolist()], dtype=np.int64)
    return table.select(rows), labels


def _apart(
    table: RegionTable, labels: Labels, held_out: RegionTable, set_aside: list[SetAside]
) -> tuple[RegionTable, Labels]:
    """Without the images that are held out, too: by their content."""
    named = {held_out.images[i].digest for i in np.unique(held_out.image_of).tolist()}
    both = [i for i, image in enumerate(table.images) if image.digest in named]
    set_aside += [SetAside(table.images[i].name, "held out, so it is not taught") for i in both]
    rows = np.flatnonzero(~np.isin(table.image_of, both))
    return table.select(rows), labels[rows]


def write_curves(report: TeachingReport, path: Path) -> None:
    """Draw the curves of both orders over the corrections: accuracies and calibration error.

    Raises:
        AnyRegionError: it cannot be written.
    """
    random, queue = (report.curves[order] for order in ORDERS)
    steps = np.array([point.corrections for point in random], dtype=np.int64)
    colours = {"queue": RED, "random order": BLUE, "exemplars": GREEN}
    panels = []
    for title, name, exemplars in (
        ("top-1", "top1", "exemplars_top1"),
        ("mean class accuracy", "mean_class_accuracy", "exemplars_mean_class"),
        ("ECE", "ece", None),
    ):
        lines = {"random order": _column(random, name)}
        if exemplars is not None:
            lines["exemplars"] = _column(random, exemplars)
        others = tuple(Line(label, values, colours[label]) for label, values in lines.items())
        panels.append(
            Panel(
                title, steps, _column(queue, name), int(steps[-1]), colours["queue"], True,
                label="queue", others=others, logarithmic=True,
            )
        )  # fmt: skip
    with writing(path), atomic_path(path) as temporary:
        draw_panels(panels).save(temporary, format="PNG")


def _column(points: Sequence[CurvePoint], name: str) -> NDArray[np.float64]:
    values = [getattr(point, name) for point in points]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
