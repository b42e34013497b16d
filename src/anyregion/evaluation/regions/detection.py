"""Regions found or given, named, and judged as a detector is: COCO's and LVIS's AP."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError
from anyregion.evaluation.metrics.average_precision import Style, true_masks
from anyregion.evaluation.metrics.coco_eval import Detections
from anyregion.evaluation.regions.detection_report import DetectionReport, judge
from anyregion.evaluation.regions.detections import (
    from_predictions,
    read_results,
    to_results,
)
from anyregion.evaluation.regions.names import ask_names
from anyregion.evaluation.regions.region_choice import (
    GROUND_TRUTH,
    RegionChoice,
    is_ground_truth,
    region_source,
)
from anyregion.evaluation.regions.seen_unseen import unseen_categories
from anyregion.evaluation.regions.walk import Photo, find_files, name_regions, nothing, walk
from anyregion.exemplars import ExemplarVocabulary
from anyregion.files import write_json, writing
from anyregion.io.regions import ImageEntry
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Progress, Vocabulary

PAIRS = 300
"""(Region, name) pairs kept of each image: LVIS's rule. RegionSpot's code keeps 900."""


def evaluate_detection(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    *,
    regions: RegionChoice = GROUND_TRUTH,
    masks: bool = False,
    use_masks: bool = False,
    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary | None = None,
    templates: Sequence[str] | None = None,
    cleaning: Cleaning = "plain",
    score: Score | None = None,
    style: Style | Literal["auto"] = "auto",
    pairs: int = PAIRS,
    unseen: str | frozenset[int] | None = None,
    limit: int | None = None,
    batch_size: int = 4,
    save: Path | None = None,
    progress: Progress | None = None,
    encoding: Progress | None = None,
    judging: Progress | None = None,
) -> DetectionReport:
    """Name regions and compare with the annotations, as published (RegionSpot, section 4).

    Of each image the best `pairs` (region, name) count, by the name's score times the region's
    own. Classes are matched with the vocabulary whatever their case and underscores; other names
    take their place among the pairs, and count for nothing.

    Args:
        recognizer: the recogniser, or what loads it once the files are known to be usable.
        annotations: as `read_annotations` reads them: COCO, LVIS, Objects365, VOC, ...
        images: the folder that file names start from (or that holds the bare file).
        regions: see `RegionChoice`.
        masks: mask AP too: masks by the recogniser, or else those that the regions bring.
        use_masks: give the regions' masks as prompts too, where they bring any.
        vocabulary: names to choose from; the annotations' categories unless given.
        templates, cleaning: of the vocabulary that is made of the categories.
        score: see `Recognizer.predict`.
        style: by whose rules; `auto` is LVIS's for annotations that are federated, else COCO's.
        pairs: (region, name) pairs an image.
        unseen: which classes training never saw: ids, or as `unseen_categories` reads them.
        limit: only the first so many images (that have regions, if these are the annotations').
        batch_size: images at once.
        save: write the predictions as COCO results, for `evaluate_results` and others.
        progress, encoding, judging: called with (done, total) images, names and classes.

    Raises:
        InputError: files that cannot be used, nothing to evaluate, or mask AP without masks.
    """
    if pairs < 1:
        raise InputError(f"at least one (region, name) pair an image is needed, not {pairs}")
    given = is_ground_truth(regions)
    truth = read_annotations(annotations, masks=masks or (use_masks and given))
    if truth.segmentations is not None:
        # a mask that cannot be read is said before hours of naming, not after
        truth = replace(truth, segmentations=true_masks(truth))
    names = _names(truth)
    asked = ask_names(names, vocabulary, templates=templates, cleaning=cleaning, source=annotations)
    hidden = unseen_categories(unseen, names) if isinstance(unseen, str) else unseen
    aside = [*truth.set_aside, *asked.set_aside]
    found = find_files(
        _entries(truth, masks=use_masks),
        Path(images),
        limit=limit,
        without_regions=not given,
        aside=aside,
    )
    if not found:
        raise nothing(annotations, aside, "no image has regions" if given else "no image")
    source = region_source(regions, found, ids=truth.image_ids, masks=masks or use_masks)
    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    words = recognizer.encode_vocabulary(asked.vocabulary, progress=encoding)
    labels_of: list[list[int]] = [[] for _ in asked.names.names]
    for label, category in enumerate(truth.categories.ids.tolist()):
        if category in asked.positions:
            labels_of[asked.positions[category]].append(label)

    position = {key: i for i, key in enumerate(truth.image_ids)}
    looked: list[int] = []
    parts: list[Detections] = []
    right = named = 0
    started = time.perf_counter()
    batches = walk(found, batch_size=batch_size, progress=progress, aside=aside)

    def ask(photo: Photo) -> Regions | None:
        looked.append(position[photo.entry.key])
        return source(photo)

    for photo, answer in name_regions(
        recognizer, words, batches, ask,
        aside=aside, top_k=min(len(asked.names), pairs), score=score,
        masks=masks, use_masks=use_masks,
    ):  # fmt: skip
        named += len(answer)
        right += _right(answer, asked.positions) if given else 0
        image = position[photo.entry.key]
        parts.append(from_predictions(image, answer, labels_of, pairs=pairs, masks=masks))
    seconds = time.perf_counter() - started
    if not looked:
        raise nothing(annotations, aside, "no image could be read")
    detections = Detections.join(parts)
    if save is not None:
        with writing(save):
            write_json(save, to_results(detections, truth))
    return judge(
        truth, detections, style, masks, np.array(looked), pairs, hidden, judging,
        top1=right / named if given and named else None,
        regions=named, names=len(asked.names), seconds=seconds, aside=aside,
    )  # fmt: skip


def evaluate_results(
    annotations: str | Path,
    results: str | Path,
    *,
    masks: bool = False,
    style: Style | Literal["auto"] = "auto",
    pairs: int | None = None,
    unseen: str | None = None,
    judging: Progress | None = None,
) -> DetectionReport:
    """Judge predictions that exist, without a model.

    Args:
        annotations, masks, style, unseen, judging: as for `evaluate_detection`.
        results: COCO results, as `read_results` reads them.
        pairs: predictions an image, over all classes; 300 in LVIS and no limit in COCO, as their
            own evaluators do, unless given.

    Raises:
        InputError: files that cannot be used, or mask AP without masks.
    """
    # as they are: other evaluators do not clip either
    truth = read_annotations(annotations, masks=masks, clip=False)
    if masks:
        truth = replace(truth, segmentations=true_masks(truth))
    hidden = None if unseen is None else unseen_categories(unseen, _names(truth))
    aside = list(truth.set_aside)
    found = read_results(results, truth, masks=masks, aside=aside)
    looked = np.arange(len(truth))
    return judge(
        truth, found, style, masks, looked, pairs, hidden, judging,
        top1=None, regions=None, names=len(truth.categories), seconds=0.0, aside=aside,
    )  # fmt: skip


def _names(truth: Annotations) -> dict[int, str]:
    return dict(zip(truth.categories.ids.tolist(), truth.categories.names, strict=True))


def _entries(truth: Annotations, *, masks: bool) -> list[ImageEntry]:
    def regions(image: int) -> Regions:
        found, codes = truth.regions(image), truth.segmentations
        if not masks or codes is None:
            return found
        return replace(found, masks=tuple(codes[row] for row in truth.rows(image)))

    return [
        ImageEntry(
            key,
            regions(i),
            truth.file_names[i],
            None if (truth.sizes[i] < 0).any() else tuple(truth.sizes[i].tolist()),
        )
        for i, key in enumerate(truth.image_ids)
    ]


def _right(answer: Predictions, positions: dict[int, int]) -> int:
    categories = answer.regions.categories
    if categories is None:
        return 0
    wanted = [positions.get(int(c), -1) for c in categories[answer.rows]]
    return int((answer.indices[:, 0] == wanted).sum())
