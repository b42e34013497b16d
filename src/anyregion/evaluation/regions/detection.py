"""Detection: regions from any source, named, and judged by COCO's and LVIS's AP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.average_precision import (
    PrecisionTable,
    Style,
    average_precision,
    style_of,
    true_masks,
)
from anyregion.evaluation.metrics.coco_eval import Detections, Kind
from anyregion.evaluation.metrics.overlap import boxes_per_thing
from anyregion.evaluation.regions.coco_results import from_predictions, read_results, to_results
from anyregion.evaluation.regions.error_report import AnswerLog, ErrorReport
from anyregion.evaluation.regions.inputs import (
    EmptyEvaluationError,
    EvaluationOptions,
    category_names,
    detected_samples,
    loaded,
)
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_of
from anyregion.files import write_json, writing
from anyregion.io.regions import ImageEntry
from anyregion.predictions import Predictions
from anyregion.proposals import DuplicateOptions, RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.regions import Boxes
from anyregion.runs.pipeline import (
    ProposedRegions,
    RecognizeOptions,
    RegionNamer,
    annotated_samples,
    run_pipeline,
)
from anyregion.vocabulary import Progress

PAIRS = 300
"""(Region, name) pairs kept of each image: LVIS's rule. RegionSpot's code keeps 900."""

GROUND_TRUTH = "ground-truth"

RegionChoice: TypeAlias = str | Path | ProposedRegions | RegionProposer
"""`ground-truth`, a detector's JSON as `load_regions` reads it, or what proposes regions."""


@dataclass(frozen=True)
class ClassPrecision:
    """One class: its regions, AP of boxes and of masks (0 to 1), and LVIS's frequency."""

    regions: int
    box_ap: float | None
    mask_ap: float | None
    frequency: str


@dataclass(frozen=True)
class SplitPrecision:
    """AP over the classes that training saw, over those it did not, and their harmonic mean."""

    unseen_classes: tuple[str, ...]
    seen: float | None
    unseen: float | None
    harmonic_mean: float | None


@dataclass(frozen=True)
class RegionsPerThing:
    """How found regions lie on the annotated things; see `boxes_per_thing`.

    Attributes:
        duplicates: regions that were left out for a better one of the same name.
        at_most_one: fraction of the things with one region or none, whatever it is named.
        at_most_one_named: the same of the regions that have the thing's own name.
        named_once: of the things with any region of their own name the fraction with exactly one.
    """

    duplicates: int
    at_most_one: float
    at_most_one_named: float
    named_once: float | None


