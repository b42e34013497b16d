"""Reader of YOLO's labels: a text file an image, a line a region, in fractions of the image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anyregion.data.annotations.builder import (
    MALFORMED_ROWS,
    AnnotationRecords,
    CategoryRecord,
    ImageRecord,
)
from anyregion.data.annotations.layouts import is_yolo_line
from anyregion.data.annotations.openimages import WITHOUT_SIZE
from anyregion.data.annotations.report import Findings, Kind
from anyregion.data.annotations.shape_rows import ShapeRows, rectangle
from anyregion.data.image_files import find_image, in_threads
from anyregion.errors import InputError
from anyregion.files import read_text
from anyregion.images import SUFFIXES, read_size
from anyregion.yaml_text import parse_yaml

UNREADABLE_LABELS = Kind("label files that cannot be read", True, "mend or replace the file")
NO_SPLIT = Kind("splits that are not there", True, "unpack them, or correct the paths of the file")
NO_TEST = Kind("test splits that are not there", False, "nothing, if they are not needed")
SAME_LABELS = Kind(
    "images that share a file of labels", True, "give images names that differ beside their suffix"
)
# rounding of a writer; ultralytics' own reader takes one in a hundred
_TOLERANCE = 0.01
_SPLITS = ("train", "val", "test")
# files beside labels that hold names
_NAMES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels")


@dataclass(frozen=True)
class _Labels:
    """Where the labels of one image are: `name` from the data's folder, without its suffix."""

    name: str
    file: Path | None
    image: Path | None


def read_yolo(
    path: Path, *, masks: bool = False, images: str | Path | None = None
) -> AnnotationRecords:
    """Read `data.yaml` (all its splits), the folder that it lies in, or a folder of labels.

    A line is a class and x, y, width and height of the box (its middle), or the points of an
    outline; a number more at its end is the score. Fractions are of the upright image, as
    ultralytics reads it, so images are needed: their headers are read. A region is called by its
    line, from 1, in its image's file. Category ids are the file's class numbers.

    Args:
        path: see above.
        masks: keep outlines.
        images: a folder of the images, where they are not beside the labels.
    """
    config, settings = _settings(path)
    names = _names(config, settings, path)
    if settings.get("kpt_shape"):
        raise InputError(f"{config}: labels of poses (kpt_shape) are not read: boxes and outlines")
    root = path.parent if path.is_file() else path
    rows = ShapeRows()
    listed = list(_listed(root, settings, path, rows.findings))
    if images is not None:
        listed = [_beside(label, Path(images)) for label in listed]
    sizes = list(in_threads(_size, [label.image for label in listed]))
    beyond = total = 0
    for label, size in zip(listed, sizes, strict=True):
        name = f"{label.name}{'.jpg' if label.image is None else label.image.suffix}"
        if size[0] < 0:
            reason = "no image, or none that can be read: its labels are left out"
            rows.findings.add(WITHOUT_SIZE, name, reason)
            rows.images.append(ImageRecord(label.name, name, left_out=True))
            continue
        rows.images.append(ImageRecord(label.name, name, size))
        if label.file is None:
            continue  # no labels: an image without regions
        try:
            lines = read_text(label.file).splitlines()
        except InputError as error:
            rows.findings.add(UNREADABLE_LABELS, name, str(error))
            continue
        for number, line in enumerate(lines, start=1):
            if line.strip():
                total += 1
                with rows.reporting(f"{name}, line {number}"):
                    beyond += _add(rows, line.split(), number, size)
    if beyond > 2 and 2 * beyond > total:
        raise InputError(
            f"{path}: {beyond} of {total} lines hold numbers outside 0 to 1: YOLO's are fractions "
            "of the image, not pixels"
        )
    numbers = {key for key in rows.labels if key.isdecimal()}
    if not names:
        names = {int(key): f"class_{key}" for key in sorted(numbers, key=int)}
    records = rows.records(path, ids={str(i): i for i in names}, masks=masks)
    return replace(
        records,
        categories=[CategoryRecord(str(number), number, name) for number, name in names.items()],
    )


