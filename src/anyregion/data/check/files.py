"""Looks at the image files of a data set: there, whole, of the stated size, each only once?"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.report import Findings, Kind
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


def check_files(
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

    def look(name: str) -> _Looked:
        return _look(folder, name, decode)

    owner: dict[Path, str] = {}
    by_bytes: dict[int, list[Path]] = defaultdict(list)
    for image, found in enumerate(in_threads(look, names, threads=threads)):
        name = names[image]
        if found.path is None:
            findings.add(MISSING, name, f"not in {folder}")
        elif found.path in owner:
            findings.add(SAME_FILE, name, f"its file is {owner[found.path]}'s too")
        else:
            owner[found.path] = name
            by_bytes[found.bytes].append(found.path)
        if found.size is None:
            if found.path is not None:
                findings.add(BROKEN, name, found.error)
        elif (sizes[image] < 0).any():
            sizes[image] = found.size.upright
        else:
            _compare(name, (int(sizes[image, 0]), int(sizes[image, 1])), found.size, findings)
        if progress is not None:
            progress(image + 1, count)
    # only files of equal length can be equal, so few have to be read for their hash
    same_length = [path for paths in by_bytes.values() if len(paths) > 1 for path in paths]
    first: dict[bytes, str] = {}
    for path, digest in zip(
        same_length, in_threads(_digest, same_length, threads=threads), strict=True
    ):
        if digest in first:
            findings.add(SAME_CONTENT, owner[path], f"the same picture as {first[digest]}")
        elif digest:
            first[digest] = owner[path]
    return sizes


@dataclass(frozen=True)
class _Looked:
    path: Path | None
    size: ImageSize | None = None
    bytes: int = 0
    error: str = ""


def _look(folder: Path, name: str, decode: bool) -> _Looked:
    path = find_image(folder, name)
    if path is None:
        return _Looked(None)
    length = 0
    try:
        length = path.stat().st_size
        size = read_size(path)
        if decode:
            size = ImageSize(size.stored, size_of(read_image(path)))
    except InputError as error:
        return _Looked(path, bytes=length, error=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return _Looked(path, bytes=length, error=f"cannot be read ({error.strerror})")
    return _Looked(path, size, length)


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
