"""Label maps: beside each image a PNG whose values say which segment a pixel belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.backbones.segmentation_datasets import (
    BACKGROUND,
    VOID,
    Scene,
    Scenes,
    SegmentMap,
    read_values,
)
from anyregion.images import find_images

VOID_VALUE = 255


def label_map_scenes(
    maps: str | Path,
    images: str | Path,
    *,
    void: int = VOID_VALUE,
    background: int | None = None,
) -> Scenes:
    """Match PNGs with images by their paths below the two folders, without suffixes.

    All pixels of one value are one segment, connected or not. Images without a map are skipped.

    Args:
        maps: folder of the PNGs.
        images: folder of the images; another one than `maps`.
        void: value of pixels that are judged for nothing.
        background: value of pixels that belong to no segment; without, every value is a segment.

    Raises:
        InputError: folders that are not there, or the same.
    """
    maps, images = Path(maps).expanduser(), Path(images).expanduser()
    for folder in (maps, images):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
    if maps.resolve() == images.resolve():
        raise InputError(f"{maps}: label maps and images must be in folders of their own")
    if void == background:
        raise InputError(f"the value {void} cannot be both void and background")
    known = {p.relative_to(maps).with_suffix(""): p for p in find_images([maps])[0] if _is_png(p)}
    aside: list[SetAside] = []
    scenes: dict[Path, Scene] = {}
    skipped = 0
    for path in find_images([images])[0]:
        name = path.relative_to(images).with_suffix("")
        if name in scenes:
            aside.append(SetAside(str(path), f"{scenes[name].path.name} has the same map"))
        elif name in known:
            scenes[name] = Scene(name.as_posix(), path, _Values(known[name], void, background))
        else:
            skipped += 1
    aside += [
        SetAside(str(p), f"no image in {images}") for n, p in known.items() if n not in scenes
    ]
    return Scenes("label maps", tuple(scenes.values()), skipped, tuple(aside))


@dataclass(frozen=True)
class _Values:
    path: Path
    void: int
    background: int | None

    def __call__(self, size: tuple[int, int]) -> SegmentMap:
        values = read_values(self.path, size)
        left_out = values == self.void
        behind = np.zeros_like(left_out) if self.background is None else values == self.background
        rest = ~(left_out | behind)
        found: SegmentMap = np.full(size, BACKGROUND, dtype=np.int32)
        found[left_out] = VOID
        found[rest] = np.unique(values[rest], return_inverse=True)[1].reshape(-1) + 1
        return found


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"
