"""CUB-200-2011 (Wah et al., 2011) in its own folders: one bird an image, and its segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np

from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.backbones.segmentation_datasets import (
    Scene,
    Scenes,
    SegmentMap,
    read_values,
)
from anyregion.files import read_text

Split: TypeAlias = Literal["test", "train", "all"]
HALF = 127
"""Values run from 0 to 255 in steps of the five annotators' votes; above it most said bird."""


def is_cub(folder: str | Path) -> bool:
    """Whether a folder has CUB's lists."""
    folder = Path(folder).expanduser()
    return all((folder / n).is_file() for n in ("images.txt", "train_test_split.txt"))


def cub_scenes(
    root: str | Path, images: str | Path | None = None, *, split: Split = "test"
) -> Scenes:
    """The birds of one split of CUB-200-2011.

    Args:
        root: the folder with `images.txt`, `train_test_split.txt` (1 is training) and `images/`.
            `segmentations/`, an archive of its own, is looked for there and beside it.
        images: the folder of the images, where it is another.
        split: which images.

    Raises:
        InputError: lists that are missing or malformed, no segmentations.
    """
    root = Path(root).expanduser()
    folder = root / "images" if images is None else Path(images).expanduser()
    places = (root / "segmentations", root.parent / "segmentations")
    masks = next((p for p in places if p.is_dir()), None)
    if masks is None:
        raise InputError(f"{root}: no folder segmentations there or beside it")
    names = _table(root / "images.txt")
    training = _table(root / "train_test_split.txt")
    scenes: list[Scene] = []
    aside: list[SetAside] = []
    skipped = 0
    for number, name in names.items():
        flag = training.get(number)
        if flag not in ("0", "1"):
            aside.append(SetAside(name, "train_test_split.txt does not say its split"))
            continue
        if split != "all" and (flag == "1") != (split == "train"):
            continue
        mask = find_image(masks, str(PurePosixPath(name).with_suffix(".png")))
        path = find_image(folder, name)
        if mask is None:
            skipped += 1
        elif path is None:
            aside.append(SetAside(name, f"not in {folder}"))
        else:
            scenes.append(Scene(name, path, _Bird(mask)))
    return Scenes("cub", tuple(scenes), skipped, tuple(aside))


@dataclass(frozen=True)
class _Bird:
    path: Path

    def __call__(self, size: tuple[int, int]) -> SegmentMap:
        bird = read_values(self.path, size, first_channel=True) > HALF
        if not bird.any():
            raise InputError(f"{self.path}: no pixel is above {HALF}: no bird")
        return bird.astype(np.int32)


def _table(path: Path) -> dict[str, str]:
    """Lines `number text`."""
    found: dict[str, str] = {}
    for at, line in enumerate(read_text(path).splitlines(), start=1):
        parts = line.split(maxsplit=1)
        if len(parts) == 2:
            found[parts[0]] = parts[1].strip()
        elif parts:
            raise InputError(f"{path}, line {at}: a number and a text are meant, not {line!r:.60}")
    return found
