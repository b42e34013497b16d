"""`check_data`: the checks of a data set, its annotations and its image files."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.report import Finding, Findings, Kind
from anyregion.data.check.regions import ClassCount, check_masks, check_regions, count_classes
from anyregion.data.image_files import ImageSize, find_image, in_threads, read_size
from anyregion.errors import InputError
from anyregion.images import read_image, size_of
from anyregion.vocabulary import Progress

MISSING = Kind(
    "images that are not there", True, "is this the folder that the file names start from?"
)
BROKEN = Kind("images that cannot be read", True, "download or export them again")
OTHER_SIZE = Kind(
    "images of another size than stated",
    True,
    "the boxes belong to another version of the image: get that one, or scale the annotations",
)
TURNED = Kind(
    "images that EXIF turns, annotated as they are stored",
    True,
    "images are turned upright when read, and these boxes are not: write the images anew without "
    "EXIF's rotation (the pixels as they are stored)",
)
SAME_FILE = Kind(
    "image entries that lead to a file of another entry",
    True,
    "join their regions under one entry: each alone lacks the other's",
)
SAME_CONTENT = Kind(
    "image files that repeat another's content",
    False,
    "keep one of each: the same picture must not be in training and test, or count twice",
)


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
    """Check the annotations and their image files; masks where they were read.

    What was reported when the annotations were read is part of the report.

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
    sizes = _check_files(annotations, folder, checked, decode, threads, progress, findings)
    check_regions(annotations, sizes, findings)
    if annotations.segmentations is not None:
        check_masks(annotations, sizes, findings)
    classes = count_classes(annotations, findings)
    usable = ~annotations.crowd
    # COCO's bounds of small, medium and large
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


def _check_files(
    annotations: Annotations,
    folder: Path,
    count: int,
    decode: bool,
    threads: int,
    progress: Progress | None,
    findings: Findings,
) -> NDArray[np.int64]:
    """Report the first `count` files; `(I, 2)` heights and widths, the files' own where not stated,
    -1 where nobody states them."""
    sizes = annotations.sizes.copy()
    names = annotations.file_names[:count]
    owner: dict[Path, str] = {}  # the name that first led to a file
    by_length: dict[int, list[Path]] = defaultdict(list)
    inspect = partial(_inspect, folder, decode)
    for image, file in enumerate(in_threads(inspect, names, threads=threads)):
        name = names[image]
        if file.path is None:
            findings.add(MISSING, name, f"not in {folder}")
        elif file.path in owner:
            findings.add(SAME_FILE, name, f"its file is {owner[file.path]}'s too")
        else:
            owner[file.path] = name
            by_length[file.length].append(file.path)
        if file.size is None:
            if file.path is not None:
                findings.add(BROKEN, name, file.error)
        elif (sizes[image] < 0).any():
            sizes[image] = file.size.upright
        else:
            _compare(name, (int(sizes[image, 0]), int(sizes[image, 1])), file.size, findings)
        if progress is not None:
            progress(image + 1, count)
    # only files of equal length can be equal, so few have to be read for their hash
    same_length = [path for paths in by_length.values() if len(paths) > 1 for path in paths]
    first: dict[bytes, str] = {}
    digests = in_threads(_digest, same_length, threads=threads)
    for path, digest in zip(same_length, digests, strict=True):
        if digest in first:
            findings.add(SAME_CONTENT, owner[path], f"the same picture as {first[digest]}")
        elif digest:
            first[digest] = owner[path]
    return sizes


@dataclass(frozen=True)
class _ImageFile:
    """An image's file, its size, its length in bytes; or why it cannot be used."""

    path: Path | None
    size: ImageSize | None = None
    length: int = 0
    error: str = ""


def _inspect(folder: Path, decode: bool, name: str) -> _ImageFile:
    path = find_image(folder, name)
    if path is None:
        return _ImageFile(None)
    length = 0
    try:
        length = path.stat().st_size
        size = read_size(path)  # of the header, where a rotation by EXIF stands
        if decode:
            size = ImageSize(size.stored, size_of(read_image(path)))
    except InputError as error:
        return _ImageFile(path, length=length, error=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return _ImageFile(path, length=length, error=f"cannot be read ({error.strerror})")
    return _ImageFile(path, size, length)


def _digest(path: Path) -> bytes:
    """A hash of the file's content; empty where it cannot be read (it was reported as broken)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""


def _compare(name: str, stated: tuple[int, int], size: ImageSize, findings: Findings) -> None:
    if stated == size.upright:
        return
    text = f"{size.upright[1]} x {size.upright[0]}, but stated as {stated[1]} x {stated[0]}"
    findings.add(TURNED if stated == size.stored else OTHER_SIZE, name, text)
