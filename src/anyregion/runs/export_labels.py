"""`export_labels`: the names of a run, or a file of annotations, in the format of a tool."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.data.annotations.reading import Layout
from anyregion.errors import InputError, SetAside
from anyregion.files import read_json, reading
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion, labels_of_file
from anyregion.io.regions import load_regions
from anyregion.io.relabel import RelabelReport, relabel
from anyregion.io.writers.formats import WRITERS
from anyregion.io.writers.writing import WriteOptions, WriteReport
from anyregion.runs.run_file import is_results_folder

# what an earlier export leaves behind in formats with a file an image or region: its labels would
# be read with the new list of classes
_LEFT_BEHIND = {
    "yolo": "labels/**/*.txt",
    "yolo-segment": "labels/**/*.txt",
    "voc": "Annotations/**/*.xml",
    "labelme": "**/*.json",
    "crops": "crops.csv",
}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported.

    Attributes:
        images, regions: how many were written.
        refused: regions that the run refused, or that score less than `min_score`; left out.
        left: with `into`, regions of that file that stayed as they were.
        new_labels: with `into`, names that its list of classes lacked.
        outline_iou: the mean and the lowest IoU of outlines with their masks, and how many there
            are; None where no mask became an outline.
        files: what was written.
        set_aside: what could not be written, and why.
    """

    images: int
    regions: int
    refused: int
    left: int
    new_labels: tuple[str, ...]
    outline_iou: tuple[float, float, int] | None
    files: tuple[Path, ...]
    set_aside: tuple[SetAside, ...]


def export_labels(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    into: str | Path | None = None,
    layout: Layout = "auto",
    min_score: float = 0.0,
    options: WriteOptions | None = None,
) -> ExportReport:
    """Write the names of a run in another format, or put them back into the file of its regions.

    Args:
        source: the folder of a run, or a file of annotations that `load_regions` reads.
        out: a folder.
        to: one of `WRITERS`; not needed with `into`, which keeps its own format.
        into: the file that the regions were read from: its shapes get the names, by its own ids.
        layout: of a file of annotations.
        min_score: regions whose name scores less are left out.
        options: how labels are written; the folder of the images, of a run where they were.

    Raises:
        InputError: neither a run nor annotations, no such format, nothing to export, or a folder
            with labels of that format.
    """
    source, out = Path(source), Path(out)
    if (to is None) == (into is None):
        raise InputError("give a format, or the file to put names into: one of the two")
    if to is not None and to not in WRITERS:
        raise InputError(f"no format {to!r}: one of {', '.join(WRITERS)}")
    if to in _LEFT_BEHIND and (other := next(out.glob(_LEFT_BEHIND[to]), None)) is not None:
        raise InputError(
            f"{out}: there are labels already ({other.relative_to(out)}), which would be mixed "
            "with the new ones: give another folder, or delete them"
        )
    labels = LabelSource(source, options or WriteOptions(), layout=layout, min_score=min_score)
    report: WriteReport | RelabelReport
    overlaps: list[float] = []
    left, new_labels = 0, []
    if into is not None:
        report = _put_back(labels, Path(into), out)
        set_aside, images, regions = labels.set_aside, labels.images, report.named
        left, new_labels = report.left, report.new_labels
    else:
        report = WRITERS[str(to)](iter(labels), labels.classes, out, labels.options)
        set_aside, images, regions = (
            [*labels.set_aside, *report.set_aside],
            report.images,
            report.regions,
        )
        overlaps = [iou for *_, iou in report.outlines]
    if not images:
        last = f"; the last that was set aside: {set_aside[-1]}" if set_aside else ""
        raise InputError(f"{source}: nothing to export{last}")
    return ExportReport(
        images=images,
        regions=regions,
        refused=labels.refused,
        left=left,
        new_labels=tuple(new_labels),
        outline_iou=(float(np.nanmean(overlaps)), float(np.nanmin(overlaps)), len(overlaps))
        if overlaps
        else None,
        files=tuple(report.files),
        set_aside=tuple(set_aside),
    )