@dataclass(frozen=True)
class DetectionReport:
    """AP of named regions. All figures are fractions from 0 to 1, None where nothing is to average.

    Attributes:
        style: `coco` or `lvis`: by whose rules.
        boxes: AP, AP50, AP75, APs, APm, APl, AR@n, ARs, ARm, ARl; in LVIS also APr, APc, APf.
        masks: the same of masks, where they were asked for.
        by_class: each class that has regions.
        split: AP by seen and unseen classes, of masks where there are any, where it was asked for.
        top1: with the annotations' own regions: fraction whose best name is right.
        images: how many images count.
        regions: how many regions were named; None for predictions from a file.
        detections: how many (region, name) pairs were judged.
        names: size of the vocabulary; of a file of predictions the number of categories.
        seconds: of naming, without loading the model or encoding the names.
        judging_seconds: of comparing with the annotations.
        set_aside: what could not be used.
        things: of found regions, how they lie on the annotated things; else None.
        errors: what was written to `EvaluationOptions.report`, where it was asked for.
    """

    style: Style
    boxes: dict[str, float | None]
    masks: dict[str, float | None] | None
    by_class: dict[str, ClassPrecision]
    split: SplitPrecision | None
    top1: float | None
    images: int
    regions: int | None
    detections: int
    names: int
    seconds: float
    judging_seconds: float
    set_aside: tuple[SetAside, ...]
    things: RegionsPerThing | None = None
    errors: ErrorReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_detection(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    options: EvaluationOptions | None = None,
    *,
    regions: RegionChoice = GROUND_TRUTH,
    masks: bool = False,
    style: Style | Literal["auto"] = "auto",
    pairs: int = PAIRS,
    save: Path | None = None,
) -> DetectionReport:
    """Name regions and compare with the annotations, as published (RegionSpot, section 4).

    Of each image the best `pairs` (region, name) count, by the name's score times the region's
    own. Classes are matched with the vocabulary whatever their case and underscores; other names
    take their place among the pairs, and count for nothing.

    Args:
        recognizer, images: as for `evaluate_classification`.
        annotations: as `read_annotations` reads them: COCO, LVIS, Objects365, VOC, ...
        regions: see `RegionChoice`.
        masks: mask AP too: masks by the recogniser, or else those that the regions bring.
        style: by whose rules; `auto` is LVIS's for annotations that are federated, else COCO's.
        pairs: (region, name) pairs an image.
        save: write the predictions as COCO results, for `evaluate_results` and others.

    Raises:
        InputError: files that cannot be used, nothing to evaluate, or mask AP without masks.
    """
    options = options or EvaluationOptions()
    if pairs < 1:
        raise InputError(f"at least one (region, name) pair an image is needed, not {pairs}")
    own_regions = isinstance(regions, str) and regions == GROUND_TRUTH
    truth = read_annotations(
        annotations, masks=masks or (options.use_masks and own_regions), images=images
    )
    if truth.segmentations is not None:
        # a mask that cannot be read is reported before hours of naming, not after
        truth = replace(truth, segmentations=true_masks(truth))
    categories = _names(truth)
    names = category_names(categories, options, source=annotations)
    unseen = None if options.unseen is None else unseen_of(options.unseen, truth.categories)
    set_aside = [*truth.set_aside, *names.set_aside]
    samples = annotated_samples(
        _entries(truth, masks=options.use_masks),
        Path(images),
        limit=options.limit,
        without_regions=not own_regions,
        set_aside=set_aside,
    )
    if not samples:
        reason = "no image has regions" if own_regions else "no image"
        raise EmptyEvaluationError(annotations, set_aside, reason)
    if not isinstance(regions, (str, Path)):
        samples = [replace(sample, regions=None) for sample in samples]
    elif not own_regions:
        samples = detected_samples(
            Path(regions), samples, truth.image_ids, masks=masks or options.use_masks
        )
    # all that can be wrong with the files was found out: now the slow part begins
    recognizer = loaded(recognizer)
    proposer = None if isinstance(regions, (str, Path)) else regions
    duplicates: DuplicateOptions | None = DuplicateOptions()
    if isinstance(proposer, ProposedRegions):
        duplicates = proposer.duplicates
        proposer = proposer.load(recognizer)
    track = options.track
    encoding = track("reading the vocabulary", "names")
    encoded = recognizer.encode_vocabulary(names.vocabulary, progress=encoding)
    # a name may stand for several categories, and a category may have no name
    labels_of: list[list[int]] = [[] for _ in names.names.names]
    for label, category in enumerate(truth.categories.ids.tolist()):
        if category in names.positions:
            labels_of[names.positions[category]].append(label)

    position = {key: i for i, key in enumerate(truth.image_ids)}
    # images that were looked at, also those without a region: what they lack is missed
    counted: list[int] = []
    parts: list[Detections] = []
    correct = count = left_out = 0
    # regions of each thing, and those of its own name
    log = AnswerLog()
    per_thing: list[NDArray[np.int64]] = []
    named: list[NDArray[np.int64]] = []
    started = time.perf_counter()
    naming = RecognizeOptions(top_k=min(len(names.names), pairs), score=options.score, masks=masks)
    for batch in run_pipeline(
        samples,
        recognizer.encoder,
        RegionNamer(
            recognizer, encoded, naming, use_masks=options.use_masks, duplicates=duplicates
        ),
        proposer=proposer,
        batch_size=options.batch_size,
        progress=track("naming regions", "images"),
    ):
        set_aside += batch.set_aside
        counted += [position[str(item.sample.key)] for item in batch.read]
        for item, predictions in batch.results:
            count += len(predictions)
            correct += _correct(predictions, names.positions) if own_regions else 0
            image = position[str(item.sample.key)]
            left_out += len(item.regions) - len(np.unique(predictions.rows))
            rows = truth.rows(image)
            things, labels = truth.boxes[rows], truth.labels[rows]
            if options.report is not None:
                log.add_annotated(
                    item.sample.name, predictions, truth, rows, own_regions=own_regions
                )
            per_thing.append(boxes_per_thing(predictions.boxes, things))
            named.append(_named_per_thing(predictions, labels_of, things, labels))
            parts.append(from_predictions(image, predictions, labels_of, pairs=pairs, masks=masks))
    seconds = time.perf_counter() - started
    if not counted:
        raise EmptyEvaluationError(annotations, set_aside, "no image could be read")
    detections = Detections.join(parts)
    errors = None
    if options.report is not None:
        errors, not_shown = log.write(options.report, names.names.names, options.picture, track)
        set_aside += not_shown
    if save is not None:
        with writing(save):
            write_json(save, to_results(detections, truth))
    report = _judge(
        truth, detections, np.array(counted), style=style, masks=masks, pairs=pairs, unseen=unseen,
        progress=track("judging", "classes"),
    )  # fmt: skip
    return replace(
        report,
        top1=correct / count if own_regions and count else None,
        regions=count,
        names=len(names.names),
        seconds=seconds,
        set_aside=tuple(set_aside),
        things=None if proposer is None else _per_thing(per_thing, named, left_out),
        errors=errors,
    )


