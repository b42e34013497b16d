"""A data set of images with a class for every pixel: what it holds, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside

ClassMap: TypeAlias = NDArray[np.int32]
"""`(height, width)`: the class of each pixel, a position in the data set's classes; -1 is void."""
VOID = -1
Layout: TypeAlias = Literal["auto", "voc", "cityscapes", "camvid", "ade20k", "coco", "maps"]


@dataclass(frozen=True)
class SemanticSource:
    """Where a data set with a class for every pixel lies.

    Attributes:
        root: a folder in the layout of Pascal VOC 2012, Cityscapes, CamVid (as SegNet's authors
            publish it) or ADE20K; COCO-format JSON with masks; or a folder of label maps (PNG).
        layout: `auto` goes by what lies there.
        split: part of the data set, by its name there (VOC: also `trainaug`); None for the part
            that is trained on, or of validation the one that is judged on. Of `maps` a text file
            with a name in each line; None for all.
        images: folder of the images of `coco` and `maps`.
        sbd: the folder `dataset` of the Semantic Boundaries Dataset, which VOC's `trainaug` takes
            its further label maps from. None where `SegmentationClassAug` lies in `root`.
        classes: of `maps`: a text file with a name in each line; the first is the value 0.
        void: of `maps`: values that are judged for nothing.
        background: of `coco`: pixels of no mask are a `class` of their own, or `void`.
        limit: no more than the first so many images.
        terms: licence or terms of use, for the card.
    """

    root: str
    layout: Layout = "auto"
    split: str | None = None
    images: str | None = None
    sbd: str | None = None
    classes: str | None = None
    void: tuple[int, ...] = (255,)
    background: Literal["class", "void"] = "class"
    limit: int | None = None
    terms: str = "not stated"

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise InputError(f"layout: {self.layout!r} is none of {', '.join(get_args(Layout))}")
        if self.background not in ("class", "void"):
            raise InputError(f"background: {self.background!r} is not class or void")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, not {self.limit}")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image and how to read its classes.

    Attributes:
        name: what it is called in its data set.
        path: of the image.
        read_classes: `(height, width)` of the upright image to its map; raises `InputError`.
    """

    name: str
    path: Path
    read_classes: Callable[[tuple[int, int]], ClassMap]


@dataclass(frozen=True, eq=False)
class SemanticDataset:
    """Images with a class for every pixel.

    Attributes:
        layout: the source's, found out.
        classes: what a `ClassMap` counts.
        images: those that have a map.
        set_aside: what is listed and is not there, or cannot be used.
    """

    layout: Layout
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    set_aside: tuple[SetAside, ...] = ()


def open_semantic_dataset(source: SemanticSource, *, training: bool) -> SemanticDataset:
    """Open a data set; label maps are read later, one by one.

    Args:
        training: which split is meant where the source names none.

    Raises:
        InputError: no such layout there, options that are of another one, or no image.
    """
    from anyregion.data.semantic import layouts

    root = Path(source.root).expanduser()
    if not root.exists():
        raise InputError(f"{root}: there is no such file or folder")
    root, layout = layouts.find_layout(root)
    if source.layout not in ("auto", layout):
        # any folder may be read as label maps; the others have files of their own
        if source.layout != "maps" or not root.is_dir():
            raise InputError(f"{root}: not in the layout of {source.layout}, it seems {layout}")
        layout = "maps"
    _refuse_others(source, layout)
    dataset = layouts.READERS[layout](root, source, training)
    if not dataset.images:
        why = f": {dataset.set_aside[0]}" if dataset.set_aside else ""
        raise InputError(f"{root}: no image with a label map{why}")
    if source.limit is not None:
        dataset = replace(dataset, images=dataset.images[: source.limit])
    return dataset


def map_values(values: NDArray[np.int64], positions: NDArray[np.int32], where: Path) -> ClassMap:
    """The classes of a label map's values.

    Args:
        values: `(height, width)`.
        positions: `(V,)` the class of each value, `VOID`, or less for a value that nothing is.

    Raises:
        InputError: a value that is no class and not void; names it and the file.
    """
    outside = (values < 0) | (values >= len(positions))
    classes: ClassMap = positions[np.where(outside, 0, values)]
    unknown = outside | (classes < VOID)
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise InputError(
            f"{where}: the value {values[row, column]} (row {row}, column {column}) is no class"
        )
    return classes


def _refuse_others(source: SemanticSource, layout: Layout) -> None:
    """Options that nothing would read are a misunderstanding."""
    of = {"sbd": ("voc",), "classes": ("maps",), "images": ("coco", "maps")}
    for name, layouts in of.items():
        if getattr(source, name) is not None and layout not in layouts:
            raise InputError(
                f"{source.root}: {name} is of {' and '.join(layouts)}, not of {layout}"
            )
    if source.void != (255,) and layout != "maps":
        raise InputError(f"{source.root}: void values are of label maps, not of {layout}")
    if source.background != "class" and layout != "coco":
        raise InputError(f"{source.root}: background is of COCO's masks, not of {layout}")
    if source.split is not None and layout == "coco":
        raise InputError(f"{source.root}: a split of COCO's is a file of its own")