def _add(rows: ShapeRows, words: Sequence[str], line: int, size: tuple[int, int]) -> bool:
    """Add one line's region; whether it is reported for numbers outside 0 to 1."""
    if not words[0].isdecimal():
        raise InputError(f"the class {words[0]!r:.20} is no whole number")
    values = [float(word) for word in words[1:]]
    if len(values) < 4:
        raise InputError(f"{len(values)} numbers after the class; a box has four")
    if not np.isfinite(values).all():
        raise InputError("a number that is not finite")
    # a box has four numbers and an outline an even count; one more is the score
    score = values.pop() if len(values) % 2 else None
    if min(values) < -_TOLERANCE or max(values) > 1 + _TOLERANCE:
        item = f"{rows.images[-1].file_name}, line {line}"
        reason = f"numbers outside 0 to 1: {min(values):g} to {max(values):g}"
        rows.findings.add(MALFORMED_ROWS, item, reason)
        return True
    label = str(int(words[0]))
    scale = np.array([size[1], size[0]], dtype=np.float64)
    points = np.array(values).reshape(-1, 2) * scale
    if len(values) == 4:
        middle, sides = points
        box = np.concatenate([middle - sides / 2, middle + sides / 2])
        # over the border by what fractions of six digits cannot say
        box = np.clip(box, 0, np.tile(scale, 2))
        rows.add(label, box.tolist(), id=line, score=score)
    else:
        rows.add(label, id=line, score=score, polygons=[points.reshape(-1).tolist()])
    return False


def find_config(folder: Path) -> Path | None:
    """A folder's `data.yaml`, or another YAML with names and a split in it; None without one."""
    files = sorted(folder.glob("*.y*ml"), key=lambda file: (file.name != "data.yaml", file.name))
    for file in files[:20]:
        try:
            content = parse_yaml(read_text(file), str(file))
        except InputError:
            continue
        if isinstance(content, dict) and "names" in content and content.keys() & {*_SPLITS}:
            return file
    return None


def has_labels(folder: Path) -> bool:
    """Whether one of the first text files of a folder has lines of YOLO's layout."""
    return any(map(_is_labels, sorted(folder.glob("*.txt"))[:20]))


def _is_labels(file: Path) -> bool:
    try:
        lines = read_text(file).splitlines()
    except InputError:
        return False
    return bool(lines) and is_yolo_line(lines[0])


def labels_folder(path: Path) -> Path | None:
    """The folder of labels at or below `path`, where there is no `data.yaml`; None without one."""
    for folder in (path / "labels", path):
        if folder.is_dir():
            below = [f for f in sorted(folder.iterdir()) if f.is_dir()][:20]
            if has_labels(folder) or any(map(has_labels, below)):
                return folder
    return None


def _settings(path: Path) -> tuple[Path, dict[str, Any]]:
    config = find_config(path) if path.is_dir() else path
    if config is None:
        return path, {}
    content = parse_yaml(read_text(config), str(config))
    if not isinstance(content, dict):
        raise InputError(f"{config}: no settings of a data set: train, val and names are needed")
    return config, content


def _names(config: Path, settings: dict[str, Any], path: Path) -> dict[int, str]:
    """The classes by their number; empty where nothing says."""
    listed = settings.get("names")
    if isinstance(listed, list):
        listed = dict(enumerate(listed))
    if isinstance(listed, dict):
        try:
            return {int(number): str(name) for number, name in listed.items()}
        except (TypeError, ValueError):
            raise InputError(f"{config}: names by numbers are needed: {{0: cat}}") from None
    if settings:
        raise InputError(f"{config}: no names: a list, or {{0: cat, 1: dog}}")
    for folder in (path, path / "labels", path.parent):
        for name in _NAMES:
            if (folder / name).is_file():
                lines = read_text(folder / name).splitlines()
                return {i: line.strip() for i, line in enumerate(lines) if line.strip()}
    return {}


def _listed(
    root: Path, settings: dict[str, Any], path: Path, findings: Findings
) -> Iterator[_Labels]:
    """The images and labels of all splits, each once."""
    if settings:
        places = list(_split_places(root, settings, path, findings))
        if not places:
            raise InputError(f"{path}: none of the folders of its splits is there")
    else:
        labels = labels_folder(path)
        if labels is None:
            raise InputError(f"{path}: no labels of YOLO here (a class and four numbers a line)")
        root = labels.parent if labels.name == "labels" else labels
        beside = _swapped(labels, "labels", "images")
        places = [beside if beside.is_dir() else labels]
    listed: set[str] = set()
    for place in places:
        of_place = _list_of(place, root) if place.is_file() else _folder(place, root, findings)
        for labels_of_image in of_place:
            if labels_of_image.name not in listed:
                listed.add(labels_of_image.name)
                yield labels_of_image


