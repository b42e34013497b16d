"""Corrections as the data of a training: those of a taught vocabulary, with their images."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.compact.model import CompactExtractor, CompactModel
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import find_image
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import create_store
from anyregion.errors import InputError, SetAside
from anyregion.files import write_json, writing
from anyregion.images import image_digest
from anyregion.teaching.corrections import Corrections
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.training.run_folder import PREPARED
from anyregion.vocabulary import Progress

# one image in so many is for validation: scores are calibrated on it
HELD_OUT = 5
_IMAGES_PER_SHARD = 32


@dataclass(frozen=True)
class CorrectionsData:
    """Where a taught vocabulary's corrections are prepared for a training, in its run's folder.

    Attributes:
        folder: of the annotations, the stores and the names; it is called by their content.
        images: the folder that file names start from.
        settings: of the task `compact`, by their whole names.
        notes: what is used, and what is not, and why.
    """

    folder: Path
    images: Path
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def fill(self, progress: Progress | None = None) -> None:
        """Compute the features of the images, where they are not there yet.

        Raises:
            InputError: an image that cannot be read any more.
            AnyRegionError: the disk is full.
        """
        extractor = CompactExtractor(CompactModel())
        parts = ("train", "validation")
        annotations = [read_annotations(self.folder / f"{part}.json") for part in parts]
        total, before = sum(map(len, annotations)), 0
        for part, columns in zip(parts, annotations, strict=True):
            store = create_store(
                self.folder / part,
                columns,
                extractor,
                mirrored=part == "train",
                images_per_shard=_IMAGES_PER_SHARD,
                notes={
                    "annotations": str(self.folder / f"{part}.json"),
                    "images": str(self.images),
                    "models": {"model": "compact"},
                },
            )

            def advance(done: int, _: int, start: int = before) -> None:
                if progress is not None:
                    progress(start + done, total)

            report = fill_store(store, extractor, self.images, progress=advance)
            if report.set_aside:
                raise InputError(f"{self.images}: {report.set_aside[0]}")
            before += len(columns)

    def remove_others(self) -> None:
        """Remove what was prepared there of other corrections."""
        for other in self.folder.parent.iterdir():
            if other != self.folder and other.is_dir():
                shutil.rmtree(other)


def corrections_data(
    path: str | Path, out: str | Path, images: str | Path | None = None
) -> CorrectionsData:
    """Find the images of a taught vocabulary's corrections, and write their annotations.

    Every fifth image is for validation, by its digest, where each of its names is shown by others.
    Regions that are none of these, and those without a box, have no part in a training.

    Args:
        path: the taught vocabulary.
        out: the run's folder.
        images: the folder of the images; None for the folders that it was taught from.

    Raises:
        InputError: no taught vocabulary, or images that are not there or have changed, so that none
            is left to train or to validate on.
        AnyRegionError: the folder cannot be written.
    """
    path, out = Path(path), Path(out)
    taught = TaughtVocabulary.load(path)
    corrections, names = taught.corrections, taught.vocabulary.names
    if corrections is None or not len(corrections):
        raise InputError(f"{path}: no corrections, so there is nothing to train on")
    folders = [Path(f) for f in ([images] if images is not None else taught.folders)]
    if not folders:
        raise InputError(f"{path}: it does not say where its images lie: give --images DIR")
    files, missing = _find_files(corrections, folders)
    if not files:
        where = " and ".join(map(str, folders))
        raise InputError(
            f"{path}: no image to train on in {where}; {missing[0]}. Give --images DIR"
        )
    sides = corrections.boxes[:, 2:] - corrections.boxes[:, :2]
    usable = (corrections.labels >= 0) & (sides > 0).all(axis=1)  # NaN is not above 0
    usable &= np.isin(corrections.image_of, list(files))
    by_image: dict[int, list[int]] = {}
    for row in np.flatnonzero(usable).tolist():
        by_image.setdefault(int(corrections.image_of[row]), []).append(row)
    held_out = _held_out(corrections, by_image)
    if not held_out or len(held_out) == len(by_image):
        raise InputError(
            f"{path}: {len(by_image)} images with named regions are too few: some are trained on, "
            "and others that show the same names tell how well"
        )
    root = Path(os.path.commonpath([file.parent for file in files.values()]))
    parts = {
        part: _coco(corrections, {i: r for i, r in by_image.items() if (i in held_out) == held},
                    names, files, root)
        for part, held in (("train", False), ("validation", True))
    }  # fmt: skip
    content = repr((parts, str(root), taught.vocabulary, [m.digest for m in corrections.images]))
    folder = (out / PREPARED / hashlib.sha256(content.encode()).hexdigest()[:12]).absolute()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for part, annotations in parts.items():
            write_json(folder / f"{part}.json", annotations)
        taught.vocabulary.save(folder / "names.json")
    terms = taught.card.terms
    regions = int(usable.sum())
    left_out = len(corrections) - regions
    notes = [
        f"{path}: {regions} regions of {len(by_image)} images, {len(held_out)} of them for "
        "validation",
        *([f"{path}: {left_out} regions have no part in it: none of these, without a box, or of "
           "images that are missing"] if left_out else []),
        *(f"set aside: {item}" for item in missing),
    ]  # fmt: skip
    return CorrectionsData(
        folder=folder,
        images=root,
        settings={
            "compact.data": [{"store": str(folder / "train"), "terms": terms}],
            "compact.validation": {"store": str(folder / "validation")},
            "compact.names": str(folder / "names.json"),
        },
        notes=tuple(notes),
    )


def _find_files(
    corrections: Corrections, folders: Sequence[Path]
) -> tuple[dict[int, Path], list[SetAside]]:
    """By position the image files, as they were when they were corrected; and what is missing."""
    files: dict[int, Path] = {}
    missing: list[SetAside] = []
    for i, image in enumerate(corrections.images):
        reason = "not found"
        for folder in folders:
            candidate = find_image(folder, image.name)
            if candidate is None:
                continue
            with suppress(InputError):
                if image_digest(candidate).hex() == image.digest:
                    files[i] = candidate.absolute()
                    break
            reason = f"{candidate} is not the image that was corrected: it has another content"
        else:
            missing.append(SetAside(image.name, reason))
    return files, missing


def _held_out(corrections: Corrections, by_image: dict[int, list[int]]) -> set[int]:
    """The images for validation: of each of their names some region is trained on."""
    labels = corrections.labels
    left = Counter(int(labels[row]) for rows in by_image.values() for row in rows)
    held_out: set[int] = set()
    wanted = max(1, len(by_image) // HELD_OUT)
    # by their content: the order of the corrections may follow the time of day
    for image in sorted(by_image, key=lambda i: corrections.images[i].digest):
        of_image = Counter(int(labels[row]) for row in by_image[image])
        if len(held_out) < wanted and all(left[name] > n for name, n in of_image.items()):
            held_out.add(image)
            left -= of_image
    return held_out


def _coco(
    corrections: Corrections,
    by_image: dict[int, list[int]],
    names: Sequence[str],
    files: dict[int, Path],
    root: Path,
) -> dict[str, Any]:
    """COCO annotations of some images; the categories are the names that have examples."""
    shown = np.unique(corrections.labels[corrections.labels >= 0]).tolist()
    entries, regions = [], []
    for image, rows in by_image.items():
        height, width = corrections.images[image].size
        name = files[image].relative_to(root).as_posix()
        entries.append({"id": image + 1, "file_name": name, "height": height, "width": width})
        for row in rows:
            x0, y0, x1, y1 = corrections.boxes[row].tolist()
            regions.append(
                {
                    "id": row + 1,
                    "image_id": image + 1,
                    "category_id": int(corrections.labels[row]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                }
            )
    categories = [{"id": c + 1, "name": names[c]} for c in shown]
    return {"images": entries, "annotations": regions, "categories": categories}
