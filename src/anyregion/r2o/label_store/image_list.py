"""The images of a pretraining: every image file in some folders, by name, light at millions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.images import SUFFIXES, find_images


@dataclass(frozen=True, eq=False)
class ImageList:
    """Image files, in an order that the machine and the file system have no say in.

    Attributes:
        folders: where they lie.
        ignored: files in them that are no images (texts, archives, hidden files).
        name_bytes: all names, one after the other, as the file system has them.
        name_ends: `(N,)` int64, where each ends in `name_bytes`.
        folder_of: `(N,)` int64, which of `folders` an image lies in.
    """

    folders: tuple[Path, ...]
    ignored: int
    name_bytes: bytes
    name_ends: NDArray[np.int64]
    folder_of: NDArray[np.int64]

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
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    roots = list(dict.fromkeys(Path(folder).expanduser().resolve() for folder in given))
    if not roots:
        raise InputError("no folder of images was given")
    names: list[bytes] = []
    folder_of: list[int] = []
    seen: set[Path] = set()
    files = 0
    for number, root in enumerate(roots):
        if not root.is_dir():
            what = "a file; give the folder it lies in" if root.exists() else "no such folder"
            raise InputError(f"{root}: {what}")
        inside = any(other != root and root.is_relative_to(other) for other in roots)
        files += 0 if inside else sum(len(here) for _, _, here in os.walk(root))
        found = find_images([root])[0]
        if len(roots) > 1:
            found = [path for path in found if path not in seen]
            seen.update(found)
        # by name: paths are not in the same order on every system
        start = len(root.as_posix().rstrip("/")) + 1
        names += sorted(os.fsencode(path.as_posix()[start:]) for path in found)
        folder_of += [number] * len(found)
    if not names:
        where = ", ".join(str(root) for root in roots)
        raise InputError(
            f"{where}: no image there (files that end in {', '.join(sorted(SUFFIXES))}); "
            f"{files} other files"
        )
    return ImageList(
        folders=tuple(roots),
        ignored=max(0, files - len(names)),
        name_bytes=b"".join(names),
        name_ends=np.fromiter(accumulate(map(len, names)), dtype=np.int64, count=len(names)),
        folder_of=np.array(folder_of, dtype=np.int64),
    )