class LabelSource:
    """The images of a run or a file with their labels, one by one.

    Args:
        source, options, layout, min_score: see `export_labels`.
        keep_refused: also give regions that the run refused, marked.

    Attributes:
        classes: all names, in their order.
        options: with the folder of the images, where a run states it.
        images, refused, set_aside: filled while the images are gone through.
    """

    def __init__(
        self,
        source: Path,
        options: WriteOptions,
        *,
        layout: Layout = "auto",
        min_score: float = 0.0,
        keep_refused: bool = False,
    ) -> None:
        self.source, self.min_score, self.keep_refused = source, min_score, keep_refused
        self.images = self.refused = 0
        self.set_aside: list[SetAside] = []
        self.is_run = source.is_dir() and is_results_folder(source)
        self.options = options
        if self.is_run:
            root = options.images or Path(str(read_json(source / "run.json").get("root")))
            self.options = WriteOptions(**{**vars(options), "images": root})
            self.classes = _run_classes(source)
        else:
            masks = options.shapes != "boxes"
            self._file = load_regions(source, masks=masks, images=options.images, layout=layout)
            if not self._file.categories:
                raise InputError(f"{source}: no categories, so nothing says what its regions are")
            self.set_aside += self._file.set_aside
            names = self._file.categories
            first: dict[str, int] = {}
            for number, name in names.items():
                first.setdefault(name, number)
            self.classes = ClassNames(tuple(first), tuple(first.values()))

    def __iter__(self) -> Iterator[LabelledImage]:
        entries: Iterable[LabelledImage | SetAside]
        entries = self._run() if self.is_run else labels_of_file(self._file)
        for entry in entries:
            if isinstance(entry, SetAside):
                self.set_aside.append(entry)
                continue
            self.images += 1
            kept = tuple(r for r in entry.regions if r.score is None or r.score >= self.min_score)
            self.refused += len(entry.regions) - len(kept)
            yield LabelledImage(entry.name, entry.size, kept, entry.key)

    def _run(self) -> Iterator[LabelledImage]:
        for line in journal_lines(self.source / "predictions.jsonl"):
            regions: dict[Any, LabelledRegion] = {}
            for record in line["regions"]:
                if record.get("refused") and not self.keep_refused:
                    self.refused += 1
                elif record["id"] not in regions:  # candidates of one region: the first is the best
                    regions[record["id"]] = region_of(record)
            number = line.get("image_id")
            yield LabelledImage(
                line["image"],
                (line["height"], line["width"]),
                tuple(regions.values()),
                None if number is None else str(number),
            )


def region_of(record: dict[str, Any]) -> LabelledRegion:
    """A record of a run's journal as a labelled region."""
    x0, y0, x1, y1 = record["box"]
    return LabelledRegion(
        record["id"], (x0, y0, x1, y1), record["label"], record["score"], record.get("mask"),
        tuple(record["labels"]), tuple(record["scores"]), bool(record.get("refused")),
    )  # fmt: skip


def journal_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The finished images of a run, in the order of their names; `InputError` names the line."""
    places: list[tuple[str, int]] = []
    with reading(path), path.open("rb") as file:
        start = 0
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                break  # a run was interrupted, or is at it
            try:
                line = json.loads(raw)
                for record in line["regions"]:
                    region_of(record)
                places.append((str(line["image"]), start))
                int(line["height"]), int(line["width"])
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise InputError(f"{path}: line {number} is malformed ({error})") from None
            start += len(raw)
        for _, place in sorted(places):
            file.seek(place)
            yield json.loads(file.readline())


def _run_classes(run: Path) -> ClassNames:
    """The run's vocabulary, as its `predictions.json` lists it; of an unfinished run the names that
    occur, by alphabet."""
    path = run / "predictions.json"
    if path.is_file():
        # annotations are dropped while they are parsed: of a large run they would fill the memory
        content = read_json(path, object_hook=lambda entry: None if "bbox" in entry else entry)
        try:
            listed = {str(c["name"]): int(c["id"]) for c in content["categories"]}
        except (TypeError, LookupError, ValueError):
            raise InputError(f"{path}: no categories in it: was it edited?") from None
        return ClassNames(tuple(listed), tuple(listed.values()))
    names = {
        r["label"] for line in journal_lines(run / "predictions.jsonl") for r in line["regions"]
    }
    return ClassNames.from_names(sorted(names))


def _put_back(labels: LabelSource, into: Path, out: Path) -> RelabelReport:
    """The names of each image of the source, by the ids of the file that has the same image."""
    root = labels.options.images
    file = load_regions(into, images=root)
    names: dict[str, dict[str, LabelledRegion]] = {}
    for image in labels:
        path = Path(image.name) if root is None else root / image.name
        try:
            entry = file.find(path, root=root)
        except InputError as error:
            labels.set_aside.append(SetAside(image.name, str(error)))
            continue
        if entry is None:
            labels.set_aside.append(SetAside(image.name, f"no image of {into}"))
            continue
        known = {str(i) for i in entry.regions.ids}
        strange = [str(r.id) for r in image.regions if str(r.id) not in known]
        if strange:
            reason = f"{len(strange)} regions are none of {into}: {', '.join(strange[:3])}"
            labels.set_aside.append(SetAside(image.name, reason))
        names[entry.key] = {str(r.id): r for r in image.regions if str(r.id) in known}
    return relabel(into, names, out)
