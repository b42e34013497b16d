"""`make_dataset`: a run's sure names as a set to train on, and a list of what to look at."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from anyregion.data.image_files import find_image, read_file
from anyregion.errors import InputError, SetAside
from anyregion.files import write_csv, write_json, writing
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.writers.coco import write_annotations
from anyregion.io.writers.writing import WriteOptions, WriteReport, copy_image, inside
from anyregion.io.writers.yolo import YoloWriter
from anyregion.runs.export_labels import LabelSource

SetFormat: TypeAlias = Literal["yolo", "yolo-segment", "coco"]
SPLITS = ("train", "val")
REVIEW_COLUMNS = (
    "image", "split", "id", "x0", "y0", "x1", "y1", "label", "score", "label_2", "score_2", "why",
)  # fmt: skip
_SUMMARY = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """How a run becomes a set.

    Attributes:
        to: the format.
        split: the share of the images that are for training.
        min_score: the score from which on a name counts as sure.
        min_margin: how far it has to be ahead of the second best.
        whole_images: leave out images with a doubtful region, in place of the region alone.
        keep_empty: keep images without a sure region, as background.
        seed: of the split.
    """

    to: SetFormat = "yolo"
    split: float = 0.8
    min_score: float = 0.5
    min_margin: float = 0.0
    whole_images: bool = False
    keep_empty: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.to not in get_args(SetFormat):
            raise InputError(f"a set is one of {', '.join(get_args(SetFormat))}, not {self.to!r}")
        if not 0 < self.split < 1:
            raise InputError(f"the split must lie between 0 and 1; it is {self.split}")
        for name in ("min_score", "min_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie from 0 to 1; it is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """What a set holds, and what was left out of it.

    Attributes:
        out: its folder.
        images, regions: by split.
        classes: of each name its regions by split, in the vocabulary's order.
        doubtful: regions on the review list, left out of the set.
        sure_left_out: sure regions of images that were left out for a doubtful one.
        empty: images without a sure region that were left out.
        doubtful_images: images that were left out for a doubtful region.
        copies: image files that repeat another's content; they are in one split with it.
        set_aside: images that could not be used, and why.
    """

    out: Path
    images: dict[str, int]
    regions: dict[str, int]
    classes: dict[str, dict[str, int]]
    doubtful: int
    sure_left_out: int
    empty: int
    doubtful_images: int
    copies: int
    set_aside: tuple[SetAside, ...]


def make_dataset(
    run: str | Path,
    out: str | Path,
    options: DatasetOptions | None = None,
    *,
    images: str | Path | None = None,
) -> DatasetReport:
    """Make a set of a run's sure names, and list the doubtful ones.

    The folder holds the images (copied; those that EXIF turns are written upright), the labels in
    the layout of trainers, `review.csv` and `review.json` (COCO) with the doubtful regions, the
    least sure first, and `dataset.json` with the settings and all counts. A set that an earlier
    call made there is replaced once the new one is whole.

    Which images are for training follows from their content and the seed: the order of a hash of
    both. So copies of a photograph are in one split, and images that join later move few others.

    Args:
        run: the folder of a run.
        out: the folder of the set.
        options: what counts as sure, and how the set is split.
        images: the folder of the images, unless where the run had them.

    Raises:
        InputError: no run, nothing sure in it, or another's folder at `out`.
    """
    options, out = options or DatasetOptions(), Path(out)
    if out.exists() and any(out.iterdir()) and not (out / _SUMMARY).is_file():
        raise InputError(f"{out}: not empty, and not a set that was made here: give another folder")
    write = WriteOptions(
        images=None if images is None else Path(images),
        copy_images=True,
        shapes="auto" if options.to == "yolo-segment" else "boxes",
    )
    labels = LabelSource(Path(run), write, keep_refused=True)
    if not labels.is_run:
        raise InputError(f"{run}: not the folder of a run")
    write = labels.options
    picked, doubtful, counts = _pick(labels, options)
    set_aside = [*labels.set_aside]
    digests = _digests([image.name for image in picked], write.images, set_aside)
    picked = [image for image in picked if image.name in digests]
    split_of = _split(digests, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        by_split = {s: [i for i in picked if split_of[i.name] == s] for s in SPLITS}
        report = _write(by_split, labels.classes, work, write, options)
        set_aside += report.set_aside
        lost = {a.item for a in report.set_aside}
        by_split = {s: [i for i in listed if i.name not in lost] for s, listed in by_split.items()}
        if not any(image.regions for listed in by_split.values() for image in listed):
            last = f"; the last that was set aside: {set_aside[-1]}" if set_aside else ""
            best = max((region.score or 0.0 for _, region, _ in doubtful), default=0.0)
            raise InputError(
                f"{run}: no name is sure, so there is no set: {options.min_score:g} is needed, and "
                f"{best:.3f} the highest score{last}"
            )
        result = DatasetReport(
            out=out,
            images={s: len(listed) for s, listed in by_split.items()},
            regions={s: sum(len(i.regions) for i in listed) for s, listed in by_split.items()},
            classes=_count_classes(by_split, labels.classes),
            doubtful=len(doubtful),
            copies=len(digests) - len(set(digests.values())),
            set_aside=tuple(set_aside),
            **counts,
        )
        _write_review(doubtful, split_of, labels.classes, work)
        _write_summary(result, options, Path(run), work)
        if out.exists():
            shutil.rmtree(out)
        # mkdtemp's folder is its owner's alone
        work.chmod(0o755)
        work.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return result


def doubt(region: LabelledRegion, options: DatasetOptions) -> str | None:
    """Why a region's name is not sure; None where it is."""
    score = 1.0 if region.score is None else region.score
    if region.refused:
        return "refused by the run"
    if score < options.min_score:
        return f"score {score:.3f} is below {options.min_score:g}"
    if len(region.scores) > 1 and (margin := score - region.scores[1]) < options.min_margin:
        return f"{margin:.3f} ahead of {region.labels[1]!r}"
    return None


