"""The images of a pretraining: every image file in some folders, and keys of their state.

Light at millions of images: names are one run of bytes, and no file is opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.image_files import in_threads
from anyregion.errors import InputError, SetAside
from anyregion.images import find_images, readable_formats
from anyregion.r2o.superpixels import PriorConfig, map_paths

# the key of a file that is not there, or that nothing can be learned of
UNREACHABLE = 0
# images a task of a thread: a file server's delays overlap, a local disk's calls stay cheap
_BATCH = 256


@dataclass(frozen=True, eq=False)
class ImageList:
    """Image files, in an order that the machine and the file system have no say in.

    Attributes:
        folders: where they lie.
        ignored: files in them that are no images (texts, archives, hidden files).
        name_bytes: all names, one after the other, as the file system has them.
        name_ends: `(N,)` int64, where each ends in `name_bytes`.
        folder_of: `(N,)` int64, which of `folders` an image lies in.
        passed_over: those of the ignored files that are pictures of formats that are not read.
    """

    folders: tuple[Path, ...]
    ignored: int
    name_bytes: bytes
    name_ends: NDArray[np.int64]
    folder_of: NDArray[np.int64]
    passed_over: tuple[SetAside, ...] = ()

    def __len__(self) -> int:
        return len(self.name_ends)

    def name(self, image: int) -> str:
        """Where the image lies in its folder, with `/` between the parts."""
        start = int(self.name_ends[image - 1]) if image else 0
        return os.fsdecode(self.name_bytes[start : int(self.name_ends[image])])

    def path(self, image: int) -> Path:
        """The image's file."""
        return self.folders[int(self.folder_of[image])] / self.name(image)


def list_images(folders: str | Path | Iterable[str | Path]) -> ImageList:
    """Every image in one or several folders and all folders below, folder by folder, by name.

    Files of other kinds are counted, not read; whether an image is whole shows when it is read.
    A file that two of the folders hold (one inside the other) is taken once. Links to files count;
    links to folders are not followed.

    Raises:
        InputError: no such folder, or no image in all of them.
    """
    paths = [folders] if isinstance(folders, str | Path) else list(folders)
    roots = list(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
    if not roots:
        raise InputError("no folder of images was given")
    names: list[bytes] = []
    folder_of: list[int] = []
    listed: set[Path] = set()
    passed_over: dict[str, SetAside] = {}
    files = 0
    for number, root in enumerate(roots):
        if not root.is_dir():
            reason = "a file; give the folder it lies in" if root.exists() else "no such folder"
            raise InputError(f"{root}: {reason}")
        # files below two of the folders are counted once
        inside = any(other != root and root.is_relative_to(other) for other in roots)
        files += 0 if inside else sum(len(file_names) for _, _, file_names in os.walk(root))
        images, others = find_images([root])
        passed_over.update((a.item, a) for a in others if a.item != str(root))
        if len(roots) > 1:
            images = [path for path in images if path not in listed]
            listed.update(images)
        # by the bytes of the name: paths are not in the same order on every system
        start = len(root.as_posix().rstrip("/")) + 1
        names += sorted(os.fsencode(path.as_posix()[start:]) for path in images)
        folder_of += [number] * len(images)
    if not names:
        where = ", ".join(str(root) for root in roots)
        raise InputError(
            f"{where}: no image there ({', '.join(readable_formats())}); {files} other files"
        )
    return ImageList(
        folders=tuple(roots),
        ignored=max(0, files - len(names)),
        name_bytes=b"".join(names),
        name_ends=np.fromiter(accumulate(map(len, names)), dtype=np.int64, count=len(names)),
        folder_of=np.array(folder_of, dtype=np.int64),
        passed_over=tuple(passed_over.values()),
    )


def image_keys(images: ImageList, prior: PriorConfig) -> NDArray[np.uint64]:
    """`(N,)` keys: path, size and time of change of each image file, and of its own label map.

    Images that move get new maps.
    """

    def keys_from(first: int) -> NDArray[np.uint64]:
        batch = range(first, min(first + _BATCH, len(images)))
        return np.array([_key(images, prior, image) for image in batch], dtype=np.uint64)

    return np.concatenate(list(in_threads(keys_from, range(0, len(images), _BATCH))))


def _key(images: ImageList, prior: PriorConfig, image: int) -> int:
    path = images.path(image)
    state = _file_state(path)
    if state is None:
        return UNREACHABLE
    if prior.folder:
        maps = map_paths(Path(prior.folder).expanduser(), images.name(image))
        state += "".join(f";{_file_state(each)}" for each in maps)
    # the whole path: files of one data set often have one time and, uncompressed, one size, so
    # that a name below the folder would not tell two data sets apart
    # 64 bits: in two million images, two share a key with a chance of 1 in 10 million
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + state.encode()).digest()
    return int.from_bytes(digest[:8], "little") or 1


def _file_state(path: Path) -> str | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return f"{stat.st_size} {stat.st_mtime_ns}"
