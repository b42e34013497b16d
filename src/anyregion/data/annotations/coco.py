"""COCO-format JSON, and what LVIS, Objects365, OpenImages, V3Det and ODinW do differently in it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Iterator
from itertools import starmap
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.builder import RegionColumns, assemble
from anyregion.data.annotations.records import (
    GROUP_OF_CLASSES,
    MALFORMED_ROWS,
    CategoryEntry,
    ImageEntry,
)
from anyregion.data.check.report import Findings
from anyregion.errors import InputError
from anyregion.files import read_json, read_text


def read_coco(path: Path, *, masks: bool = False, clip: bool = True) -> Annotations:
    """Read one file; see `read_annotations`.

    Raises:
        InputError: not JSON, or without lists of images, annotations and categories.
    """
    rows = _Rows(masks)
    content = _parse(path, rows)
    if not isinstance(content, dict):
        kind = "COCO results, not annotations" if isinstance(content, list) else "no COCO file"
        raise InputError(f"{path}: {kind}: an object with images and annotations is needed")
    lists: dict[str, list[Any]] = {}
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            found = "is missing" if name not in content else "is not a list"
            raise InputError(f"{path}: {name!r} {found}; COCO annotations have it")
        lists[name] = content[name]
    findings = Findings()
    regions = rows.columns(lists["annotations"], findings)
    used = {regions.category_keys[i] for i in np.unique(regions.categories)}
    return assemble(
        _images(lists["images"], findings),
        _categories(lists["categories"], used, findings),
        regions,
        findings,
        clip=clip,
    )


class _Row(int):
    """Stands in the parsed file for a region that went into the columns: its row."""

    __slots__ = ()


class _Rows:
    """Takes regions out of the JSON while it is parsed, so that no million objects ever exist."""

    def __init__(self, masks: bool) -> None:
        self.boxes, self.areas = array("d"), array("d")
        self.images, self.categories, self.ids = array("q"), array("q"), array("q")
        self.crowd, self.has_id = array("b"), array("b")
        self.segmentations: list[Any] | None = [] if masks else None
        self.image_codes: dict[Hashable, int] = {}
        self.category_codes: dict[Hashable, int] = {}

    def take(self, found: dict[str, Any]) -> Any:
        """For `json.loads(object_hook=...)`: a region becomes a row, all else stays as it is."""
        if "image_id" not in found or "bbox" not in found:
            return found
        try:
            if isinstance(found["bbox"], str):  # "1234" is not four numbers
                return found
            x, y, width, height = map(float, found["bbox"])
            image = self.image_codes.setdefault(found["image_id"], len(self.image_codes))
            category = self.category_codes.setdefault(
                found["category_id"], len(self.category_codes)
            )
            area = found.get("area")
            area = float("nan") if area is None else float(area)
            crowd = bool(int(found.get("iscrowd") or 0) or _group(found))
            given = found.get("id")
            number = _whole(given)
        except (KeyError, TypeError, ValueError, OverflowError):
            return found  # reported with its place in the file, in `columns`
        self.boxes.extend((x, y, x + width, y + height))
        self.images.append(image)
        self.categories.append(category)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.ids.append(0 if number is None else number)
        self.has_id.append(number is not None)
        if self.segmentations is not None:
            self.segmentations.append(found.get("segmentation"))
        return _Row(len(self.images) - 1)

    def columns(self, entries: list[Any], findings: Findings) -> RegionColumns:
        """The rows that stand under `annotations`; what is there and is no row is reported."""
        rows = np.fromiter((e for e in entries if type(e) is _Row), dtype=np.int64)
        if len(rows) != len(entries):
            for position, entry in enumerate(entries):
                if type(entry) is not _Row:
                    findings.add(MALFORMED_ROWS, f"annotation #{position}", _what_is_wrong(entry))
        masks = self.segmentations
        return RegionColumns(
            image_keys=[id_text(value) for value in self.image_codes],
            category_keys=[id_text(value) for value in self.category_codes],
            images=_numpy(self.images, np.int64)[rows],
            categories=_numpy(self.categories, np.int64)[rows],
            boxes=_numpy(self.boxes, np.float64).reshape(-1, 4)[rows],
            crowd=_numpy(self.crowd, np.int8)[rows].astype(bool),
            areas=_numpy(self.areas, np.float64)[rows],
            ids=_numpy(self.ids, np.int64)[rows],
            has_id=_numpy(self.has_id, np.int8)[rows].astype(bool),
            segmentations=None if masks is None else [masks[row] for row in rows],
        )


def id_text(value: Any) -> str:
    """An id as text: 1, 1.0 and "1" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _parse(path: Path, rows: _Rows) -> Any:
    try:
        return json.loads(read_text(path), object_hook=rows.take)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        read_json(path)  # raises the error that names the line
        raise


