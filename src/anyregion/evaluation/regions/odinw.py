"""Many small data sets in a row, as in ODinW: each with its own classes, and the average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from anyregion.data.annotations.folders import DataSet, find_sets
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.regions.detection import PAIRS, evaluate_detection
from anyregion.evaluation.regions.detection_report import DetectionReport
from anyregion.evaluation.regions.region_choice import GROUND_TRUTH, RegionChoice
from anyregion.evaluation.regions.seen_unseen import NothingSplitError, unseen_categories
from anyregion.recognizer import Recognizer
from anyregion.scoring import Score
from anyregion.vocabulary import Progress

HELD_OUT = ("test", "valid", "val")

Track: TypeAlias = Callable[[str], Progress]


@dataclass(frozen=True)
class SetsReport:
    """Each set, and the averages over sets, which count every set once, whatever its size.

    Attributes:
        sets: by name, each set's report.
        splits: by name, which split of it was used.
        ap, ap50, mask_ap, top1: averages, 0 to 1; None where no set has the figure.
        seen, unseen, harmonic_mean: averages of the split's AP, where classes are split.
        set_aside: sets that could not be evaluated.
    """

    sets: dict[str, DetectionReport]
    splits: dict[str, str]
    ap: float | None
    ap50: float | None
    mask_ap: float | None
    top1: float | None
    seen: float | None
    unseen: float | None
    harmonic_mean: float | None
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_sets(
    recognizer: Recognizer | Callable[[], Recognizer],
    folder: str | Path,
    *,
    split: str | None = None,
    regions: RegionChoice = GROUND_TRUTH,
    masks: bool = False,
    use_masks: bool = False,
    score: Score | None = None,
    pairs: int = PAIRS,
    unseen: str | None = None,
    limit: int | None = None,
    batch_size: int = 4,
    track: Track | None = None,
) -> SetsReport:
    """Evaluate every data set below a folder; each has its own categories as its vocabulary.

    A set that cannot be evaluated is set aside, and the others go on.

    Args:
        recognizer: the recogniser, or what loads it once there are sets.
        folder: as `find_sets` reads it.
        split: which split of each set; unless given `test`, else `valid` or `val`, else its first.
        regions: as for `evaluate_detection`; a folder of detections has `<set>.json` for each set.
        masks, use_masks, score, pairs, limit, batch_size: as for `evaluate_detection`.
        unseen: as `unseen_categories` reads it, for each set; of names a set may lack some. A set
            that it does not split is evaluated without.
        track: called with a set's name; what it returns is called with (done, total) images.

    Raises:
        InputError: no set in the folder, none that could be evaluated, or one file of detections
            for several sets.
    """
    chosen = _chosen(find_sets(folder), split)
    if not chosen:
        raise InputError(f"{folder}: no set has a split {split!r}")
    if len(chosen) > 1 and isinstance(regions, (str, Path)) and Path(regions).is_file():
        raise InputError(
            f"{regions}: one file for {len(chosen)} sets, whose images have the same ids: give a "
            "folder with <set>.json for each"
        )
    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    reports: dict[str, DetectionReport] = {}
    aside: list[SetAside] = []
    for data in chosen:
        try:
            reports[data.name] = evaluate_detection(
                recognizer,
                data.annotations,
                data.images,
                regions=_regions_of(regions, data),
                masks=masks,
                use_masks=use_masks,
                score=score,
                pairs=pairs,
                unseen=_unseen_of(unseen, data),
                style="coco",
                limit=limit,
                batch_size=batch_size,
                progress=track(data.name) if track else None,
            )
        except InputError as error:
            aside.append(SetAside(data.name, str(error)))
    if not reports:
        raise InputError(f"{folder}: no set could be evaluated ({aside[0]})")
    every = list(reports.values())
    splits = [report.split for report in every if report.split]
    if unseen is not None and not splits:
        aside.append(SetAside(f"unseen classes {unseen!r}", "they split the classes of no set"))
    return SetsReport(
        sets=reports,
        splits={data.name: data.split for data in chosen if data.name in reports},
        ap=_mean([r.boxes["AP"] for r in every]),
        ap50=_mean([r.boxes["AP50"] for r in every]),
        mask_ap=_mean([r.masks["AP"] for r in every if r.masks]),
        top1=_mean([r.top1 for r in every]),
        seen=_mean([s.seen for s in splits]),
        unseen=_mean([s.unseen for s in splits]),
        harmonic_mean=_mean([s.harmonic_mean for s in splits]),
        set_aside=tuple(aside),
    )


def _chosen(sets: list[DataSet], split: str | None) -> list[DataSet]:
    by_name: dict[str, list[DataSet]] = {}
    for data in sets:
        by_name.setdefault(data.name, []).append(data)
    chosen: list[DataSet] = []
    for splits in by_name.values():
        wanted = HELD_OUT if split is None else (split,)
        held = [data for name in wanted for data in splits if data.split == name]
        chosen += held[:1] or (splits[:1] if split is None else [])
    return chosen


def _regions_of(regions: RegionChoice, data: DataSet) -> RegionChoice:
    if isinstance(regions, (str, Path)) and Path(regions).is_dir():
        return Path(regions) / f"{data.name}.json"
    return regions


def _unseen_of(spec: str | None, data: DataSet) -> frozenset[int] | None:
    """The unseen classes of one set; None where all its classes, or none, are unseen."""
    if spec is None:
        return None
    classes = read_annotations(data.annotations).categories
    names = dict(zip(classes.ids.tolist(), classes.names, strict=True))
    try:
        return unseen_categories(spec, names, all_known=False)
    except NothingSplitError:
        return None


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
