"""Writer of a table of boxes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anyregion.files import write_csv, writing
from anyregion.io.labels import ClassNames, LabelledImage
from anyregion.io.writers.writing import WriteOptions, WriteReport, rounded

COLUMNS = ("image", "width", "height", "id", "x0", "y0", "x1", "y1", "label", "score")


def write_boxes_csv(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `labels.csv`, a row a region; an image without regions has none."""
    report, path = WriteReport(), out / "labels.csv"
    rows: list[list[object]] = []
    for image in images:
        for region in image.regions:
            score = "" if region.score is None else region.score
            head = [image.name, image.size[1], image.size[0], region.id]
            rows.append([*head, *rounded(region.box, 3), region.label, score])
        report.count(image)
    with writing(path):
        write_csv(path, COLUMNS, rows)
    report.files.append(path)
    return report
