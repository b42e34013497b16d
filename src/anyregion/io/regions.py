"""Reads files of regions to name: annotations in any layout, COCO results, a detector's boxes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.builder import (
    IMAGE_ID_TWICE,
    IMAGE_WITHOUT_NAME,
    MALFORMED_ROWS,
    REGION_ID_TWICE,
    UNKNOWN_IMAGE,
    RegionColumns,
)
from anyregion.data.annotations.coco import whole_number
from anyregion.data.annotations.openimages import WITHOUT_SIZE
from anyregion.data.annotations.reading import Layout, read_records
from anyregion.data.annotations.report import Findings, skipped_items
from anyregion.errors import InputError, SetAside
from anyregion.files import name_parts, shared_tail
from anyregion.masks import RLE, rle_size, segmentation_to_rle
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
        set_aside: regions and images that cannot be used, and why; of very many of a kind the first
            100, and how many others.
        digest: a hash of the file: ids and names count too.
    """

    images: dict[str, ImageEntry]
    categories: dict[int, str] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    digest: str = ""
    # by the last part of their file names (what all spellings have in common), all parts of an
    # entry's file name, and its key
    _by_name: dict[str, list[tuple[tuple[str, ...], str]]] = field(default_factory=dict, repr=False)

    def find(self, path: str | Path, *, root: str | Path | None = None) -> ImageEntry | None:
        """The entry of an image file, or None.

        By its name, however it is spelled (see `name_parts`); a folder that the file states has to
        be the image's folder too, so `cam1/0001.jpg` is not `cam2/0001.jpg`. Where the file states
        no names, by its id: `000000000139.jpg` is `139`.

        Args:
            path: the image.
            root: the folder that holds the images: folders that the file states above it are those
                of another machine, and may be called otherwise. But a file that is at the stated
                place beside `root` is the one that is meant.

        Raises:
            InputError: only images of that name in other folders are listed, or several that fit.
        """
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 (a link keeps its name)
        full = name_parts(str(absolute), alike=True)
        if same_name := self._by_name.get(full[-1], []):
            below = 0 if root is None else len(full) - len(name_parts(os.path.abspath(root)))  # noqa: PTH100
            # of each that fits: how many parts agree, whether the spelling does, and its key
            matches: list[tuple[int, bool, str]] = []
            for parts, key in same_name:
                agree = shared_tail(parts, full)
                stated = name_parts(str(self.images[key].file_name))
                beside = absolute.parents[below].joinpath(*stated[-below - 1 :])
                if agree == len(parts) or (
                    0 < below <= agree and (beside == absolute or not beside.is_file())
                ):
                    matches.append((agree, stated[-1] == absolute.name, key))
            if not matches:
                names = ", ".join(sorted(str(self.images[k].file_name) for _, k in same_name)[:3])
                raise InputError(f"{path}: the region file lists {names}: another folder's image")
            # `cam1/a.jpg` before `a.jpg`: the entry that states most of the path
            best = [key for *rank, key in matches if rank == list(max(matches)[:2])]
            if len(best) > 1:
                names = " and ".join(sorted({str(self.images[k].file_name) for k in best})[:3])
                times = "twice" if " and " not in names else "and each could be it"
                raise InputError(f"{path}: the region file lists {names} {times}")
            return self.images[best[0]]
        stem = full[-1].rpartition(".")[0] or full[-1]
        for key in (absolute.name, absolute.stem, stem, stem.lstrip("0") or "0"):
            if key in self.images and self.images[key].file_name is None:
                return self.images[key]
        return None


