"""Annotations as named arrays and back: what the index of a store holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.store.hashing import hash_array, short_hash
from anyregion.data.store.shards import Columns
from anyregion.errors import SetAside

_PLAIN: dict[str, type[np.generic]] = {
    "sizes": np.int64,
    "starts": np.int64,
    "boxes": np.float64,
    "labels": np.int64,
    "crowd": np.bool_,
    "areas": np.float64,
    "region_ids": np.int64,
}
_LISTS = ("negatives", "not_exhaustive")
SEGMENTATIONS = "segmentations"


def to_columns(annotations: Annotations) -> dict[str, NDArray[Any]]:
    """Every column but the categories as one or two arrays; texts as UTF-8 and where each ends."""
    columns = {
        name: np.ascontiguousarray(getattr(annotations, name), dtype=dtype)
        for name, dtype in _PLAIN.items()
    }
    columns |= _pack("image_ids", annotations.image_ids)
    columns |= _pack("file_names", annotations.file_names)
    for name in _LISTS:
        if lists := getattr(annotations, name):
            columns |= _pack_lists(name, lists)
    if annotations.segmentations is not None:
        texts = ("" if s is None else json.dumps(s) for s in annotations.segmentations)
        columns |= _pack(SEGMENTATIONS, texts)
    columns |= _pack("set_aside.item", (a.item for a in annotations.set_aside))
    columns |= _pack("set_aside.reason", (a.reason for a in annotations.set_aside))
    return columns


def from_columns(columns: Columns, categories: Categories, *, masks: bool) -> Annotations:
    """The annotations; numeric columns are the arrays that were given, not copies.

    Args:
        columns: as `to_columns` gives them.
        categories: the classes.
        masks: also read the segmentations, where the columns hold them.

    Raises:
        KeyError, ValueError: columns that are missing or malformed.
    """
    segmentations: tuple[Any, ...] | None = None
    if masks and f"{SEGMENTATIONS}.ends" in columns:
        segmentations = _unpack(SEGMENTATIONS, columns, lambda s: json.loads(s) if s else None)
    plain: dict[str, Any] = {name: columns[name] for name in _PLAIN}
    lists: dict[str, Any] = {name: _unpack_lists(name, columns) for name in _LISTS}
    items = _unpack("set_aside.item", columns)
    reasons = _unpack("set_aside.reason", columns)
    return Annotations(
        categories=categories,
        image_ids=_unpack("image_ids", columns),
        file_names=_unpack("file_names", columns),
        **plain,
        **lists,
        segmentations=segmentations,
        set_aside=tuple(SetAside(*pair) for pair in zip(items, reasons, strict=True)),
    )


def categories_to_json(categories: Categories) -> dict[str, Any]:
    """For `store.json`."""
    return {
        "ids": categories.ids.tolist(),
        "names": list(categories.names),
        "synonyms": [list(names) for names in categories.synonyms],
        "frequency": list(categories.frequency),
    }


def categories_from_json(content: Any) -> Categories:
    """What `categories_to_json` made; KeyError or TypeError where it is something else."""
    return Categories(
        ids=np.array(content["ids"], dtype=np.int64),
        names=tuple(content["names"]),
        synonyms=tuple(tuple(names) for names in content["synonyms"]),
        frequency=tuple(content["frequency"]),
    )


def hash_columns(columns: Columns, categories: Categories) -> dict[str, str]:
    """Per column a hash of its type, shape and every number; the categories are one more."""
    hashes = {name: hash_array(array).hex() for name, array in columns.items()}
    text = json.dumps(categories_to_json(categories), ensure_ascii=True)
    return {**hashes, "categories": short_hash(text.encode()).hex()}


def _pack(name: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    # surrogatepass: a file's name need not be UTF-8, and JSON can write what is no character
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)
    content = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {f"{name}.bytes": content, f"{name}.ends": ends}


def _unpack(
    name: str, columns: Columns, read: Callable[[str], Any] = lambda text: text
) -> tuple[Any, ...]:
    content, ends = columns[f"{name}.bytes"].tobytes(), columns[f"{name}.ends"].tolist()
    if content.isascii():  # then bytes and characters are counted alike
        text = content.decode("ascii")
        return tuple(read(text[a:b]) for a, b in pairwise([0, *ends]))
    return tuple(
        read(content[a:b].decode("utf-8", "surrogatepass")) for a, b in pairwise([0, *ends])
    )


def _pack_lists(name: str, lists: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    ends = np.cumsum([len(values) for values in lists], dtype=np.int64)
    return {f"{name}.values": np.concatenate(lists).astype(np.int64), f"{name}.ends": ends}


def _unpack_lists(name: str, columns: Columns) -> tuple[NDArray[np.int64], ...]:
    if f"{name}.ends" not in columns:
        return ()
    values, ends = columns[f"{name}.values"], columns[f"{name}.ends"].tolist()
    return tuple(values[a:b] for a, b in pairwise([0, *ends]))
