"""What is wrong with a data set, found before an hour of training is lost. Free of torch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.report import Finding, Findings
from anyregion.data.check.files import check_files
from anyregion.data.check.regions import ClassCount, check_masks, check_regions, count_classes
from anyregion.errors import InputError
from anyregion.vocabulary import Progress


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and what is wrong with it.

    Attributes:
        images: how many the annotations list.
        files_checked: how many of their files were looked at.
        regions: how many are usable, crowds apart.
        crowd: how many mark a crowd.
        by_size: regions by area, as the file states it, in pixels: `small` below 32^2, `medium`
            below 96^2, `large`.
        classes: every class, the most frequent first.
        findings: what is wrong, and after it what is only worth knowing.
        decoded: the files were decoded as a whole, so a truncated one would have been found.
        seconds: time spent on the check.
    """

    images: int
    files_checked: int
    regions: int
    crowd: int
    by_size: dict[str, int]
    classes: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    decoded: bool
    seconds: float

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return sum(finding.count for finding in self.findings if finding.wrong)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"wrong": self.wrong, **asdict(self)}


def check_data(
    annotations: Annotations,
    images_folder: str | Path,
    *,
    limit: int | None = None,
    decode: bool = True,
    threads: int = 8,
    progress: Progress | None = None,
) -> DataReport:
    """Look at the annotations and at their image files.

    What reading the annotations found is part of the report. Masks are checked where they were
    read.

    Args:
        annotations: what `read_annotations` returned.
        images_folder: where file names start from; see `find_image`.
        limit: look at no more than the first so many image files.
        decode: decode each file, to find truncated ones; else only its header is read.
        threads: how many files are read at once.
        progress: called with (done, total) files.

    Raises:
        InputError: no such folder, or a limit below 1.
    """
    folder = Path(images_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
    started = time.perf_counter()
    findings = Findings(annotations.findings)
    checked = min(len(annotations), len(annotations) if limit is None else limit)
    sizes = check_files(annotations, folder, checked, decode, threads, progress, findings)
    check_regions(annotations, sizes, findings)
    if annotations.segmentations is not None:
        check_masks(annotations, sizes, findings)
    classes = count_classes(annotations, findings)
    usable = ~annotations.crowd
    of_size = np.digitize(annotations.areas[usable], [32.0**2, 96.0**2])
    return DataReport(
        images=len(annotations),
        files_checked=checked,
        regions=int(usable.sum()),
        crowd=int(annotations.crowd.sum()),
        by_size={
            name: int((of_size == i).sum()) for i, name in enumerate(("small", "medium", "large"))
        },
        classes=classes,
        findings=findings.list(),
        decoded=decode,
        seconds=time.perf_counter() - started,
    )
