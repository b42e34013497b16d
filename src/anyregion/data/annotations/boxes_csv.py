"""Reader of a table of boxes: CSV with a row a region, as a run's `predictions.csv` is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from anyregion.data.annotations.builder import AnnotationRecords, ImageRecord
from anyregion.data.annotations.shape_rows import ShapeRows
from anyregion.errors import InputError
from anyregion.files import read_text

# what each column may be called, in small letters; the first is what this package writes
_COLUMNS = {
    "image": ("image", "filename", "file_name", "image_path", "image_name"),
    "x0": ("x0", "xmin", "x_min", "x1", "left"),
    "y0": ("y0", "ymin", "y_min", "y1", "top"),
    "x1": ("x1", "xmax", "x_max", "x2", "right"),
    "y1": ("y1", "ymax", "y_max", "y2", "bottom"),
    "id": ("id", "region_id"),
    "label": ("label", "class", "class_name", "name", "category"),
    "score": ("score", "confidence"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
}
_NEEDED = ("image", "x0", "y0", "x1", "y1")


def columns_of(header: str) -> tuple[str, dict[str, int]] | None:
    """The separator and the place of each column in a first line; None for another table's."""
    for separator in (",", ";", "\t"):
        names = [n.strip().strip('"').lower() for n in header.rstrip("\r\n").split(separator)]
        places: dict[str, int] = {}
        # x1 is the left edge beside x2, and the right one beside x0
        corners = "x2" in names and "x0" not in names
        for column, known in _COLUMNS.items():
            if corners and column in ("x1", "y1"):
                known = tuple(n for n in known if n not in ("x1", "y1"))
            place = next((names.index(name) for name in known if name in names), None)
            if place is not None and place not in places.values():
                places[column] = place
        if all(column in places for column in _NEEDED):
            return separator, places
    return None


def read_boxes_csv(path: Path) -> AnnotationRecords:
    """Read a table with the columns image, x0, y0, x1 and y1 (pixels), and where they are there id,
    label, score, width and height. Other columns are left alone. Classes are the labels by
    alphabet. A region without an id is called by its row, from 1.
    """
    text = read_text(path)
    layout = columns_of(text.partition("\n")[0])
    if layout is None:
        raise InputError(f"{path}: no columns {', '.join(_NEEDED)} in its first line")
    separator, places = layout
    by_image: dict[str, list[tuple[int, list[str]]]] = {}
    rows = ShapeRows()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    next(reader)
    try:
        for number, row in enumerate(reader, start=1):
            if not row:
                continue
            with rows.reporting(f"row {number}"):
                if len(row) <= max(places.values()):
                    raise InputError(f"{len(row)} columns; its first line has more")
                by_image.setdefault(row[places["image"]], []).append((number, row))
    except csv.Error as error:
        raise InputError(f"{path}: malformed CSV at line {reader.line_num}: {error}") from None
    for name, listed in by_image.items():
        rows.images.append(ImageRecord(name, name, _size((row for _, row in listed), places)))
        for number, row in listed:
            with rows.reporting(f"{name}, row {number}"):
                _add(rows, row, places, number)
    return rows.records(path)


def _add(rows: ShapeRows, row: Sequence[str], places: dict[str, int], number: int) -> None:
    values = {column: row[place].strip() for column, place in places.items()}
    score = values.get("score") or None
    identity: int | str = values.get("id") or number
    if isinstance(identity, str) and identity.isdecimal() and str(int(identity)) == identity:
        identity = int(identity)
    box = [float(values[edge]) for edge in ("x0", "y0", "x1", "y1")]
    rows.add(
        values.get("label", ""), box, id=identity, score=None if score is None else float(score)
    )


def _size(listed: Iterable[Sequence[str]], places: dict[str, int]) -> tuple[int, int]:
    if not {"width", "height"} <= places.keys():
        return (-1, -1)
    for row in listed:
        sides = [row[places[side]].strip() for side in ("height", "width")]
        if all(s.isascii() and s.isdecimal() and 0 < len(s) < 10 and int(s) for s in sides):
            return int(sides[0]), int(sides[1])
    return (-1, -1)
