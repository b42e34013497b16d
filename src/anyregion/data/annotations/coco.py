"""Reader of COCO-format JSON, as LVIS, Objects365, OpenImages, V3Det and ODinW write it too."""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.builder import (
    GROUP_OF_CLASSES,
    MALFORMED_ROWS,
    CategoryRecord,
    ImageRecord,
    RegionColumns,
    build_annotations,
)
from anyregion.data.annotations.report import Findings
from anyregion.errors import InputError
from anyregion.files import read_json, read_text


def read_coco(path: Path, *, masks: bool = False, clip: bool = True) -> Annotations:
    """Read one file; see `read_annotations`."""
    rows = _Rows(masks)
    content = _parse(path, rows)
    if not isinstance(content, dict):
        kind = "COCO results, not annotations" if isinstance(content, list) else "no COCO file"
        raise InputError(f"{path}: {kind}: an object with images and annotations is needed")
    lists: dict[str, list[Any]] = {}
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            fault = "is missing" if name not in content else "is not a list"
            raise InputError(f"{path}: {name!r} {fault}; COCO annotations have it")
        lists[name] = content[name]
    findings = Findings()
    regions = rows.columns(lists["annotations"], findings)
    # a class without regions may be the exporter's name of the group of classes
    used = {regions.category_keys[i] for i in np.unique(regions.categories)}
    return build_annotations(
        _images(lists["images"], findings),
        _categories(lists["categories"], used, findings),
        regions,
        findings,
        clip=clip,
    )


class _Row(int):
    """The row of a region in the columns; stands for it in the parsed file."""

    __slots__ = ()


class _Rows:
    """Columns of regions, filled while the JSON is parsed: no million objects ever exist."""

    def __init__(self, masks: bool) -> None:
        # arrays of numbers: a list would hold an object of 24 to 32 bytes for each
        self.boxes, self.areas = array("d"), array("d")
        self.images, self.categories, self.ids = array("q"), array("q"), array("q")
        self.crowd, self.has_id = array("b"), array("b")
        self.segmentations: list[Any] | None = [] if masks else None
        self.image_codes: dict[Hashable, int] = {}
        self.category_codes: dict[Hashable, int] = {}

    def add(self, entry: dict[str, Any]) -> Any:
        """For `json.loads(object_hook=...)`: a region becomes a row, all else stays as it is."""
        if "image_id" not in entry or "bbox" not in entry:
            return entry
        try:
            if isinstance(entry["bbox"], str):  # "1234" is not four numbers
                return entry
            x, y, width, height = map(float, entry["bbox"])
            image = self.image_codes.setdefault(entry["image_id"], len(self.image_codes))
            category = self.category_codes.setdefault(
                entry["category_id"], len(self.category_codes)
            )
            area = entry.get("area")
            area = float("nan") if area is None else float(area)
            crowd = bool(int(entry.get("iscrowd") or 0) or _is_group(entry))
            number = _to_int(entry.get("id"))
        except (KeyError, TypeError, ValueError, OverflowError):
            return entry  # reported with its place in the file, in `columns`
        self.boxes.extend((x, y, x + width, y + height))
        self.images.append(image)
        self.categories.append(category)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.ids.append(0 if number is None else number)
        self.has_id.append(number is not None)
        if self.segmentations is not None:
            self.segmentations.append(entry.get("segmentation"))
        return _Row(len(self.images) - 1)

    def columns(self, entries: list[Any], findings: Findings) -> RegionColumns:
        """The rows that stand under `annotations`; what is there and is no row is reported."""
        # objects elsewhere in the file that look like regions became rows, and are left out here
        rows = np.fromiter((e for e in entries if type(e) is _Row), dtype=np.int64)  # (R,)
        if len(rows) != len(entries):
            for position, entry in enumerate(entries):
                if type(entry) is not _Row:
                    findings.add(MALFORMED_ROWS, f"annotation #{position}", _fault(entry))
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
        return json.loads(read_text(path), object_hook=rows.add)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        # parsed once more for the error that names the line
        read_json(path)
        raise


def _images(entries: list[Any], findings: Findings) -> Iterator[ImageRecord]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("id") is None:
            fault = "no id" if isinstance(entry, dict) else f"not an object: {entry!r:.40}"
            findings.add(MALFORMED_ROWS, f"image #{position}", fault)
            continue
        yield ImageRecord(
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


def _categories(entries: list[Any], used: set[str], findings: Findings) -> Iterator[CategoryRecord]:
    objects = [entry for entry in entries if isinstance(entry, dict)]
    groups = {str(e["supercategory"]) for e in objects if e.get("supercategory")}
    for position, entry in enumerate(entries):
        number = _to_int(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            fault = f"not an object with a whole number as id and a name: {entry!r:.60}"
            findings.add(MALFORMED_ROWS, f"category #{position}", fault)
            continue
        key, name = str(number), entry["name"]
        # Roboflow's exports, of which ODinW is made, begin with the group's own name
        above = str(entry.get("supercategory") or "none").casefold()
        if above == "none" and name in groups and key not in used:
            findings.add(GROUP_OF_CLASSES, f"category {key} {name!r}", "no class")
            continue
        synonyms = entry.get("synonyms")
        frequency = entry.get("frequency")
        yield CategoryRecord(
            key=key,
            id=number,
            name=name,
            synonyms=tuple(map(str, synonyms)) if isinstance(synonyms, list) else (),
            frequency=frequency if isinstance(frequency, str) else "",
        )


def _fault(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"not an object: {entry!r:.40}"
    missing = [name for name in ("image_id", "bbox", "category_id") if name not in entry]
    where = f"region {entry.get('id')}: " if "id" in entry else ""
    if missing:
        return f"{where}no {', '.join(missing)}"
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd", "id")
    return where + ", ".join(f"{key} {entry.get(key)!r:.40}" for key in keys)


def _is_group(entry: dict[str, Any]) -> Any:
    """OpenImages' mark of a box around many things, as converters spell it."""
    return entry.get("isgroupof") or entry.get("IsGroupOf") or entry.get("is_group_of")


def _to_int(value: Any) -> int | None:
    """`3`, `3.0` and `"3"` are 3; None for what is no whole number of 62 bits."""
    try:
        number = int(value)
        same = number == value or str(number) == value
    except (TypeError, ValueError, OverflowError):
        return None
    return number if same and abs(number) < 2**62 else None


def _side(value: Any) -> int:
    """A height or width; -1 where none can be made of what is stated."""
    number = _to_int(value)
    return number if number is not None and 0 < number < 2**31 else -1


def _keys(values: Any) -> tuple[str, ...]:
    return tuple(map(id_text, values)) if isinstance(values, list) else ()


def _numpy(values: array[Any], dtype: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype=dtype)
