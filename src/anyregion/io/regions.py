"""Reads files of regions: COCO annotations, COCO results, and a detector's `{image: boxes}`."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from anyregion.errors import InputError, SetAside
from anyregion.files import read_json
from anyregion.images import SUFFIXES
from anyregion.masks import RLE, segmentation_to_rle
from anyregion.regions import Regions


@dataclass(frozen=True)
class ImageEntry:
    """One image of a region file.

    Attributes:
        key: its id, as text.
        regions: its usable regions.
        file_name: as the file states it, or None (a detector's file may know ids only).
        size: `(height, width)` as the file states it, or None.
    """

    key: str
    regions: Regions
    file_name: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class RegionFile:
    """The regions of many images.

    Attributes:
        images: by image id, as text.
        categories: `{category id: name}`; empty where the file names none.
        set_aside: regions and images that cannot be used, and why.
        digest: a hash of the file, and not of what was read of it: ids and names count too.
    """

    images: dict[str, ImageEntry]
    categories: dict[int, str] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    digest: str = ""
    # by the last part of their file names, all parts of an entry's file name, and its key
    _by_name: dict[str, list[tuple[tuple[str, ...], str]]] = field(default_factory=dict, repr=False)

    def find(self, path: str | Path) -> ImageEntry | None:
        """The entry of an image file, or None.

        By its name; a folder that the file states has to be the image's folder too, so
        `cam1/0001.jpg` is not `cam2/0001.jpg`. Where the file states no names, by its id:
        `000000000139.jpg` is `139`.

        Raises:
            InputError: only images of that name in other folders are listed, or several that fit.
        """
        full = PurePath(os.path.abspath(path))  # noqa: PTH100 (a link keeps its name)
        if same_name := self._by_name.get(full.name, []):
            matches = [(len(p), key) for p, key in same_name if full.parts[-len(p) :] == p]
            if not matches:
                names = ", ".join(sorted(str(self.images[k].file_name) for _, k in same_name)[:3])
                raise InputError(f"{path}: the region file lists {names}: another folder's image")
            # `cam1/a.jpg` before `a.jpg`: the entry that states most of the path
            longest = max(count for count, _ in matches)
            best = [self.images[key] for count, key in matches if count == longest]
            if len(best) > 1:
                raise InputError(f"{path}: the region file lists {best[0].file_name} twice")
            return best[0]
        for key in (full.name, full.stem, full.stem.lstrip("0") or "0"):
            if key in self.images and self.images[key].file_name is None:
                return self.images[key]
        return None


def load_regions(path: str | Path, *, masks: bool = False, scores: bool = True) -> RegionFile:
    """Read a file of regions; malformed ones are set aside one by one, and the rest is used.

    Its layout is one of three, recognised by the content:
        COCO annotations: `{"images": [...], "annotations": [...], "categories": [...]}`, boxes
            xywh; crowd regions are left out, for they hold many things.
        COCO results: `[{"image_id", "bbox" (xywh), "score", "category_id"}, ...]`.
        A detector's: `{image id or file name: {"boxes" (xyxy), "scores", "labels"}}`.

    A region without an id is called `#` and its position. Categories that are no whole number
    become -1. Where some regions of an image have a score, those without are set aside, and so is
    a score outside 0 to 1.

    Args:
        path: the JSON file.
        masks: also read `segmentation` (RLE and polygons) as mask prompts, where there are any.
        scores: also read scores, by which answers are multiplied.

    Raises:
        InputError: not JSON, or none of these layouts.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, (dict, list)) or content == {}:
        raise InputError(
            f"{path}: neither COCO annotations, nor COCO results, nor {{image: {{boxes: ...}}}}"
        )
    reader = _Reader(masks, scores)
    try:
        if isinstance(content, list):
            reader.group(content)
        elif isinstance(content.get("annotations"), list):
            reader.read_coco(content)
        else:
            reader.read_detector(content)
        entries = [
            ImageEntry(key, reader.regions(rows, size, name or f"image {key}"), name, size)
            for key, (name, size, rows) in reader.images.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: malformed ({type(error).__name__}: {error})") from None
    by_name: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for entry in entries:
        if entry.file_name is not None:
            parts = PurePath(entry.file_name).parts
            by_name[PurePath(entry.file_name).name].append((parts, entry.key))
    return RegionFile(
        {entry.key: entry for entry in entries},
        reader.categories,
        tuple(reader.skipped),
        f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        dict(by_name),
    )


@dataclass
class _Reader:
    """Reads the rows of one file; those that cannot be used go to `skipped`.

    Attributes:
        masks, scores: see `load_regions`.
        images: by key, each image's file name, `(height, width)` and rows, as far as stated.
    """

    masks: bool
    scores: bool
    images: dict[str, tuple[str | None, tuple[int, int] | None, list[dict[str, Any]]]] = field(
        default_factory=dict
    )
    categories: dict[int, str] = field(default_factory=dict)
    skipped: list[SetAside] = field(default_factory=list)

    def read_coco(self, content: dict[str, Any]) -> None:
        for position, image in enumerate(content["images"]):
            try:
                key, name, size = _id(image["id"]), image["file_name"], None
                if image.get("height") and image.get("width"):
                    size = int(image["height"]), int(image["width"])
                # a second entry of an id could be another image: the first one stands
                if not isinstance(name, str) or key in self.images:
                    listed = key in self.images
                    raise InputError("its id is listed twice" if listed else "no file name")
                self.images[key] = name, size, []
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                which = image.get("id", f"#{position}") if isinstance(image, dict) else position
                self.skipped.append(SetAside(f"image {which}", _reason(error)))
        self.group(content["annotations"], listed=True)
        for category in content.get("categories") or []:
            try:
                self.categories[int(category["id"])] = str(category["name"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                self.skipped.append(SetAside(f"category {str(category)[:40]}", _reason(error)))

    def group(self, rows: list[Any], *, listed: bool = False) -> None:
        """Give each row to its image, which must be `listed` already, or is listed by it."""
        for position, row in enumerate(rows):
            if not isinstance(row, dict):
                reason = f"not an object: {row!r:.40}"
                self.skipped.append(SetAside(f"region #{position}", reason))
                continue
            number = row.get("id")
            row = {**row, "id": f"#{position}" if number is None else number}
            key = _id(row.get("image_id"))
            if listed and key not in self.images:
                self.skipped.append(SetAside(f"region {row['id']}", f"unknown image id {key}"))
            elif not listed and "image_id" not in row:
                self.skipped.append(SetAside(f"region {row['id']}", "no image_id"))
            elif not (listed and row.get("iscrowd")):
                self.images.setdefault(key, (None, None, []))[2].append(row)

    def read_detector(self, content: dict[str, Any]) -> None:
        for key, detections in content.items():
            try:
                boxes = detections["boxes"]
                scores, labels = (
                    [None] * len(boxes) if detections.get(name) is None else detections[name]
                    for name in ("scores", "labels")
                )
                if not len(boxes) == len(scores) == len(labels):
                    raise InputError("boxes, scores and labels differ in number")
            except (KeyError, TypeError, AttributeError, InputError) as error:
                self.skipped.append(SetAside(f"image {key}", _reason(error)))
                continue
            rows = [
                {"id": i, "xyxy": box, "score": score, "category_id": label}
                for i, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True))
            ]
            # keys are file names or image ids; ids are told from names by the missing suffix
            name = key if PurePath(key).suffix.lower() in SUFFIXES else None
            self.images[key] = name, None, rows

    def regions(
        self, rows: list[dict[str, Any]], size: tuple[int, int] | None, image: str
    ) -> Regions:
        """The usable rows of one image; each other is set aside."""
        scored = self.scores and any(row.get("score") is not None for row in rows)
        usable: list[dict[str, Any]] = []
        categories: list[int] = []
        for row in rows:
            try:
                values: Any = row["xyxy"] if "xyxy" in row else row.get("bbox")
                try:
                    x, y, c, d = (float(v) for v in values)
                except (TypeError, ValueError, OverflowError):
                    raise InputError(f"box {values!r:.80} is not four numbers") from None
                prompt = {
                    "boxes": [x, y, c, d] if "xyxy" in row else [x, y, x + c, y + d],
                    "masks": _mask(row["segmentation"], size)
                    if self.masks and row.get("segmentation")
                    else None,
                    "ids": row["id"],
                }
                if scored:
                    _check_score(row.get("score"))
                # each region is built alone first, so that only the faulty one is left out
                Regions.from_prompts(**{name: [value] for name, value in prompt.items()})
            except (InputError, TypeError, ValueError, OverflowError) as error:
                self.skipped.append(SetAside(f"{image}, region {row['id']}", _reason(error)))
            else:
                # `3`, `3.0` and `"3"` are 3; what is no whole number, or missing, is -1
                category: Any = row.get("category_id")
                try:
                    number = int(category)
                    whole = (number == category or str(number) == category) and number < 2**63
                except (TypeError, ValueError, OverflowError):
                    number, whole = -1, False
                categories.append(number if whole and number >= 0 else -1)
                usable.append({**prompt, "scores": row.get("score")})
        columns = {name: [row[name] for row in usable] for name in ("boxes", "masks", "ids")}
        return Regions.from_prompts(
            **columns,
            scores=[row["scores"] for row in usable] if scored else None,
            # a detector without classes states none, or -1 throughout
            categories=categories if any(c >= 0 for c in categories) else None,
        )


def _id(value: Any) -> str:
    """An image id as text: 1 and 1.0 are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_score(score: Any) -> None:
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise InputError(f"score {score!r} is not a number from 0 to 1")


def _mask(segmentation: Any, size: tuple[int, int] | None) -> RLE:
    # RLE brings the size of its image, polygons do not
    if size is None and isinstance(segmentation, dict):
        height, width = segmentation["size"]
        size = (height, width)
    if size is None:
        raise InputError("polygons need the image's height and width")
    return segmentation_to_rle(segmentation, *size)


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"malformed ({type(error).__name__}: {error})"
