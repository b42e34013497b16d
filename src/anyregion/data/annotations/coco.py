"""Reader of COCO-format JSON, as LVIS, Objects365, OpenImages, V3Det and ODinW write it too; as
regions to name also of COCO results, and of a detector's `{image: {"boxes", "scores", "labels"}}`.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from anyregion.data.annotations.builder import (
    GROUP_OF_CLASSES,
    MALFORMED_ROWS,
    AnnotationRecords,
    CategoryRecord,
    ImageRecord,
    RegionColumns,
)
from anyregion.data.annotations.conventions import check_boxes
from anyregion.data.annotations.layouts import READABLE, describe_file, describe_json
from anyregion.data.annotations.report import Findings
from anyregion.errors import InputError
from anyregion.files import name_parts, read_json
from anyregion.images import SUFFIXES
from anyregion.masks import mask_area, mask_box, rle_size, segmentation_to_rle

# OpenImages' mark of a box around many things, as converters spell it
_GROUP = ("isgroupof", "IsGroupOf", "is_group_of")
_LISTS = ("images", "annotations", "categories")


def read_coco(
    path: Path, *, masks: bool = False, prompts: bool = False, images: Path | None = None
) -> AnnotationRecords:
    """Read one file; see `read_annotations`.

    Args:
        path: the file.
        masks: also read the segmentations.
        prompts: read what `load_regions` needs: ids and scores as they are stated, also of COCO
            results and of annotations without categories; a region needs no category.
        images: of COCO results the COCO file that lists their images, with names and sizes.
    """
    rows = Rows(masks, prompts)
    return coco_records(path, read_content(path, rows), rows, images=images)


def coco_records(
    path: Path, content: Any, rows: Rows, *, images: Path | None = None
) -> AnnotationRecords:
    """The records of a file's JSON, which was parsed into `rows`; see `read_coco`."""
    prompts = rows.prompts
    findings = Findings()
    lists: dict[str, list[Any]] | None = None
    if prompts and isinstance(content, list):
        if content and not any(type(e) is _Row for e in content) and describe_json(content):
            raise InputError(f"{path}: {describe_json(content)}; {READABLE}")
        regions = rows.columns(content, findings)
        # 7 and "7" are one
        # a mask says how large its image is, where nothing else does
        sizes: dict[str, tuple[int, int]] = {}
        for row, size in regions.mask_sizes.items():
            sizes.setdefault(regions.image_keys[regions.images[row]], size)
        listed = [
            ImageRecord(key, None, sizes.get(key, (-1, -1)))
            for key in dict.fromkeys(regions.image_keys)
        ]
    elif prompts and not (isinstance(content, dict) and {"images", "annotations"} & content.keys()):
        regions, listed = _read_detector(path, content, findings)
    elif images is not None:
        raise InputError(
            f"{path} lists its images itself: {images} is for COCO results, not for it"
        )
    else:
        lists = _lists(path, content, needed=_LISTS[:2] if prompts else _LISTS)
        regions = rows.columns(lists["annotations"], findings)
    if images is not None:
        lists = _lists(images, read_content(images, Rows(False, True)), needed=_LISTS[:1])
        ids = {id_text(e["id"]) for e in lists["images"] if isinstance(e, dict) and "id" in e}
        if regions.image_keys and not ids & set(regions.image_keys):
            some = f"{regions.image_keys[0]}, for one; there {min(ids, default='none')}"
            raise InputError(f"{path}: none of its image ids is listed in {images} ({some})")
    if lists is None:
        regions = _leave_out_other_sizes(regions, listed, findings)
        check_boxes(path, regions, listed, findings=findings)
        return AnnotationRecords(listed, [], regions, findings)
    # a class without regions may be the exporter's name of the group of classes
    used = {regions.category_keys[i] for i in np.unique(regions.categories)}
    records = list(_images(lists["images"], findings))
    regions = _leave_out_other_sizes(regions, records, findings)
    check_boxes(path, regions, records, findings=findings)
    return AnnotationRecords(
        records,
        list(_categories(lists["categories"], used, findings)),
        regions,
        findings,
    )


def read_content(path: Path, rows: Rows | None = None) -> Any:
    """The JSON of a file, with rows in place of its regions; another format is named."""
    try:
        return read_json(path, object_hook=None if rows is None else rows.add)
    except InputError:
        if layout := describe_file(path):
            raise InputError(f"{path}: {layout}; {READABLE}") from None
        raise


