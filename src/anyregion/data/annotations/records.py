"""Classes and images as files list them, brought together: each id, and each name, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Categories
from anyregion.data.check.report import Findings, Kind
from anyregion.vocabulary import name_key

MALFORMED_ROWS = Kind("malformed entries", True, "mend or remove them in the annotation file")
IMAGE_ID_TWICE = Kind(
    "images whose id is listed twice", True, "give every image an id of its own; the first is kept"
)
IMAGE_WITHOUT_NAME = Kind(
    "images without a file name", True, "state file_name (or LVIS's coco_url) for each"
)
CATEGORY_ID_TWICE = Kind(
    "categories whose id is listed twice", True, "give every class an id of its own"
)
NAME_TWICE = Kind(
    "categories of the same name",
    True,
    "they were merged into the first: one name can stand for one class only. Where two things are "
    "meant, tell them apart: 'bat (animal)', 'bat (sport)'",
)
NAME_EMPTY = Kind("categories without a name", True, "name them; their regions are left out")
GROUP_OF_CLASSES = Kind(
    "entries that name the group of classes and have no regions",
    False,
    "nothing: exporters add one in place of a background; it is left out",
)
UNKNOWN_LISTED = Kind(
    "unknown categories among neg_category_ids or not_exhaustive_category_ids",
    True,
    "list those classes",
)


@dataclass(frozen=True)
class CategoryEntry:
    """A class as a file lists it; `key` is what its regions call it."""

    key: str
    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    frequency: str = ""


@dataclass(frozen=True)
class ImageEntry:
    """An image as a file lists it; `key` is what its regions call it.

    One that is `left_out` was reported by the reader: its regions go with it.
    """

    key: str
    file_name: str | None
    size: tuple[int, int] = (-1, -1)
    negatives: Sequence[str] = ()
    not_exhaustive: Sequence[str] = ()
    left_out: bool = False


def merge_categories(
    entries: Iterable[CategoryEntry], findings: Findings
) -> tuple[Categories, dict[str, int]]:
    """The classes, and which label a key stands for."""
    kept: list[CategoryEntry] = []
    label_of: dict[str, int] = {}
    by_name: dict[str, int] = {}
    for entry in entries:
        spelled = name_key(entry.name)
        if entry.key in label_of:
            first = kept[label_of[entry.key]].name
            reason = f"its id is {first!r}'s; the first is kept"
            findings.add(CATEGORY_ID_TWICE, f"category {entry.key} {entry.name!r}", reason)
        elif not spelled:
            findings.add(NAME_EMPTY, f"category {entry.key}", f"its name is {entry.name!r}")
        elif spelled in by_name:
            label_of[entry.key] = by_name[spelled]
            same = kept[by_name[spelled]]
            reason = f"{entry.name!r} repeats {same.name!r} of {same.key}, into which it is merged"
            findings.add(NAME_TWICE, f"category {entry.key}", reason)
        else:
            label_of[entry.key] = by_name[spelled] = len(kept)
            kept.append(entry)
    classes = Categories(
        ids=np.array([entry.id for entry in kept], dtype=np.int64),
        names=tuple(_written(entry.name) for entry in kept),
        synonyms=tuple(_synonyms(entry) for entry in kept),
        frequency=tuple(entry.frequency for entry in kept),
    )
    return classes, label_of


def _written(name: str) -> str:
    """One space between words; halves of characters, which no file can hold, become U+FFFD."""
    whole = name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(whole.split())


def _synonyms(entry: CategoryEntry) -> tuple[str, ...]:
    """Other words only: LVIS lists the name itself among its synonyms."""
    own = name_key(entry.name)
    by_key = {name_key(word): word for word in reversed(entry.synonyms)}
    return tuple(_written(word) for key, word in reversed(by_key.items()) if key and key != own)


def merge_images(
    entries: Iterable[ImageEntry], findings: Findings
) -> tuple[list[ImageEntry], dict[str, int], set[str]]:
    """The images, the position of each key, and the keys of those left out."""
    kept: list[ImageEntry] = []
    position: dict[str, int] = {}
    lost: set[str] = set()
    for entry in entries:
        if entry.key in position:
            name = kept[position[entry.key]].file_name
            reason = f"its id {entry.key} is {name}'s, which is kept"
            findings.add(IMAGE_ID_TWICE, f"image {entry.file_name}", reason)
        elif entry.left_out:
            lost.add(entry.key)
        elif not entry.file_name:
            lost.add(entry.key)
            findings.add(IMAGE_WITHOUT_NAME, f"image {entry.key}", "no file name")
        else:
            position[entry.key] = len(kept)
            kept.append(entry)
    return kept, position, lost - position.keys()


def labels_of(
    columns: Sequence[Sequence[str]],
    label_of: dict[str, int],
    names: Sequence[str],
    findings: Findings,
) -> tuple[NDArray[np.int64], ...]:
    if not any(len(keys) for keys in columns):
        return ()
    found: list[NDArray[np.int64]] = []
    for name, keys in zip(names, columns, strict=True):
        for key in keys:
            if key not in label_of:
                findings.add(UNKNOWN_LISTED, name, f"unknown category id {key}")
        labels = [label_of[key] for key in keys if key in label_of]
        found.append(np.unique(np.array(labels, dtype=np.int64)))
    return tuple(found)
