"""Writers of YOLO: a text file of labels an image, and data.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml

from anyregion.data.annotations.yolo import box_line
from anyregion.errors import SetAside
from anyregion.files import write_text, writing
from anyregion.io.labels import ClassNames, LabelledImage
from anyregion.io.writers.writing import (
    Outlines,
    Stems,
    WriteOptions,
    WriteReport,
    by_name,
    copy_image,
)


def write_yolo(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write boxes: `labels/<name>.txt` and `data.yaml`; images are expected in `images/`."""
    report = WriteReport()
    writer = YoloWriter(classes, out, options, report, outlines=False)
    for image in images:
        writer.add(image)
    writer.finish({"train": "images", "val": "images"})
    return report


def write_yolo_segment(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write outlines, one a region: parts and holes of a mask are joined by lines of no width; of a
    region without a mask it is the box.
    """
    report = WriteReport()
    writer = YoloWriter(classes, out, options, report, outlines=True)
    for image in images:
        writer.add(image)
    writer.finish({"train": "images", "val": "images"})
    return report


class YoloWriter:
    """Writes label files one by one, and `data.yaml` at the end.

    Args:
        outlines: write outlines in place of boxes.
    """

    def __init__(
        self,
        classes: ClassNames,
        out: Path,
        options: WriteOptions,
        report: WriteReport,
        *,
        outlines: bool,
    ) -> None:
        self._classes, self._out, self._options, self._report = classes, out, options, report
        self._positions = by_name(classes)
        self._stems = Stems(report)
        self._draw = Outlines(options, report) if outlines else None

    def add(self, image: LabelledImage, split: str = "") -> bool:
        """Write the labels of one image below `labels/<split>`; False where it was set aside."""
        stem = self._stems.of(image)
        if stem is None:
            return False
        if self._options.copy_images:
            suffix = Path(image.name).suffix
            target = self._out / "images" / split / f"{stem}{suffix}"
            if (fault := copy_image(image, self._options, target)) is not None:
                self._report.set_aside.append(SetAside(image.name, fault))
                return False
        lines = [self._line(image, i) for i in range(len(image.regions))]
        path = self._out / "labels" / split / f"{stem}.txt"
        with writing(path):
            write_text(path, "".join(f"{line}\n" for line in lines))
        self._report.count(image)
        return True

    def _line(self, image: LabelledImage, row: int) -> str:
        region = image.regions[row]
        label = self._positions[region.label]
        if self._draw is None:
            return box_line(label, region.box, image.size)
        return _outline_line(label, self._draw.single(image, region), image.size)

    def finish(self, splits: dict[str, str]) -> None:
        """Write `data.yaml`, whose splits are folders of images."""
        path = self._out / "data.yaml"
        # without a path trainers look beside the file, so that the folder may be moved
        content = {**splits, "names": dict(enumerate(self._classes.names))}
        with writing(path):
            write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        self._report.files += [path, self._out / f"labels{os.sep}"]


def _outline_line(label: int, polygon: Sequence[float], size: tuple[int, int]) -> str:
    fractions = np.array(polygon).reshape(-1, 2) / np.array([size[1], size[0]])
    values = np.clip(fractions, 0, 1).reshape(-1)
    return " ".join([str(label), *(f"{v:.6f}" for v in values)])