def _lists(path: Path, content: Any, *, needed: Iterable[str] = _LISTS) -> dict[str, list[Any]]:
    lists: dict[str, list[Any]] = {name: [] for name in _LISTS}
    complete = isinstance(content, dict) and all(isinstance(content.get(n), list) for n in needed)
    if not complete and (layout := describe_json(content)):
        raise InputError(f"{path}: {layout}; {READABLE}")
    if not isinstance(content, dict):
        kind = "no COCO file"
        if isinstance(content, list):
            kind = "COCO results, not annotations (as regions, --annotations names their images)"
        raise InputError(f"{path}: {kind}: an object with images and annotations is needed")
    for name in {*needed, *(name for name in _LISTS if content.get(name) is not None)}:
        value = content.get(name)
        if not isinstance(value, list):
            fault = "is not a list" if name in content else "is missing"
            if isinstance(value, dict):
                fault += " but an object"
            has = '[{"id": 1, "name": "cat"}, ...]' if name == "categories" else "[{...}, ...]"
            raise InputError(f"{path}: {name!r} {fault}; COCO annotations have it: {has}")
        lists[name] = value
    return lists


class _Row(int):
    """The row of a region in the columns; stands for it in the parsed file."""

    __slots__ = ()


@dataclass(eq=False)
class Rows:
    """Columns of regions, filled while the JSON is parsed: no million objects ever exist."""

    masks: bool
    prompts: bool
    # arrays of numbers: a list would hold an object of 24 to 32 bytes for each
    boxes: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    images: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    ids: array[int] = field(default_factory=lambda: array("q"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    has_id: array[int] = field(default_factory=lambda: array("b"))
    segmentations: list[Any] = field(default_factory=list)
    stated_ids: list[Any] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    sides: array[float] = field(default_factory=lambda: array("d"))
    mask_sizes: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    image_codes: dict[Hashable, int] = field(default_factory=dict)
    category_codes: dict[Hashable, int] = field(default_factory=dict)

    def add(self, entry: dict[str, Any]) -> Any:
        """For `json.loads(object_hook=...)`: a region becomes a row, all else stays as it is."""
        if "image_id" not in entry or not ("bbox" in entry or "segmentation" in entry):
            return entry
        category = entry.get("category_id")
        if self.prompts and not isinstance(category, Hashable):
            category = None
        try:
            values = entry.get("bbox")
            # masks alone are regions too, as COCO's own `loadRes` takes them
            if not values and entry.get("segmentation"):
                x, y, width, height = _mask_box(entry["segmentation"])
            else:
                # "1234" is not four numbers
                x, y, width, height = map(float, values if isinstance(values, list) else ())
            if not (self.prompts or "category_id" in entry):
                return entry
            # -1 is OpenImages' "not known"
            marks = [int(entry.get(key) or 0) for key in ("iscrowd", *_GROUP)]
            crowd = marks[0] != 0 or max(marks) > 0
            image = self.image_codes.setdefault(entry["image_id"], len(self.image_codes))
            code = self.category_codes.setdefault(category, len(self.category_codes))
        except (TypeError, ValueError, OverflowError):
            return entry  # reported with its place in the file, in `columns`
        try:
            area = float(entry.get("area") or "nan")
        except (TypeError, ValueError, OverflowError):
            area = float("nan")
        if not values and isinstance(entry.get("segmentation"), dict):
            self.mask_sizes[len(self.images)] = rle_size(entry["segmentation"])
        number = whole_number(entry.get("id"))
        self.boxes.extend((x, y, x + width, y + height))
        self.images.append(image)
        self.categories.append(code)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.ids.append(0 if number is None else number)
        self.has_id.append(number is not None)
        if self.masks:
            self.segmentations.append(entry.get("segmentation"))
        if self.prompts:
            self.stated_ids.append(entry.get("id"))
            self.scores.append(entry.get("score"))
            self.sides.extend((width, height))
        return _Row(len(self.images) - 1)

    def columns(self, entries: list[Any], findings: Findings) -> RegionColumns:
        """The rows among `entries`; those that are none are reported."""
        # objects elsewhere in the file that look like regions became rows, and are left out here
        rows = np.fromiter((e for e in entries if type(e) is _Row), dtype=np.int64)  # (R,)
        if len(rows) != len(entries):
            for position, entry in enumerate(entries):
                if type(entry) is not _Row:
                    findings.add(MALFORMED_ROWS, f"annotation #{position}", _fault(entry))
        stated_ids: list[Any] | None = None
        if self.prompts:
            positions = (i for i, entry in enumerate(entries) if type(entry) is _Row)
            stated_ids = [
                _stated_id(self.stated_ids[row], i)
                for i, row in zip(positions, rows.tolist(), strict=True)
            ]
        return RegionColumns(
            image_keys=[id_text(value) for value in self.image_codes],
            category_keys=[id_text(value) for value in self.category_codes],
            images=np.array(self.images, dtype=np.int64)[rows],
            categories=np.array(self.categories, dtype=np.int64)[rows],
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4)[rows],
            crowd=np.array(self.crowd, dtype=bool)[rows],
            areas=np.array(self.areas, dtype=np.float64)[rows],
            ids=np.array(self.ids, dtype=np.int64)[rows],
            has_id=np.array(self.has_id, dtype=bool)[rows],
            segmentations=[self.segmentations[row] for row in rows] if self.masks else None,
            stated_ids=stated_ids,
            scores=[self.scores[row] for row in rows] if self.prompts else None,
            sides=np.array(self.sides, dtype=np.float64).reshape(-1, 2)[rows]
            if self.prompts
            else None,
            mask_sizes={
                place: self.mask_sizes[row]
                for place, row in enumerate(rows.tolist() if self.mask_sizes else ())
                if row in self.mask_sizes
            },
        )


def _leave_out_other_sizes(
    regions: RegionColumns, images: Iterable[ImageRecord], findings: Findings
) -> RegionColumns:
    """Leave out regions whose box is that of a mask of another size than the image: it is a box of
    another picture."""
    size_of = {image.key: image.size for image in images if min(image.size) > 0}
    keep = np.ones(len(regions.images), dtype=bool)  # (R,)
    for position, size in regions.mask_sizes.items():
        stated = size_of.get(regions.image_keys[regions.images[position]])
        if stated is not None and size != stated:
            keep[position] = False
            region = f"region {regions.ids[position]}" if regions.has_id[position] else "a region"
            reason = f"mask of size {list(size)}, but the image is {list(stated)}"
            findings.add(MALFORMED_ROWS, f"{region} #{position}", reason)
    return regions if keep.all() else regions.select(np.flatnonzero(keep))


def id_text(value: Any) -> str:
    """An id as text: 1, 1.0 and "1" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def whole_number(value: Any) -> int | None:
    """`3`, `3.0` and `"3"` are 3; None for what is no whole number of 62 bits."""
    try:
        number = int(value)
        same = number == value or str(number) == value
    except (TypeError, ValueError, OverflowError):
        return None
    return number if same and abs(number) < 2**62 else None


def _stated_id(value: Any, position: int) -> int | str:
    """What a region is called: its id, or its place where it has none that is a number or text."""
    number = whole_number(value)
    if isinstance(value, (str, int)):
        return value
    return f"#{position}" if number is None else number


def _mask_box(segmentation: Any) -> tuple[float, float, float, float]:
    """The box of a mask, as COCO has it: x, y, width, height. Polygons need no image for it."""
    if isinstance(segmentation, dict):
        rle = segmentation_to_rle(segmentation, *rle_size(segmentation))
        if not mask_area(rle):
            raise InputError("the mask is empty")
        x0, y0, x1, y1 = mask_box(rle).tolist()
    else:
        # (P, 2) points of all polygons
        points = np.concatenate(
            [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        )
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1 - x0, y1 - y0


def _images(entries: list[Any], findings: Findings) -> Iterator[ImageRecord]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("id") is None:
            fault = "no id" if isinstance(entry, dict) else f"not an object: {entry!r:.40}"
            findings.add(MALFORMED_ROWS, f"image #{position}", fault)
            continue
        # LVIS v1 has only `coco_url`, whose folder says which part of COCO the image is in
        names = (entry.get("file_name"), entry.get("coco_url"))
        name = next((n for n in names if isinstance(n, str) and n.strip()), None)
        if name is not None and name != names[0]:
            name = "/".join(name_parts(name)[-2:]) or None
        sides = [whole_number(entry.get(side)) for side in ("height", "width")]
        height, width = (-1 if s is None or not 0 < s < 2**31 else s for s in sides)
        lists = (entry.get("neg_category_ids"), entry.get("not_exhaustive_category_ids"))
        negatives, partial = (
            tuple(map(id_text, keys)) if isinstance(keys, list) else () for keys in lists
        )
        yield ImageRecord(id_text(entry["id"]), name or "", (height, width), negatives, partial)


def _categories(entries: list[Any], used: set[str], findings: Findings) -> Iterator[CategoryRecord]:
    objects = [entry for entry in entries if isinstance(entry, dict)]
    groups = {str(e["supercategory"]) for e in objects if e.get("supercategory")}
    for position, entry in enumerate(entries):
        number = whole_number(entry.get("id")) if isinstance(entry, dict) else None
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


def _read_detector(
    path: Path, content: Any, findings: Findings
) -> tuple[RegionColumns, list[ImageRecord]]:
    """Read boxes by image, xyxy; a row is called by its position in its image.

    Raises:
        InputError: JSON of another layout, which is named where it is known.
    """
    if layout := describe_json(content):
        raise InputError(f"{path}: {layout}; {READABLE}")
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: neither COCO annotations, nor COCO results, nor {{image: {{boxes: ...}}}}"
        )
    images: list[ImageRecord] = []
    category_codes: dict[str, int] = {}
    owners: list[int] = []
    labels: list[int] = []
    boxes: list[list[float]] = []
    ids: list[int] = []
    scores: list[Any] = []
    for key, detections in content.items():
        try:
            entries = detections["boxes"]
            image_scores, image_labels = (
                [None] * len(entries) if detections.get(name) is None else detections[name]
                for name in ("scores", "labels")
            )
            if not all(isinstance(v, list) for v in (entries, image_scores, image_labels)):
                raise InputError("boxes, scores and labels have to be lists")
            if not len(entries) == len(image_scores) == len(image_labels):
                raise InputError("boxes, scores and labels differ in number")
        except InputError as error:
            findings.add(MALFORMED_ROWS, f"image {key}", str(error))
            continue
        except (KeyError, TypeError, AttributeError):
            reason = f'malformed: not {{"boxes": [[x0, y0, x1, y1], ...]}} but {detections!r:.60}'
            findings.add(MALFORMED_ROWS, f"image {key}", reason)
            continue
        for i, values in enumerate(entries):
            try:
                if isinstance(values, str):
                    raise TypeError
                x0, y0, x1, y1 = map(float, values)
            except (TypeError, ValueError, OverflowError):
                reason = f"box {values!r:.80} is not four numbers"
                findings.add(MALFORMED_ROWS, f"{key}, region {i}", reason)
                continue
            label = id_text(image_labels[i])
            labels.append(category_codes.setdefault(label, len(category_codes)))
            owners.append(len(images))
            boxes.append([x0, y0, x1, y1])
            ids.append(i)
            scores.append(image_scores[i])
        # keys are file names or image ids; ids are told from names by the missing suffix
        is_name = PurePath(key).suffix.lower() in SUFFIXES
        images.append(ImageRecord(key, key if is_name else None))
    if not images:
        fault = findings.list()[0].examples[0]
        raise InputError(
            f"{path}: neither COCO annotations, nor COCO results, nor {{image: {{boxes: ...}}}} "
            f"({fault})"
        )
    count = len(boxes)
    columns = RegionColumns(
        image_keys=[image.key for image in images],
        category_keys=list(category_codes),
        images=np.array(owners, dtype=np.int64),
        categories=np.array(labels, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        crowd=np.zeros(count, dtype=bool),
        areas=np.full(count, np.nan),
        ids=np.array(ids, dtype=np.int64),
        has_id=np.ones(count, dtype=bool),
        stated_ids=ids,
        scores=scores,
        corners=True,
        ids_by_image=True,
    )
    return columns, images


def _fault(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"not an object: {entry!r:.40}"
    where = f"region {entry.get('id')}: " if "id" in entry else ""
    missing = [name for name in ("image_id", "bbox", "category_id") if name not in entry]
    if entry.get("segmentation") and not entry.get("bbox") and "image_id" in entry:
        # its box is the mask's
        try:
            _mask_box(entry["segmentation"])
            missing = [name for name in missing if name != "bbox"]
        except (TypeError, ValueError, OverflowError) as error:
            return f"{where}no bbox, and no box of its segmentation ({error})"
    if missing:
        return f"{where}no {', '.join(missing)}"
    values = entry.get("bbox")
    try:
        _, _, _, _ = map(float, values if isinstance(values, list) else ())
    except (TypeError, ValueError, OverflowError):
        return f"{where}bbox {values!r:.80} is not four numbers"
    keys = ("image_id", "category_id", "iscrowd", *(key for key in _GROUP if key in entry))
    return where + ", ".join(f"{key} {entry.get(key)!r:.40}" for key in keys)
