"""Reader of a folder of crops: a folder for each class, with pictures of its regions."""

from __future__ import annotations

import csv
from pathlib import Path, PurePath
from urllib.parse import unquote

from anyregion.data.annotations.builder import AnnotationRecords, ImageRecord
from anyregion.data.annotations.shape_rows import ShapeRows
from anyregion.data.image_files import in_threads
from anyregion.errors import InputError
from anyregion.files import reading
from anyregion.images import find_images, read_size

TABLE = "crops.csv"
"""What says where the crops were cut out, beside the folders of classes."""
COLUMNS = (
    "crop", "image", "width", "height", "id", "x0", "y0", "x1", "y1", "folder", "label", "score",
)  # fmt: skip


def read_crop_folders(path: Path) -> AnnotationRecords:
    """Read a folder of crops. Classes are its folders, by alphabet.

    With `crops.csv` in it, regions are those of the images that the crops were cut from, under the
    name of the folder in which each crop lies *now*: a crop that was moved was corrected, and one
    that is gone was removed. Without it, each picture is an image of its own, and one region.
    """
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    crops = {folder.name: find_images([folder])[0] for folder in folders}
    if not any(crops.values()):
        raise InputError(f"{path}: no folder with images in it: each class needs one")
    rows = ShapeRows()
    table = path / TABLE
    if table.is_file():
        _read_table(rows, table, crops)
        names = None
    else:
        files = [file for listed in crops.values() for file in listed]
        for file, size in zip(files, in_threads(_size, files), strict=True):
            name = file.relative_to(path).as_posix()
            rows.images.append(ImageRecord(name, name, size))
            with rows.reporting(name):
                if size[0] < 0:
                    raise InputError("an image that cannot be read")
                rows.add(unquote(PurePath(name).parts[0]), (0, 0, size[1], size[0]), id=0)
        names = [unquote(folder) for folder in crops]
    return rows.records(path, names)


def _read_table(rows: ShapeRows, table: Path, crops: dict[str, list[Path]]) -> None:
    # a crop keeps its file's name wherever it is moved
    folder_of = {file.name: name for name, listed in crops.items() for file in listed}
    with reading(table), table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            listed = list(reader)
        except csv.Error as error:
            raise InputError(f"{table}: malformed CSV at line {reader.line_num}: {error}") from None
    if missing := [name for name in COLUMNS[:-1] if name not in (reader.fieldnames or ())]:
        raise InputError(f"{table}: no column {', '.join(missing)} in its first line")
    # a folder that was made for a name that no file may have
    label_of = {row["folder"]: row["label"] for row in listed}
    by_image: dict[str, list[dict[str, str]]] = {}
    for row in listed:
        by_image.setdefault(row["image"], []).append(row)
    for name, of_image in by_image.items():
        sides = (of_image[0]["height"], of_image[0]["width"])
        height, width = (int(s) if s and s.isdecimal() else -1 for s in sides)
        rows.images.append(ImageRecord(name, name, (height, width)))
        for row in of_image:
            folder = folder_of.get(PurePath(row["crop"] or "").name)
            if folder is None:
                continue  # it was taken out
            with rows.reporting(f"{name}, region {row['id']}"):
                box = [float(row[edge]) for edge in ("x0", "y0", "x1", "y1")]
                identity = row["id"]
                rows.add(
                    label_of.get(folder) or unquote(folder),
                    box,
                    id=int(identity) if identity.isdecimal() else identity,
                )


def _size(file: Path) -> tuple[int, int]:
    try:
        return read_size(file).upright
    except InputError:
        return (-1, -1)
