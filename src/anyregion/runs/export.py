"""`predictions.json` (COCO) and `predictions.csv`, streamed from the journal."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, BinaryIO

from anyregion.files import atomic_path, writing
from anyregion.predictions import CSV_COLUMNS, record_to_coco, record_to_csv
from anyregion.runs.journal import Journal, to_line
from anyregion.vocabulary import Vocabulary


def write_coco(path: Path, journal: Journal, vocabulary: Vocabulary, *, description: str) -> None:
    """Write COCO JSON: info, licenses, images, annotations (with `score`), categories.

    Images and annotations follow the order of the images' names, so the file is the same however
    often the run was interrupted. Ids of images are the region file's where it gave every image
    one, else 1, 2, ...; `region_id` of an annotation is the caller's id of the region.
    """
    ids = _image_ids(journal)
    category = dict(zip(vocabulary.names, vocabulary.ids, strict=True))
    head = {"description": description}
    images = [
        {
            "id": ids[name],
            "file_name": name,
            "height": journal.entries[name].size[0],
            "width": journal.entries[name].size[1],
        }
        for name in sorted(journal.entries)
    ]
    categories = [{"id": i, "name": name, "supercategory": ""} for name, i in category.items()]
    with writing(path), atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(b'{"info": ' + _flat(head) + b',\n"licenses": [],\n"images": [\n')
        _write_items(file, images)
        file.write(b'],\n"categories": [\n')
        _write_items(file, categories)
        file.write(b'],\n"annotations": [\n')
        count = 0
        for line in journal.lines():
            for record in line["regions"]:
                count += 1
                image_id, category_id = ids[line["image"]], category[record["label"]]
                annotation = record_to_coco(record, image_id, count, category_id)
                file.write((b"" if count == 1 else b",\n") + _flat(annotation))
        file.write(b"\n]}\n")


def write_csv(path: Path, journal: Journal) -> None:
    """Write one row a region, of `CSV_COLUMNS`; boxes are xyxy in pixels."""
    with (
        writing(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for line in journal.lines():
            writer.writerows(record_to_csv(record, line["image"]) for record in line["regions"])


def _image_ids(journal: Journal) -> dict[str, int]:
    names = sorted(journal.entries)
    given = [journal.entries[name].image_id for name in names]
    stated = [i for i in given if i is not None]
    if len(set(stated)) == len(names):
        return dict(zip(names, stated, strict=True))
    return {name: i for i, name in enumerate(names, start=1)}


def _write_items(file: BinaryIO, items: list[dict[str, Any]]) -> None:
    for position, item in enumerate(items):
        file.write((b"" if position == 0 else b",\n") + _flat(item))
    file.write(b"\n")


def _flat(value: Any) -> bytes:
    return to_line(value).rstrip(b"\n")