def _images(entries: list[Any], findings: Findings) -> Iterator[ImageEntry]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("id") is None:
            what = "no id" if isinstance(entry, dict) else f"not an object: {entry!r:.40}"
            findings.add(MALFORMED_ROWS, f"image #{position}", what)
            continue
        yield ImageEntry(
            key=id_text(entry["id"]),
            file_name=_file_name(entry),
            size=(_side(entry.get("height")), _side(entry.get("width"))),
            negatives=_keys(entry.get("neg_category_ids")),
            not_exhaustive=_keys(entry.get("not_exhaustive_category_ids")),
        )


def _file_name(entry: dict[str, Any]) -> str | None:
    """`file_name`; LVIS v1 has only `coco_url`, whose folder says which part of COCO it is in."""
    name = entry.get("file_name")
    if isinstance(name, str) and name.strip():
        return name
    url = entry.get("coco_url")
    if isinstance(url, str):
        return "/".join(PurePosixPath(urlsplit(url).path).parts[-2:]).lstrip("/") or None
    return None


def _categories(entries: list[Any], used: set[str], findings: Findings) -> Iterator[CategoryEntry]:
    objects = [entry for entry in entries if isinstance(entry, dict)]
    groups = {str(e["supercategory"]) for e in objects if e.get("supercategory")}
    for position, entry in enumerate(entries):
        number = _whole(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            what = f"not an object with a whole number as id and a name: {entry!r:.60}"
            findings.add(MALFORMED_ROWS, f"category #{position}", what)
            continue
        key, name = str(number), entry["name"]
        # Roboflow's exports, of which ODinW is made, begin with the group's own name
        above = str(entry.get("supercategory") or "none").casefold()
        if above == "none" and name in groups and key not in used:
            findings.add(GROUP_OF_CLASSES, f"category {key} {name!r}", "no class")
            continue
        synonyms = entry.get("synonyms")
        frequency = entry.get("frequency")
        yield CategoryEntry(
            key=key,
            id=number,
            name=name,
            synonyms=tuple(map(str, synonyms)) if isinstance(synonyms, list) else (),
            frequency=frequency if isinstance(frequency, str) else "",
        )


def _what_is_wrong(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"not an object: {entry!r:.40}"
    missing = [name for name in ("image_id", "bbox", "category_id") if name not in entry]
    where = f"region {entry.get('id')}: " if "id" in entry else ""
    if missing:
        return f"{where}no {', '.join(missing)}"
    named = ("image_id", "category_id", "bbox", "area", "iscrowd", "id")
    return where + ", ".join(starmap("{} {!r:.40}".format, ((n, entry.get(n)) for n in named)))


def _group(entry: dict[str, Any]) -> Any:
    """OpenImages' mark of a box around many things, as converters spell it."""
    return entry.get("isgroupof") or entry.get("IsGroupOf") or entry.get("is_group_of")


def _whole(value: Any) -> int | None:
    """`3`, `3.0` and `"3"` are 3; None for what is no whole number of 62 bits."""
    try:
        number = int(value)
        same = number == value or str(number) == value
    except (TypeError, ValueError, OverflowError):
        return None
    return number if same and abs(number) < 2**62 else None


def _side(value: Any) -> int:
    """A height or width; -1 where none can be made of what is stated."""
    number = _whole(value)
    return number if number is not None and 0 < number < 2**31 else -1


def _keys(values: Any) -> tuple[str, ...]:
    return tuple(map(id_text, values)) if isinstance(values, list) else ()


def _numpy(values: array[Any], dtype: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype=dtype)