def evaluate_results(
    annotations: str | Path,
    results: str | Path,
    *,
    masks: bool = False,
    style: Style | Literal["auto"] = "auto",
    pairs: int | None = None,
    unseen: str | None = None,
    progress: Progress | None = None,
) -> DetectionReport:
    """Judge predictions that exist, without a model.

    Args:
        annotations, masks, style: as for `evaluate_detection`.
        results: COCO results, as `read_results` reads them.
        pairs: predictions an image, over all classes; 300 in LVIS and no limit in COCO, as their
            own evaluators do, unless given.
        unseen: which classes training never saw, as `unseen_categories` reads it.
        progress: called with (done, total) classes.

    Raises:
        InputError: files that cannot be used, or mask AP without masks.
    """
    # boxes as they are: other evaluators do not clip them either
    truth = read_annotations(annotations, masks=masks, clip=False)
    if masks:
        truth = replace(truth, segmentations=true_masks(truth))
    ids = None if unseen is None else unseen_of(unseen, truth.categories)
    set_aside = list(truth.set_aside)
    detections = read_results(results, truth, masks=masks, set_aside=set_aside)
    report = _judge(
        truth, detections, np.arange(len(truth)), style=style, masks=masks, pairs=pairs,
        unseen=ids, progress=progress,
    )  # fmt: skip
    return replace(report, names=len(truth.categories), set_aside=tuple(set_aside))


def _per_thing(
    counts: list[NDArray[np.int64]], named: list[NDArray[np.int64]], duplicates: int
) -> RegionsPerThing | None:
    none = np.zeros(0, dtype=np.int64)
    of_any, of_own = np.concatenate([none, *counts]), np.concatenate([none, *named])  # (T,) each
    if not len(of_any):
        return None
    with_own = of_own[of_own > 0]
    return RegionsPerThing(
        duplicates,
        float((of_any <= 1).mean()),
        float((of_own <= 1).mean()),
        float((with_own == 1).mean()) if len(with_own) else None,
    )


