"""What a detection evaluation reports, and how it is made of annotations and detections."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.errors import SetAside
from anyregion.evaluation.metrics.average_precision import (
    PrecisionTable,
    Style,
    average_precision,
    style_of,
)
from anyregion.evaluation.metrics.coco_eval import Detections, Kind
from anyregion.evaluation.regions.seen_unseen import harmonic_mean
from anyregion.vocabulary import Progress


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
class DetectionReport:
    """AP of named regions. All figures are fractions from 0 to 1, None where nothing is to average.

    Attributes:
        style: `coco` or `lvis`: by whose rules.
        boxes: AP, AP50, AP75, APs, APm, APl, AR@n, ARs, ARm, ARl; in LVIS also APr, APc, APf.
        masks: the same of masks, where they were asked for.
        by_class: each class that has regions.
        split: AP by seen and unseen classes, of masks where there are any, where it was asked for.
        top1: with the annotations' own regions: fraction whose best name is right.
        images: how many images were looked at.
        regions: how many regions were named; None for predictions from a file.
        detections: how many (region, name) pairs were judged.
        names: size of the vocabulary; of a file of predictions the number of categories.
        seconds: of naming, without loading the model or encoding the names.
        judging_seconds: of comparing with the annotations.
        set_aside: what could not be used.
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

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def judge(
    truth: Annotations,
    found: Detections,
    style: Style | Literal["auto"],
    masks: bool,
    looked: NDArray[np.int64],
    pairs: int | None,
    hidden: frozenset[int] | None,
    progress: Progress | None,
    *,
    top1: float | None,
    regions: int | None,
    names: int,
    seconds: float,
    aside: list[SetAside],
) -> DetectionReport:
    """Compare what was found with the annotations; the other figures are passed on.

    Args:
        truth: the annotations, with masks if masks are judged.
        found: the detections.
        style: whose rules; `auto` by what the annotations are.
        masks: judge masks too.
        looked: positions of the images that were looked at.
        pairs: detections that count of an image.
        hidden: ids of the unseen classes, to report apart.
        progress: called with (done, total) classes.
        top1, regions, names, seconds, aside: see `DetectionReport`.
    """
    started = time.perf_counter()
    rules = style_of(truth) if style == "auto" else style
    kinds: tuple[Kind, ...] = ("box", "mask") if masks else ("box",)
    tables = {
        kind: average_precision(
            truth, found, style=rules, kind=kind, images=looked, limit=pairs, progress=progress
        )
        for kind in kinds
    }
    return DetectionReport(
        style=rules,
        boxes=tables["box"].metrics(),
        masks=tables["mask"].metrics() if masks else None,
        by_class=_by_class(truth, looked, tables),
        split=None if hidden is None else _split(truth, tables[kinds[-1]], hidden),
        top1=top1,
        images=len(looked),
        regions=regions,
        detections=len(found),
        names=names,
        seconds=seconds,
        judging_seconds=time.perf_counter() - started,
        set_aside=tuple(aside),
    )


def _by_class(
    truth: Annotations, looked: NDArray[np.int64], tables: dict[Kind, PrecisionTable]
) -> dict[str, ClassPrecision]:
    images = np.repeat(np.arange(len(truth)), np.diff(truth.starts))
    counted = np.isin(images, looked) & ~truth.crowd
    counts = np.bincount(truth.labels[counted], minlength=len(truth.categories))
    columns = {kind: table.by_class() for kind, table in tables.items()}

    def ap(kind: Kind, label: int) -> float | None:
        value = columns[kind][label] if kind in columns else np.nan
        return None if np.isnan(value) else float(value)

    return {
        truth.categories.names[i]: ClassPrecision(
            int(counts[i]), ap("box", i), ap("mask", i), truth.categories.frequency[i]
        )
        for i in np.flatnonzero(counts).tolist()
    }


def _split(truth: Annotations, table: PrecisionTable, hidden: frozenset[int]) -> SplitPrecision:
    ids = truth.categories.ids.tolist()
    unseen = [i for i, category in enumerate(ids) if category in hidden]
    seen = [i for i, category in enumerate(ids) if category not in hidden]
    figures = table.mean_over(seen), table.mean_over(unseen)
    names = tuple(truth.categories.names[i] for i in unseen)
    return SplitPrecision(names, *figures, harmonic_mean(*figures))
