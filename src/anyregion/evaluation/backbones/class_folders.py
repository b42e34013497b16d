"""Class folders of images, and how well a frozen backbone's features name them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.backbones.features import Backbone, BackboneIdentity, pooled_features
from anyregion.evaluation.metrics.accuracy import (
    mean_class_accuracy,
    ranks_of,
    standard_error,
    top_k,
)
from anyregion.images import find_images, is_image_file
from anyregion.vocabulary import Progress

CLASSES_FOR_TOP5 = 5
Details = TypeVar("Details")
_SAME = "the images to judge on must not be those to learn from"


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
class ClassFolderReport(Generic[Details]):
    """How well frozen features name images; accuracies are fractions from 0 to 1.

    Attributes:
        top1: of all images.
        top1_error: its standard error, by the number of images alone (see `standard_error`).
        mean_class_accuracy: the mean over the classes, each counted once.
        top5: whether one of the five best classes is right; None below 5 known classes.
        by_class: top-1 of each class.
        backbone: which one it was.
        details: what the classifier adds: its settings, and what came of them.
        train_images, images: learned from, and judged.
        classes: to choose from.
        missing: classes to judge that are not among those; all their images count as wrong.
        seconds: reading, features and classification.
        set_aside: what could not be used.
    """

    top1: float
    top1_error: float
    mean_class_accuracy: float
    top5: float | None
    by_class: dict[str, float]
    backbone: BackboneIdentity
    details: Details
    train_images: int
    images: int
    classes: int
    missing: tuple[str, ...]
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, the details among the other keys."""
        content: dict[str, Any] = {}
        for key, value in asdict(self).items():
            # the key is older than the metric's name and stays
            name = "class_top1" if key == "mean_class_accuracy" else key
            content |= value if key == "details" else {name: value}
        return content


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features of images to learn from and of those to judge on.

    Attributes:
        classes: names of the classes of which an image could be read.
        train: `(N, D)` features to learn from.
        labels: `(N,)` int64, positions in `classes`.
        queries: `(M, D)` features to judge on; None where they are `train` itself.
        truth: `(M,)` int64, the right class of each; -1 where it is not among `classes`.
        groups: `M` names of the right classes.
        missing: those of them that are not among `classes`.
    """

    classes: tuple[str, ...]
    train: Tensor
    labels: NDArray[np.int64]
    queries: Tensor | None
    truth: NDArray[np.int64]
    groups: tuple[str, ...]
    missing: tuple[str, ...]
    set_aside: tuple[SetAside, ...]

    def report(
        self, ranked: NDArray[np.int64], backbone: Backbone, details: Details, *, started: float
    ) -> ClassFolderReport[Details]:
        """What ranked answers are worth: `(M, up to 5)` classes, best first; -1 is no answer."""
        # -2: an unknown class counts as wrong, it is not the one that "no answer" stands for
        ranks = ranks_of(ranked, np.where(self.truth < 0, -2, self.truth))
        # over the names of VAL's own classes: those that TRAIN has not are wrong, not absent
        names = np.array(self.groups)
        return ClassFolderReport(
            top1=top_k(ranks, 1),
            top1_error=standard_error(top_k(ranks, 1), len(ranks)),
            mean_class_accuracy=mean_class_accuracy(ranks, names),
            top5=top_k(ranks, 5) if len(self.classes) >= CLASSES_FOR_TOP5 else None,
            by_class={str(name): top_k(ranks[names == name], 1) for name in np.unique(names)},
            backbone=backbone.identity,
            details=details,
            train_images=len(self.labels),
            images=len(self.truth),
            classes=len(self.classes),
            missing=self.missing,
            seconds=time.perf_counter() - started,
            set_aside=self.set_aside,
        )


def find_class_folders(root: str | Path, *, limit: int | None = None) -> ClassFolders:
    """List the images of each class folder of `root` (with the folders below it).

    Files that are no images by their name are passed over, hidden folders too; `limit` takes the
    first so many images of each class, by name.

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
    faults: list[SetAside] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images, empty = find_images([folder])
        faults += empty
        if images:
            labels += [len(names)] * len(images[:limit])
            names.append(folder.name)
            paths += images[:limit]
    loose = sorted(p for p in root.iterdir() if is_image_file(p))
    faults += [SetAside(str(p), "in no class folder") for p in loose]
    if not paths:
        raise InputError(f"{root}: no image in any class folder (one folder for each class)")
    return ClassFolders(
        root, tuple(names), tuple(paths), np.array(labels, dtype=np.int64), tuple(faults)
    )