def load_regions(
    path: str | Path,
    *,
    masks: bool = False,
    scores: bool = True,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    layout: Layout = "auto",
) -> RegionFile:
    """Read a file of regions; malformed ones are set aside one by one, and the rest is used.

    What `read_annotations` reads is read by the same rules; crowd regions are left out, for they
    hold many things. Of JSON, the layout is recognised by the content; beside those of
    `read_annotations`:
        COCO annotations: `{"images": [...], "annotations": [...], "categories": [...]}`, boxes
            xywh; also LVIS and the others.
        COCO results: `[{"image_id", "bbox" (xywh), "score", "category_id"}, ...]`; of masks alone
            (`segmentation`, no `bbox`) the box is the mask's.
        A detector's: `{image id or file name: {"boxes" (xyxy), "scores", "labels"}}`.

    A region without an id is called `#` and its position. Categories that are no whole number
    become -1. Where some regions of an image have a score, those without are set aside, and so is
    a score outside 0 to 1.

    Args:
        path: the file or folder.
        masks: also read `segmentation` (RLE and polygons) as mask prompts, where there are any.
        scores: also read scores, by which answers are multiplied.
        annotations: of COCO results or a detector's boxes by id, the COCO file that lists their
            images: names and sizes.
        images: the folder of the images, for what only they tell (see `read_annotations`).
        layout: as for `read_annotations`; `auto` goes by the content.

    Raises:
        InputError: none of these layouts, or boxes that are fractions of the image.
    """
    path = Path(path)
    listed = None if annotations is None else Path(annotations)
    records = read_records(
        path, layout=layout, masks=masks, prompts=True, images=images, listed=listed
    )
    # whether one file says it all: data.yaml names other files, whose regions count
    whole = records.regions.stated_ids is not None and path.suffix.lower() not in (".yaml", ".yml")
    if whole and all(file is None or file.is_file() for file in (path, listed)):
        digest = hashlib.sha256(path.read_bytes() + (listed.read_bytes() if listed else b""))
    else:
        # of a list of many files, or with sizes from elsewhere, it is what was read that counts; a
        # pipe can be read only once
        columns = records.regions
        digest = hashlib.sha256(repr((records.images, records.categories)).encode(errors="replace"))
        digest.update(columns.boxes.tobytes() + columns.images.tobytes())
        digest.update(columns.categories.tobytes())
        if columns.stated_ids is not None:
            more = (columns.image_keys, columns.category_keys, columns.stated_ids)
            content = repr((*more, columns.scores, columns.segmentations))
            digest.update(columns.crowd.tobytes() + content.encode(errors="replace"))
    regions, findings = records.regions, records.findings
    if regions.stated_ids is None:
        regions = replace(regions, stated_ids=regions.ids.tolist())
    regions = _own_ids(regions, findings)
    names = regions.stated_ids or ()
    position: dict[str, int] = {}
    # (R,) the place of each region's image in `position`: 7 and "7" are one
    places = [position.setdefault(key, len(position)) for key in regions.image_keys]
    image = np.array(places, dtype=np.int64)[regions.images]
    # (R,) in the file's order within each image
    rows = np.flatnonzero(~regions.crowd)
    rows = rows[np.argsort(image[rows], kind="stable")]
    starts = np.searchsorted(image[rows], np.arange(len(position) + 1))
    ids = {record.key: record.id for record in records.categories}
    numbers = [ids.get(key, whole_number(key)) for key in regions.category_keys]
    category_of = np.array([-1 if n is None or n < 0 else n for n in numbers], dtype=np.int64)
    entries: dict[str, ImageEntry] = {}
    by_name: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for record in records.images:
        key, name = record.key, record.file_name
        if key in entries:
            # a second entry of an id could be another image: the first one stands
            findings.add(IMAGE_ID_TWICE, f"image {key}", "its id is listed twice")
            continue
        if record.left_out:
            position.pop(key, None)
            continue
        parts = name_parts(name or "", alike=True)
        # None where the layout has no names of images, and an empty one where it lacks
        if name is not None and not parts:
            findings.add(IMAGE_WITHOUT_NAME, f"image {key}", "no file name")
            continue
        size = record.size if min(record.size) > 0 else None
        i = position.pop(key, None)
        of_image = rows[:0] if i is None else rows[starts[i] : starts[i + 1]]
        prompts = _prompts(
            regions, of_image, category_of, size, findings,
            image=name or f"image {key}", masks=masks, scores=scores,
        )  # fmt: skip
        entries[key] = ImageEntry(key, prompts, name, size)
        if parts:
            by_name[parts[-1]].append((parts, key))
    for key, i in position.items():
        for row in rows[starts[i] : starts[i + 1]]:
            findings.add(UNKNOWN_IMAGE, f"region {names[row]}", f"unknown image id {key}")
    return RegionFile(
        entries,
        {record.id: record.name for record in records.categories},
        # of OpenImages' millions of images those that are not here are nobody's fault
        skipped_items([f for f in findings.list() if f.what != WITHOUT_SIZE.what]),
        f"sha256:{digest.hexdigest()}",
        dict(by_name),
    )


def _own_ids(regions: RegionColumns, findings: Findings) -> RegionColumns:
    """An id that is an earlier region's too is replaced by the place in the file, and reported."""
    stated = list(regions.stated_ids or ())
    images = regions.images.tolist() if regions.ids_by_image else [None] * len(stated)
    taken: set[Any] = set()
    for row, (image, name) in enumerate(zip(images, stated, strict=True)):
        if (image, str(name)) in taken:
            stated[row] = f"#{row}"
            findings.add(REGION_ID_TWICE, f"region {name}", f"its id is taken; it is called #{row}")
        taken.add((image, str(stated[row])))
    return replace(regions, stated_ids=stated)


def _prompts(
    regions: RegionColumns,
    rows: NDArray[np.int64],
    categories: NDArray[np.int64],
    size: tuple[int, int] | None,
    findings: Findings,
    *,
    image: str,
    masks: bool,
    scores: bool,
) -> Regions:
    """The usable rows of one image; each other is reported."""
    stated: Sequence[Any] = regions.scores or ()
    scored = scores and bool(stated) and any(stated[row] is not None for row in rows)
    usable: list[int] = []
    prompts: list[dict[str, Any]] = []
    for row in rows.tolist():
        name = (regions.stated_ids or ())[row]
        segmentation = (regions.segmentations or {row: None})[row] if masks else None
        try:
            prompt = {
                "boxes": regions.boxes[row],
                "masks": _mask(segmentation, size) if segmentation else None,
                "ids": name,
            }
            if scored:
                score = stated[row]
                number = not isinstance(score, bool) and isinstance(score, (int, float))
                if not (number and 0 <= score <= 1):
                    raise InputError(f"score {score!r} is not a number from 0 to 1")
            # each region is built alone first, so that only the faulty one is left out
            Regions.from_prompts(**{key: [value] for key, value in prompt.items()})
        except (InputError, TypeError, ValueError, OverflowError) as error:
            known = isinstance(error, InputError)
            reason = str(error) if known else f"malformed ({type(error).__name__}: {error})"
            findings.add(MALFORMED_ROWS, f"{image}, region {name}", reason)
        else:
            usable.append(row)
            prompts.append(prompt)
    numbers = categories[regions.categories[usable]]  # (N,)
    return Regions.from_prompts(
        **{key: [prompt[key] for prompt in prompts] for key in ("boxes", "masks", "ids")},
        scores=[stated[row] for row in usable] if scored else None,
        # a detector without classes states none, or -1 throughout
        categories=numbers if (numbers >= 0).any() else None,
    )


def _mask(segmentation: Any, size: tuple[int, int] | None) -> RLE:
    # RLE brings the size of its image, polygons do not
    if size is None and isinstance(segmentation, dict):
        size = rle_size(segmentation)
    if size is None:
        raise InputError("polygons need the image's height and width")
    return segmentation_to_rle(segmentation, *size)