def _named_per_thing(
    predictions: Predictions,
    labels_of: Sequence[Sequence[int]],
    things: Boxes,
    labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many regions with its own name as the best each thing has, `(T,)`."""
    counts = np.zeros(len(things), dtype=np.int64)
    names = predictions.indices[:, 0].tolist()
    for label in np.unique(labels).tolist():
        rows = [i for i, name in enumerate(names) if label in labels_of[name]]
        mine = labels == label
        counts[mine] = boxes_per_thing(predictions.boxes[rows], things[mine])
    return counts


def _names(truth: Annotations) -> dict[int, str]:
    return dict(zip(truth.categories.ids.tolist(), truth.categories.names, strict=True))


def _entries(truth: Annotations, *, masks: bool) -> list[ImageEntry]:
    entries: list[ImageEntry] = []
    for i, key in enumerate(truth.image_ids):
        regions, codes = truth.regions(i), truth.segmentations
        if masks and codes is not None:
            regions = replace(regions, masks=tuple(codes[row] for row in truth.rows(i)))
        # -1 where the annotations do not state it
        size = None if (truth.sizes[i] < 0).any() else tuple(truth.sizes[i].tolist())
        entries.append(ImageEntry(key, regions, truth.file_names[i], size))
    return entries


def _correct(predictions: Predictions, positions: Mapping[int, int]) -> int:
    """How many regions have their category's name as the best."""
    categories = predictions.regions.categories
    if categories is None:
        return 0
    # -1 is no name's position: a category that the vocabulary lacks is never right
    labels = [positions.get(int(c), -1) for c in categories[predictions.rows]]
    return int((predictions.indices[:, 0] == labels).sum())


def _judge(
    truth: Annotations,
    detections: Detections,
    images: NDArray[np.int64],
    *,
    style: Style | Literal["auto"],
    masks: bool,
    pairs: int | None,
    unseen: frozenset[int] | None,
    progress: Progress | None,
) -> DetectionReport:
    """Compare detections with the annotations at `images`; the naming's figures are missing."""
    started = time.perf_counter()
    rules = style_of(truth) if style == "auto" else style
    kinds: tuple[Kind, ...] = ("box", "mask") if masks else ("box",)
    tables = {
        kind: average_precision(
            truth, detections, style=rules, kind=kind, images=images, limit=pairs,
            progress=progress,
        )
        for kind in kinds
    }  # fmt: skip
    return DetectionReport(
        style=rules,
        boxes=tables["box"].metrics(),
        masks=tables["mask"].metrics() if masks else None,
        by_class=_by_class(truth, images, tables),
        split=None if unseen is None else _split(truth, tables[kinds[-1]], unseen),
        top1=None,
        images=len(images),
        regions=None,
        detections=len(detections),
        names=0,
        seconds=0.0,
        judging_seconds=time.perf_counter() - started,
        set_aside=(),
    )


def _by_class(
    truth: Annotations, images: NDArray[np.int64], tables: Mapping[Kind, PrecisionTable]
) -> dict[str, ClassPrecision]:
    # a crowd is no region of its class: it is many, uncounted
    counted = np.isin(truth.image_of, images) & ~truth.crowd  # (R,)
    counts = np.bincount(truth.labels[counted], minlength=len(truth.categories))
    missing = np.full(len(truth.categories), np.nan)
    columns = {kind: table.by_class() for kind, table in tables.items()}
    box_ap, mask_ap = (
        [None if np.isnan(ap) else ap for ap in columns.get(kind, missing).tolist()]
        for kind in ("box", "mask")
    )
    names, frequency = truth.categories.names, truth.categories.frequency
    return {
        names[i]: ClassPrecision(int(counts[i]), box_ap[i], mask_ap[i], frequency[i])
        for i in np.flatnonzero(counts).tolist()
    }


def _split(truth: Annotations, table: PrecisionTable, ids: frozenset[int]) -> SplitPrecision:
    categories = truth.categories.ids.tolist()
    unseen = [i for i, category in enumerate(categories) if category in ids]
    seen = [i for i, category in enumerate(categories) if category not in ids]
    figures = table.mean_over(seen), table.mean_over(unseen)
    names = tuple(truth.categories.names[i] for i in unseen)
    return SplitPrecision(names, *figures, harmonic_mean(*figures))