def read_features(
    backbone: Backbone,
    train: str | Path,
    val: str | Path | None,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> LabelledFeatures:
    """Pooled features of class folders to learn from and of others to judge on.

    Args:
        train: a folder of class folders.
        val: another, whose classes are matched by name; None to judge on `train` itself.
        limit: no more than the first so many images of each class.
        progress: called with (done, total) images, for each folder.

    Raises:
        InputError: see `find_class_folders`; an image in both folders, be it by a link; fewer than
            two classes to choose from; no readable image.
    """
    if val is not None and Path(train).expanduser().resolve() == Path(val).expanduser().resolve():
        raise InputError(f"{train}: {_SAME}")
    learned = find_class_folders(train, limit=limit)
    judged = None if val is None else find_class_folders(val, limit=limit)
    if judged is not None:
        _check_apart(learned, judged)
    # a lack of classes is said before an hour of features, not after it
    _check_classes(learned, learned.labels)
    faults = list(learned.set_aside)
    features, rows = pooled_features(
        backbone, learned.paths, batch_size=batch_size, progress=progress, faults=faults
    )
    _check_classes(learned, learned.labels[rows])
    # numbered anew: a class of which no image could be read is none to choose
    present, labels = np.unique(learned.labels[rows], return_inverse=True)
    classes = tuple(learned.names[label] for label in present)
    queries = None
    if judged is None:
        judged = learned
    else:
        faults += judged.set_aside
        queries, rows = pooled_features(
            backbone, judged.paths, batch_size=batch_size, progress=progress, faults=faults
        )
        if not len(rows):
            raise InputError(f"{judged.root}: none of its {len(judged.paths)} images can be read")
    # by name: the two folders may hold other classes, in another order
    positions = {name: position for position, name in enumerate(classes)}
    groups = tuple(judged.names[label] for label in judged.labels[rows])
    return LabelledFeatures(
        classes=classes,
        train=features,
        labels=labels.astype(np.int64),
        queries=queries,
        truth=np.array([positions.get(name, -1) for name in groups], dtype=np.int64),
        groups=groups,
        missing=() if queries is None else tuple(n for n in judged.names if n not in positions),
        set_aside=tuple(faults),
    )


def _check_apart(learned: ClassFolders, judged: ClassFolders) -> None:
    """Raise `InputError` where both hold the same file, be it by a link."""
    # by file, not by path or content: links are noticed, copies would cost a hash of every image
    files = {file for path in learned.paths if (file := _file_id(path)) is not None}
    if both := [path for path in judged.paths if _file_id(path) in files]:
        raise InputError(f"{both[0]} ({len(both):,} such) is also in {learned.root}: {_SAME}")


def _file_id(path: Path) -> tuple[int, int] | None:
    """Which file of which disk a path leads to; None where the file system does not say."""
    try:
        stat = path.stat()
    except OSError:
        return None  # it is set aside when it is read
    return (stat.st_dev, stat.st_ino) if stat.st_ino else None


def _check_classes(folders: ClassFolders, labels: NDArray[np.int64]) -> None:
    """Raise `InputError` unless there are two classes to choose from."""
    count = len(np.unique(labels))
    if count < 2:
        raise InputError(
            f"{folders.root}: {count} class{'' if count == 1 else 'es'} with images that can be "
            "read; at least 2 are needed to choose from"
        )
