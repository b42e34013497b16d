"""Classes and images as annotation files list them, and their merging: each id, each name, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Categories
from anyregion.data.annotations.report import Findings, Kind
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
class CategoryRecord:
    """A class as a file lists it; `key` is what its regions call it."""

    key: str
    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    frequency: str = ""


@dataclass(frozen=True)
class ImageRecord:
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
    records: Iterable[CategoryRecord], findings: Findings
) -> tuple[Categories, dict[str, int]]:
    """The classes, and which label a key stands for."""
    merged: list[CategoryRecord] = []
    label_of: dict[str, int] = {}
    by_name: dict[str, int] = {}
    for record in records:
        name, item = record.name, f"category {record.key}"
        key = name_key(name)
        if record.key in label_of:
            first = merged[label_of[record.key]].name
            reason = f"its id is {first!r}'s; the first is kept"
            findings.add(CATEGORY_ID_TWICE, f"{item} {name!r}", reason)
        elif not key:
            findings.add(NAME_EMPTY, item, f"its name is {name!r}")
        elif key in by_name:
            label_of[record.key] = by_name[key]
            same = merged[by_name[key]]
            reason = f"{name!r} repeats {same.name!r} of {same.key}, into which it is merged"
            findings.add(NAME_TWICE, item, reason)
        else:
            label_of[record.key] = by_name[key] = len(merged)
            merged.append(record)
    categories = Categories(
        ids=np.array([record.id for record in merged], dtype=np.int64),
        names=tuple(_clean_name(record.name) for record in merged),
        synonyms=tuple(_synonyms(record) for record in merged),
        frequency=tuple(record.frequency for record in merged),
    )
    return categories, label_of


def _clean_name(name: str) -> str:
    """One space between words; halves of characters, which no file can hold, become U+FFFD."""
    text = name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(text.split())


def _synonyms(record: CategoryRecord) -> tuple[str, ...]:
    """Other words only: LVIS lists the name itself among its synonyms."""
    # reversed twice: of two spellings of one word the first stays, in the file's order
    by_key = {name_key(word): word for word in reversed(record.synonyms)}
    by_key.pop(name_key(record.name), None)
    return tuple(_clean_name(word) for key, word in reversed(by_key.items()) if key)


def merge_images(
    records: Iterable[ImageRecord], findings: Findings
) -> tuple[list[ImageRecord], dict[str, int], set[str]]:
    """The images, the position of each key, and the keys of those left out."""
    images: list[ImageRecord] = []
    position: dict[str, int] = {}
    left_out: set[str] = set()
    for record in records:
        if record.key in position:
            name = images[position[record.key]].file_name
            reason = f"its id {record.key} is {name}'s, which is kept"
            findings.add(IMAGE_ID_TWICE, f"image {record.file_name}", reason)
        elif record.left_out:
            left_out.add(record.key)
        elif not record.file_name:
            left_out.add(record.key)
            findings.add(IMAGE_WITHOUT_NAME, f"image {record.key}", "no file name")
        else:
            position[record.key] = len(images)
            images.append(record)
    return images, position, left_out - position.keys()


def labels_of(
    columns: Sequence[Sequence[str]],
    label_of: dict[str, int],
    names: Sequence[str],
    findings: Findings,
) -> tuple[NDArray[np.int64], ...]:
    """Per image the labels of the categories that it lists by key; empty where no image does."""
    if not any(len(keys) for keys in columns):
        return ()
    labels: list[NDArray[np.int64]] = []
    for name, keys in zip(names, columns, strict=True):
        for key in keys:
            if key not in label_of:
                findings.add(UNKNOWN_LISTED, name, f"unknown category id {key}")
        listed = [label_of[key] for key in keys if key in label_of]
        labels.append(np.unique(np.array(listed, dtype=np.int64)))
    return tuple(labels)
