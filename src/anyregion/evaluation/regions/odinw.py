"""ODinW: many small data sets in a row, each with its own classes, and the averages over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from anyregion.data.annotations.folders import DataSet, find_sets
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.regions.detection import (
    GROUND_TRUTH,
    PAIRS,
    DetectionReport,
    RegionChoice,
    evaluate_detection,
)
from anyregion.evaluation.regions.inputs import EvaluationOptions, loaded
from anyregion.evaluation.regions.seen_unseen import EmptySplitError, unseen_categories
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import ProposedRegions, Track, silent
from anyregion.vocabulary import Progress

HELD_OUT = ("test", "valid", "val")


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
    options: EvaluationOptions | None = None,
    *,
    split: str | None = None,
    regions: RegionChoice = GROUND_TRUTH,
    masks: bool = False,
    pairs: int = PAIRS,
) -> SetsReport:
    """Evaluate every data set below a folder; each has its own categories as its vocabulary.

    A set that cannot be evaluated is set aside, and the others go on.

    Args:
        recognizer: the recogniser, or what loads it once there are sets.
        folder: as `find_sets` reads it.
        options: how regions are named. Of names in `unseen` a set may lack some; a set that they do
            not split is evaluated without. `track` is called with the sets' names.
        split: which split of each set; unless given `test`, else `valid` or `val`, else its first.
        regions, masks, pairs: as for `evaluate_detection`; a folder of detections has `<set>.json`
            for each set.

    Raises:
        InputError: no set in the folder, none that could be evaluated, or one file of detections
            for several sets.
    """
    options = options or EvaluationOptions()
    sets = _of_split(find_sets(folder), split)
    if not sets:
        raise InputError(f"{folder}: no set has a split {split!r}")
    if len(sets) > 1 and isinstance(regions, (str, Path)) and Path(regions).is_file():
        raise InputError(
            f"{regions}: one file for {len(sets)} sets, whose images have the same ids: give a "
            "folder with <set>.json for each"
        )
    recognizer = loaded(recognizer)
    if isinstance(regions, ProposedRegions):
        # once, not for every set
        regions = regions.load(recognizer)
    reports: dict[str, DetectionReport] = {}
    set_aside: list[SetAside] = []
    for data in sets:
        set_regions = regions
        if isinstance(regions, (str, Path)) and Path(regions).is_dir():
            set_regions = Path(regions) / f"{data.name}.json"
        try:
            reports[data.name] = evaluate_detection(
                recognizer,
                data.annotations,
                data.images,
                replace(
                    options,
                    unseen=_unseen_of(options.unseen, data),
                    track=partial(_set_track, options.track, data.name),
                    report=None if options.report is None else options.report / data.name,
                ),
                regions=set_regions,
                masks=masks,
                pairs=pairs,
                # the benchmark is defined by COCO's rules, whatever a set's annotations look like
                style="coco",
            )
        except InputError as error:
            # one broken set of 35 is no reason to lose the others
            set_aside.append(SetAside(data.name, str(error)))
    if not reports:
        raise InputError(f"{folder}: no set could be evaluated ({set_aside[0]})")
    every = list(reports.values())
    splits = [report.split for report in every if report.split]
    if options.unseen is not None and not splits:
        reason = "they split the classes of no set"
        set_aside.append(SetAside(f"unseen classes {options.unseen!r}", reason))
    return SetsReport(
        sets=reports,
        splits={data.name: data.split for data in sets if data.name in reports},
        ap=_mean([r.boxes["AP"] for r in every]),
        ap50=_mean([r.boxes["AP50"] for r in every]),
        mask_ap=_mean([r.masks["AP"] for r in every if r.masks]),
        top1=_mean([r.top1 for r in every]),
        seen=_mean([s.seen for s in splits]),
        unseen=_mean([s.unseen for s in splits]),
        harmonic_mean=_mean([s.harmonic_mean for s in splits]),
        set_aside=tuple(set_aside),
    )


def _set_track(track: Track, name: str, doing: str, unit: str) -> Progress:
    """Shows the images of one set under its name, and nothing else of its evaluation."""
    return track(name, unit) if unit == "images" else silent(doing, unit)


def _of_split(sets: list[DataSet], split: str | None) -> list[DataSet]:
    """One split of each set: the one asked for, else one that is held out, else the first."""
    by_name: dict[str, list[DataSet]] = {}
    for data in sets:
        by_name.setdefault(data.name, []).append(data)
    # never on the images of training, if others are there
    picked: list[DataSet] = []
    for splits in by_name.values():
        order = HELD_OUT if split is None else (split,)
        matches = [data for name in order for data in splits if data.split == name]
        picked += matches[:1] or (splits[:1] if split is None else [])
    return picked


def _unseen_of(spec: str | frozenset[int] | None, data: DataSet) -> frozenset[int] | None:
    """The unseen classes of one set; None where all its classes, or none, are unseen."""
    if spec is None:
        return None
    classes = read_annotations(data.annotations).categories
    names = dict(zip(classes.ids.tolist(), classes.names, strict=True))
    try:
        return unseen_categories(spec, names, all_known=False)
    except EmptySplitError:
        return None


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
