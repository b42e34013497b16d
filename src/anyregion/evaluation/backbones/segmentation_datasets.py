"""Images whose pixels were divided into segments by people: what discovery is judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.images import read_single_channel
from anyregion.masks import decode_mask, segmentation_to_rle

SegmentMap: TypeAlias = NDArray[np.int32]
"""`(height, width)`: 1, 2, ... a segment, 0 the background, -1 void: judged for nothing."""
BACKGROUND = 0
VOID = -1


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and how to read its segments.

    Attributes:
        name: what it is called in its data set; randomness follows from it.
        path: of the image.
        segments: `(height, width)` of the upright image to its map.
    """

    name: str
    path: Path
    segments: Callable[[tuple[int, int]], SegmentMap]


@dataclass(frozen=True, eq=False)
class Scenes:
    """A data set of scenes.

    Attributes:
        layout: `coco`, `label maps` or `cub`.
        scenes: the images.
        skipped: images that are not judged because they have no masks.
        set_aside: what cannot be used.
    """

    layout: str
    scenes: tuple[Scene, ...]
    skipped: int
    set_aside: tuple[SetAside, ...]


def coco_scenes(path: str | Path, images: str | Path) -> Scenes:
    """The images of COCO annotations of which every region has a mask.

    An image of which only some regions have one is skipped, as one without any: its other objects
    would count as background. Crowd regions are void.

    Args:
        path: COCO-format JSON, or a folder with `_annotations.coco.json`.
        images: the folder that file names start from.

    Raises:
        InputError: the file cannot be used.
    """
    annotations = read_annotations(path, layout="coco", masks=True)
    masks = annotations.segmentations or ()
    aside = list(annotations.set_aside)
    scenes: list[Scene] = []
    skipped = 0
    for image, name in enumerate(annotations.file_names):
        rows = annotations.rows(image).tolist()
        if not rows or not all(masks[row] for row in rows):
            skipped += 1
            continue
        found = find_image(Path(images), name)
        if found is None:
            aside.append(SetAside(name, f"not in {images}"))
        else:
            scenes.append(Scene(name, found, _CocoSegments(annotations, image)))
    return Scenes("coco", tuple(scenes), skipped, tuple(aside))


@dataclass(frozen=True, eq=False)
class _CocoSegments:
    annotations: Annotations
    image: int

    def __call__(self, size: tuple[int, int]) -> SegmentMap:
        """Where masks overlap, the smaller lies on top; of equal ones the later in the file.

        Raises:
            InputError: a mask is malformed, or the image is of another size than annotated.
        """
        stated = tuple(self.annotations.sizes[self.image].tolist())
        if min(stated) >= 0 and stated != size:
            raise InputError(
                f"{size[1]} x {size[0]}, but the annotations say {stated[1]} x {stated[0]}"
            )
        found: SegmentMap = np.full(size, BACKGROUND, dtype=np.int32)
        rows = self.annotations.rows(self.image, crowd=True)
        crowd = self.annotations.crowd[rows]
        for row in rows[crowd]:
            if (self.annotations.segmentations or ())[row]:
                found[self._mask(int(row), size)] = VOID
        masks = [self._mask(int(row), size) for row in rows[~crowd]]
        for number, mask in enumerate(sorted(masks, key=np.count_nonzero, reverse=True), start=1):
            found[mask] = number
        return found

    def _mask(self, row: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        try:
            segmentation = (self.annotations.segmentations or ())[row]
            return decode_mask(segmentation_to_rle(segmentation, *size))
        except InputError as error:
            raise InputError(f"region {self.annotations.region_ids[row]}: {error}") from None


def read_values(
    path: Path, size: tuple[int, int], *, first_channel: bool = False
) -> NDArray[np.int64]:
    """The numbers of a label map or mask, `(height, width)`: see `images.read_single_channel`.

    Args:
        path, first_channel: see there.
        size: `(height, width)` that it must have.

    Raises:
        InputError: it cannot be read, has colours, or another size.
    """
    values = read_single_channel(path, first_channel=first_channel)
    if values.shape != size:
        height, width = values.shape
        raise InputError(f"{path}: {width} x {height}, but its image is {size[1]} x {size[0]}")
    return values