def _split_places(
    root: Path, settings: dict[str, Any], path: Path, findings: Findings
) -> Iterator[Path]:
    """The folder, or the list, of the images of each split; one that is not there is reported."""
    for split in _SPLITS:
        stated = settings.get(split)
        for name in stated if isinstance(stated, list) else [stated] if stated else []:
            if not isinstance(name, str):
                raise InputError(f"{path}: {split} is {name!r:.40}, no folder of images")
            place = _split_folder(root, settings.get("path"), name)
            if place is None:
                # of tests people seldom have the labels
                kind = NO_TEST if split == "test" else NO_SPLIT
                findings.add(kind, f"{split}: {name}", "there is no such folder or list")
            else:
                yield place


def _list_of(file: Path, root: Path) -> Iterator[_Labels]:
    """The images that a text file lists, a line each, from where it lies."""
    for line in read_text(file).splitlines():
        if line.strip():
            yield _of_image(file.parent / line.strip(), root)


def _folder(images: Path, root: Path, findings: Findings) -> Iterator[_Labels]:
    """The images of a folder and their labels; labels without an image too."""
    labels = _swapped(images, "images", "labels")
    pictures: dict[str, Path] = {}
    for file in _files(images):
        if file.suffix.lower() in SUFFIXES:
            stem = file.relative_to(images).with_suffix("").as_posix()
            if stem in pictures:
                reason = f"its labels are {pictures[stem].name}'s too; that one is kept"
                findings.add(SAME_LABELS, str(file.relative_to(images)), reason)
            else:
                pictures[stem] = file
    texts: dict[str, Path] = {}
    for file in _files(labels):
        if file.suffix.lower() != ".txt" or file.name in _NAMES:
            continue
        stem = file.relative_to(labels).with_suffix("").as_posix()
        # lists of images and notes lie beside labels, too
        if stem in pictures or _is_labels(file):
            texts[stem] = file
    for stem in sorted(pictures.keys() | texts.keys()):
        yield _Labels(_below(root, images / stem), texts.get(stem), pictures.get(stem))


def _files(folder: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(current, name) for name in sorted(files) if not name.startswith("."))


def _of_image(image: Path, root: Path) -> _Labels:
    text = _swapped(image, "images", "labels").with_suffix(".txt")
    picture = image if image.is_file() else None
    return _Labels(_below(root, image.with_suffix("")), text if text.is_file() else None, picture)


def _below(root: Path, path: Path) -> str:
    """The name of a path from the data's folder; of one elsewhere its last two parts."""
    relative = os.path.relpath(path, root)
    parts = PurePosixPath(Path(relative).as_posix()).parts
    return "/".join(part for part in parts if part != "..")


def _swapped(path: Path, name: str, other: str) -> Path:
    """The path with its last folder called `name` called `other`, as trainers find labels."""
    parts = list(path.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == name:
            parts[place] = other
            return Path(*parts)
    return path


def _split_folder(root: Path, stated: Any, place: str) -> Path | None:
    base = Path(stated) if isinstance(stated, str) else Path()
    # Roboflow's `../train/images` means the folder beside data.yaml
    shorter = place.removeprefix("../")
    for path in (root / base / place, root / base.name / place, root / place, root / shorter):
        # labels alone may be there: their images are looked for elsewhere
        if path.exists() or _swapped(path, "images", "labels").exists():
            return path
    return None


def _beside(label: _Labels, folder: Path) -> _Labels:
    """The labels with their image in the user's folder, where it is not known by now."""
    if label.image is not None:
        return label
    stem = label.name.removeprefix("images/").removeprefix("labels/")
    for suffix in (".jpg", ".jpeg", ".png", *sorted(SUFFIXES)):
        if (image := find_image(folder, stem + suffix)) is not None:
            return replace(label, name=stem, image=image)
    return label


def _size(image: Path | None) -> tuple[int, int]:
    if image is None:
        return (-1, -1)
    try:
        return read_size(image).upright
    except InputError:
        return (-1, -1)  # reported by the caller: an image without a size


def box_line(label: int, box: Sequence[float], size: tuple[int, int]) -> str:
    """The line of a box (xyxy in pixels) of an image `(height, width)`."""
    corners = rectangle(box)[[0, 2]] / np.array([size[1], size[0]])
    middle, sides = corners.mean(axis=0), corners[1] - corners[0]
    return " ".join([str(label), *(f"{v:.6f}" for v in (*middle, *sides))])