Doubtful: TypeAlias = tuple[LabelledImage, LabelledRegion, str]


def _pick(
    labels: LabelSource, options: DatasetOptions
) -> tuple[list[LabelledImage], list[Doubtful], dict[str, int]]:
    """The images with their sure regions, the doubtful regions, and what was left out."""
    picked: list[LabelledImage] = []
    doubtful: list[Doubtful] = []
    counts = {"empty": 0, "doubtful_images": 0, "sure_left_out": 0}
    for image in labels:
        reasons = [doubt(region, options) for region in image.regions]
        pairs = list(zip(image.regions, reasons, strict=True))
        sure = tuple(region for region, why in pairs if why is None)
        doubtful += [(image, region, why) for region, why in pairs if why is not None]
        if options.whole_images and len(sure) < len(pairs):
            counts["doubtful_images"] += 1
            counts["sure_left_out"] += len(sure)
        elif not sure and not options.keep_empty:
            counts["empty"] += 1
        else:
            picked.append(replace(image, regions=sure))
    doubtful.sort(key=lambda item: (item[1].score or 0.0, item[0].name))
    return picked, doubtful, counts


def _digests(
    names: Sequence[str], folder: Path | None, set_aside: list[SetAside]
) -> dict[str, str]:
    """A hash of each image's file; images that are gone are set aside."""
    digests: dict[str, str] = {}
    for name in names:
        path = None if folder is None else find_image(folder, name)
        if path is None:
            set_aside.append(SetAside(name, f"no such file below {folder}"))
        else:
            digests[name] = hashlib.sha256(read_file(path)).hexdigest()
    return digests


def _split(digests: Mapping[str, str], options: DatasetOptions) -> dict[str, str]:
    """The split of each image: the first share of all contents in the order of a seeded hash."""
    copies = Counter(digests.values())
    order = sorted(copies, key=lambda d: hashlib.sha256(f"{options.seed} {d}".encode()).hexdigest())
    train: set[str] = set()
    room = round(options.split * len(digests))
    if len(copies) > 1:
        # each split has an image, where there are two
        room = min(max(room, 1), len(digests) - 1)
    for digest in order:
        if sum(copies[d] for d in train) + copies[digest] <= room:
            train.add(digest)
    return {name: SPLITS[digest not in train] for name, digest in digests.items()}


def _write(
    by_split: Mapping[str, list[LabelledImage]],
    classes: ClassNames,
    out: Path,
    write: WriteOptions,
    options: DatasetOptions,
) -> WriteReport:
    report = WriteReport()
    if options.to != "coco":
        writer = YoloWriter(classes, out, write, report, outlines=options.to == "yolo-segment")
        for split, listed in by_split.items():
            (out / "images" / split).mkdir(parents=True, exist_ok=True)
            for image in listed:
                writer.add(image, split)
        writer.finish({split: f"images/{split}" for split in SPLITS})
        return report
    for split, listed in by_split.items():
        copied: list[LabelledImage] = []
        for image in listed:
            target = out / "images" / split / inside(image.name)
            if (fault := copy_image(image, write, target)) is None:
                copied.append(image)
            else:
                report.set_aside.append(SetAside(image.name, fault))
        path = out / "annotations" / f"instances_{split}.json"
        write_annotations(copied, classes, path, write, report)
    return report


def _count_classes(
    by_split: Mapping[str, list[LabelledImage]], classes: ClassNames
) -> dict[str, dict[str, int]]:
    counts = {
        split: Counter(region.label for image in listed for region in image.regions)
        for split, listed in by_split.items()
    }
    return {name: {split: counts[split][name] for split in SPLITS} for name in classes.names}


def _write_review(
    doubtful: Sequence[Doubtful],
    split_of: Mapping[str, str],
    classes: ClassNames,
    out: Path,
) -> None:
    """`review.csv`, and the same regions as COCO, to correct in a tool and teach with."""
    rows: list[list[Any]] = []
    by_image: dict[str, LabelledImage] = {}
    for image, region, why in doubtful:
        second = (region.labels[1], region.scores[1]) if len(region.labels) > 1 else ("", "")
        box = [round(v, 3) for v in region.box]
        split = split_of.get(image.name, "")
        score = region.score
        rows.append([image.name, split, region.id, *box, region.label, score, *second, why])
        before = by_image.get(image.name, replace(image, regions=()))
        by_image[image.name] = replace(before, regions=(*before.regions, region))
    with writing(out):
        write_csv(out / "review.csv", REVIEW_COLUMNS, rows)
    boxes = WriteOptions(shapes="boxes")
    write_annotations(list(by_image.values()), classes, out / "review.json", boxes, WriteReport())


def _write_summary(result: DatasetReport, options: DatasetOptions, run: Path, out: Path) -> None:
    content = {
        **asdict(result),
        "set_aside": [str(item) for item in result.set_aside],
        "settings": asdict(options),
        "run": str(run),
    }
    del content["out"]
    with writing(out):
        write_json(out / _SUMMARY, content, indent=2)
