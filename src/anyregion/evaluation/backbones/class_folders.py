"""Images in class folders, and how many of them were named rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.images import find_images, is_image_file

FEWEST_FOR_TOP5 = 5


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """A folder of one folder of images for each class.

    Attributes:
        root: the folder.
        names: of the class folders that hold images, sorted; they are the classes.
        paths: the image files, class after class, sorted within each.
        labels: `(N,)` int64, the position of each image's class in `names`.
        set_aside: folders without images, images in no class folder.
    """

    root: Path
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    set_aside: tuple[SetAside, ...]


@dataclass(frozen=True)
class Accuracy:
    """How many images were named rightly; fractions from 0 to 1.

    Attributes:
        top1: of all images.
        class_top1: the mean over the classes, each counted once.
        top5: whether one of the five best classes is right; None below 5 known classes.
        by_class: top-1 of each class.
    """

    top1: float
    class_top1: float
    top5: float | None
    by_class: dict[str, float]


def find_class_folders(root: str | Path, *, limit: int | None = None) -> ClassFolders:
    """List the images of each class folder of `root` (with the folders below it).

    Files that are no images by their name are passed over, hidden folders too.

    Args:
        root: the folder of the class folders.
        limit: no more than the first so many images of each class, in the order of their names.

    Raises:
        InputError: no such folder, no image in any class folder, or a limit below 1.
    """
    root = Path(root).expanduser()
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image of a class; it is {limit}")
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    names: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    aside: list[SetAside] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images, empty = find_images([folder])
        aside += empty
        if images:
            labels += [len(names)] * len(images[:limit])
            names.append(folder.name)
            paths += images[:limit]
    loose = sorted(p for p in root.iterdir() if is_image_file(p))
    aside += [SetAside(str(p), "in no class folder") for p in loose]
    if not paths:
        raise InputError(f"{root}: no image in any class folder (one folder for each class)")
    return ClassFolders(
        root, tuple(names), tuple(paths), np.array(labels, dtype=np.int64), tuple(aside)
    )


def find_both(
    train: str | Path, val: str | Path, *, limit: int | None = None
) -> tuple[ClassFolders, ClassFolders]:
    """The images to learn from and those to judge on.

    Raises:
        InputError: see `find_class_folders`; or both hold the same file, be it by a link.
    """
    wrong = "the images to judge on must not be those to learn from"
    if Path(train).expanduser().resolve() == Path(val).expanduser().resolve():
        raise InputError(f"{train}: {wrong}")
    bank, asked = find_class_folders(train, limit=limit), find_class_folders(val, limit=limit)
    known = {place for path in bank.paths if (place := _place(path)) is not None}
    if both := [path for path in asked.paths if _place(path) in known]:
        raise InputError(f"{both[0]} ({len(both):,} such) is also in {train}: {wrong}")
    return bank, asked


def labels_in(names: Sequence[str], asked: ClassFolders) -> tuple[NDArray[np.int64], list[str]]:
    """The labels of `asked`'s images in the classes `names`, matched by the folder's name; -1 and
    the class's name where it is missing there: no answer can be right."""
    at = {name: i for i, name in enumerate(names)}
    of_class = np.array([at.get(name, -1) for name in asked.names], dtype=np.int64)
    return of_class[asked.labels], [name for name in asked.names if name not in at]


def accuracy(
    ranked: NDArray[np.int64], truth: NDArray[np.int64], groups: Sequence[str], known: int
) -> Accuracy:
    """Accuracies of ranked answers.

    Args:
        ranked: `(N, up to 5)` classes, best first; -1 is no answer.
        truth: `(N,)` the right class; -1 where it is unknown, which counts as wrong.
        groups: `N` names of classes, to average over.
        known: how many classes there are to choose from.
    """
    right = (ranked == truth[:, None]) & (truth >= 0)[:, None]
    first = right[:, 0]
    listed = np.array(groups)
    by_class = {str(name): float(first[listed == name].mean()) for name in np.unique(listed)}
    return Accuracy(
        top1=float(first.mean()),
        class_top1=float(np.mean(list(by_class.values()))),
        top5=float(right[:, :5].any(axis=1).mean()) if known >= FEWEST_FOR_TOP5 else None,
        by_class=by_class,
    )


def check_classes(folders: ClassFolders, labels: NDArray[np.int64]) -> None:
    """Raise `InputError` unless two classes are left to choose from."""
    left = len(np.unique(labels))
    if left < 2:
        raise InputError(
            f"{folders.root}: {left} class{'' if left == 1 else 'es'} with images that can be "
            "read; at least 2 are needed to choose from"
        )


def _place(path: Path) -> tuple[int, int] | None:
    """Which file of which disk a path leads to; None where the file system does not say."""
    try:
        found = path.stat()
    except OSError:
        return None  # it is set aside when it is read
    return (found.st_dev, found.st_ino) if found.st_ino else None
