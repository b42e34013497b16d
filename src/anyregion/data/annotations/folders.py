"""Folders of data sets, as ODinW ships them: their sets, splits and files."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from anyregion.errors import InputError

# COCO files in one folder with their images, as Roboflow exports them; the first that exists counts
BESIDE_IMAGES = ("annotations_without_background.json", "_annotations.coco.json")

_SPLITS = ("train", "valid", "val", "test")
_INSTANCES = re.compile(r"instances_(.+)\.json")


@dataclass(frozen=True)
class DataSet:
    """One split of one data set.

    Attributes:
        name: the set's folder, below the folder of sets; with the variant where a set has several
            (`AerialMaritimeDrone/large`).
        annotations: COCO-format JSON.
        images: the folder that its file names start from.
        split: `train`, `valid`, `test`, or whatever the file calls itself.
    """

    name: str
    annotations: Path
    images: Path
    split: str


def find_sets(folder: str | Path) -> list[DataSet]:
    """Every split of every data set below `folder` (which may be one set), by name, then split.

    Two layouts are known:
        `<set>/.../<split>/_annotations.coco.json` with the images beside it, as Roboflow exports
            and ODinW ships; `annotations_without_background.json` is taken in its place where
            both are there.
        `<set>/annotations/instances_<split>.json` with images in `<set>/images/<split>`,
            `<set>/images` or, as in COCO, `<set>/<split>`.

    Raises:
        InputError: no such folder, or no data set in it.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(f"{top}: there is no such folder")
    # folders from `top` to the set, split, annotation file, images
    splits: list[tuple[tuple[str, ...], str, Path, Path]] = []
    visited: set[str] = set()
    for current, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(current)
        if real in visited:  # links may lead in a circle
            folders.clear()
            continue
        visited.add(real)
        # in place: `os.walk` goes on into those that stay
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        path = Path(current)
        parts = path.relative_to(top).parts
        beside = next((name for name in BESIDE_IMAGES if name in files), None)
        if beside is not None:
            is_split = path.name.casefold() in _SPLITS
            split = path.name if is_split else "all"
            splits.append((parts[:-1] if is_split else parts, split, path / beside, path))
        if path.name == "annotations":
            for name in files:
                if match := _INSTANCES.fullmatch(name):
                    images = _images(path.parent, match[1])
                    splits.append((parts[:-1], match[1], path / name, images))
    if not splits:
        raise InputError(
            f"{top}: no data set here: neither <set>/<split>/_annotations.coco.json nor "
            "<set>/annotations/instances_<split>.json"
        )
    names = _names({parts for parts, *_ in splits}, top)
    sets = [DataSet(names[parts], file, images, split) for parts, split, file, images in splits]
    return sorted(sets, key=lambda s: (s.name.casefold(), s.name, _order(s.split), s.split))


def _images(folder: Path, split: str) -> Path:
    places = (folder / "images" / split, folder / "images", folder / split)
    return next((place for place in places if place.is_dir()), places[1])


def _names(all_parts: set[tuple[str, ...]], top: Path) -> dict[tuple[str, ...], str]:
    """`Aquarium/Aquarium Combined.v2` is `Aquarium`, unless that folder holds other sets too."""
    siblings = Counter(parts[0] for parts in all_parts if parts)
    return {
        parts: (parts[0] if siblings[parts[0]] == 1 else "/".join(parts))
        if parts
        else top.resolve().name
        for parts in all_parts
    }


def _order(split: str) -> int:
    lower = split.casefold()
    return next((i for i, name in enumerate(_SPLITS) if lower.startswith(name)), len(_SPLITS))
