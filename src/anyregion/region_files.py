"""Files of regions: COCO annotations, COCO results, and a detector's `{image: boxes}`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from anyregion.errors import InputError, SetAside
from anyregion.files import read_json
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
    """

    images: dict[str, ImageEntry]
    categories: dict[int, str] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    _by_name: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def find(self, path: str | Path) -> ImageEntry | None:
        """The entry of an image file, or None.

        By its name, and of several entries so called by the longest matching tail of the path;
        where the file states no names, by its id: `000000000139.jpg` is `139`.

        Raises:
            InputError: several entries match equally well.
        """
        pure = PurePath(path)
        same = self._by_name.get(pure.name, [])
        if same:
            tails = {key: _common_tail(pure, self.images[key].file_name or "") for key in same}
            best = [key for key in same if tails[key] == max(tails.values())]
            if len(best) > 1:
                raise InputError(f"{path}: images {best} of the region file are all called so")
            return self.images[best[0]]
        for key in (pure.name, pure.stem, pure.stem.lstrip("0")):
            if key in self.images and self.images[key].file_name is None:
                return self.images[key]
        return None


def load_regions(path: str | Path, *, masks: bool = False) -> RegionFile:
    """Read a file of regions; what is malformed is set aside, one by one, and the rest is kept.

    Three layouts are told apart by their content:
        COCO annotations: `{"images": [...], "annotations": [...], "categories": [...]}`, boxes
            xywh; crowd regions are left out, for they hold many things.
        COCO results: `[{"image_id", "bbox" (xywh), "score", "category_id"}, ...]`.
        A detector's: `{image id or file name: {"boxes" (xyxy), "scores", "labels"}}`.

    Args:
        path: the JSON file.
        masks: also read `segmentation` (RLE and polygons) as mask prompts, where there are any.

    Raises:
        InputError: not JSON, or none of these layouts.
    """
    path = Path(path)
    content = read_json(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _from_coco(content, masks)
        if isinstance(content, list):
            return _from_results(content, masks)
        if isinstance(content, dict) and content:
            return _from_detector(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: malformed ({type(error).__name__}: {error})") from None
    raise InputError(
        f"{path}: neither COCO annotations, nor COCO results, nor {{image: {{boxes: ...}}}}"
    )


def _from_coco(content: dict[str, Any], masks: bool) -> RegionFile:
    aside: list[SetAside] = []
    listed: dict[str, dict[str, Any]] = {}
    for image in content["images"]:
        if listed.setdefault(str(image["id"]), image) is not image:
            aside.append(SetAside(f"image {image['id']}", "its id is listed twice"))
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        key = str(annotation["image_id"])
        if key not in listed:
            aside.append(SetAside(f"region {annotation.get('id')}", f"unknown image id {key}"))
        elif not annotation.get("iscrowd"):
            rows[key].append(annotation)
    images: dict[str, ImageEntry] = {}
    by_name: dict[str, list[str]] = defaultdict(list)
    for key, image in listed.items():
        name = str(image["file_name"])
        size = None
        if image.get("height") and image.get("width"):
            size = (int(image["height"]), int(image["width"]))
        images[key] = ImageEntry(key, _regions(rows[key], size, masks, name, aside), name, size)
        by_name[PurePath(name).name].append(key)
    names = {int(c["id"]): str(c["name"]) for c in content.get("categories", [])}
    return RegionFile(images, names, tuple(aside), dict(by_name))


def _from_results(content: list[Any], masks: bool) -> RegionFile:
    aside: list[SetAside] = []
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for position, result in enumerate(content):
        rows[str(result["image_id"])].append({"id": position, **result})
    images = {
        key: ImageEntry(key, _regions(found, None, masks, f"image {key}", aside))
        for key, found in rows.items()
    }
    return RegionFile(images, {}, tuple(aside))


def _from_detector(content: dict[str, Any]) -> RegionFile:
    aside: list[SetAside] = []
    images: dict[str, ImageEntry] = {}
    for key, found in content.items():
        boxes = found["boxes"]
        scores = found.get("scores") or [None] * len(boxes)
        labels = found.get("labels") or [None] * len(boxes)
        if not len(boxes) == len(scores) == len(labels):
            aside.append(SetAside(f"image {key}", "boxes, scores and labels differ in number"))
            continue
        rows = [
            {"id": i, "xyxy": box, "score": score, "category_id": label}
            for i, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True))
        ]
        images[str(key)] = ImageEntry(str(key), _regions(rows, None, False, f"image {key}", aside))
    return RegionFile(images, {}, tuple(aside))


def _regions(
    rows: Iterable[dict[str, Any]],
    size: tuple[int, int] | None,
    masks: bool,
    where: str,
    aside: list[SetAside],
) -> Regions:
    """The usable rows of one image; each other is added to `aside`."""
    boxes: list[list[float]] = []
    codes: list[RLE | None] = []
    kept: list[dict[str, Any]] = []
    for row in rows:
        try:
            box = _xyxy(row)
            rle = _row_mask(row, size) if masks and row.get("segmentation") else None
            # one region is built alone, so that its own error is reported and no other falls
            Regions.from_prompts(boxes=[box], masks=[rle], ids=[row["id"]])
        except InputError as error:
            aside.append(SetAside(f"{where}, region {row.get('id')}", str(error)))
            continue
        boxes.append(box)
        codes.append(rle)
        kept.append(row)
    scores: list[Any] = [row.get("score") for row in kept]
    labels: list[Any] = [row.get("category_id") for row in kept]
    return Regions.from_prompts(
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        masks=codes,
        ids=[row["id"] for row in kept],
        scores=None if None in scores or not kept else scores,
        categories=None if not all(isinstance(c, int) for c in labels) or not kept else labels,
    )


def _xyxy(row: dict[str, Any]) -> list[float]:
    values = row["xyxy"] if "xyxy" in row else row.get("bbox")
    try:
        a, b, c, d = (float(v) for v in values)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise InputError(f"box {values!r} is not four numbers") from None
    return [a, b, c, d] if "xyxy" in row else [a, b, a + c, b + d]


def _row_mask(row: dict[str, Any], size: tuple[int, int] | None) -> RLE:
    segmentation = row["segmentation"]
    if size is None and isinstance(segmentation, dict):
        height, width = segmentation["size"]
        size = (int(height), int(width))
    if size is None:
        raise InputError("polygons need the image's height and width")
    return segmentation_to_rle(segmentation, *size)


def _common_tail(path: PurePath, name: str) -> int:
    count = 0
    for a, b in zip(reversed(path.parts), reversed(PurePath(name).parts), strict=False):
        if a != b:
            break
        count += 1
    return count
