"""Writer of a folder of crops for each class, which may be sorted by hand and read again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from anyregion.data.annotations.crop_folders import COLUMNS, TABLE
from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, name_parts, write_csv, writing
from anyregion.images import read_image
from anyregion.io.labels import ClassNames, LabelledImage
from anyregion.io.writers.writing import WriteOptions, WriteReport, rounded, xml_text


def write_crops(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `<class>/<image>_<place>.jpg`, cut to whole pixels outwards, and `crops.csv`."""
    if options.images is None:
        raise InputError("crops are cut out of images: give their folder")
    report = WriteReport()
    rows: list[list[object]] = []
    taken: set[str] = set()
    for image in images:
        source = find_image(options.images, image.name)
        try:
            if source is None:
                raise InputError(f"no such file below {options.images}")
            pixels = read_image(source)
            if pixels.shape[:2] != image.size:
                raise InputError(f"the image is {pixels.shape[:2]}, its regions of {image.size}")
        except InputError as error:
            report.set_aside.append(SetAside(image.name, str(error)))
            continue
        for place, region in enumerate(image.regions):
            folder = folder_name(region.label)
            x0, y0 = (max(0, math.floor(v)) for v in region.box[:2])
            x1, y1 = math.ceil(region.box[2]), math.ceil(region.box[3])
            crop = np.ascontiguousarray(pixels[y0:y1, x0:x1])
            name = _file_name(image.name, place, taken)
            path = out / folder / name
            with writing(path), atomic_path(path) as temporary:
                Image.fromarray(crop).save(temporary, quality=95)
            score = "" if region.score is None else region.score
            rows.append(
                [
                    f"{folder}/{name}", image.name, image.size[1], image.size[0], region.id,
                    *rounded(region.box, 3), folder, region.label, score,
                ]
            )  # fmt: skip
        report.count(image)
    with writing(out / TABLE):
        write_csv(out / TABLE, COLUMNS, rows)
    report.files += [out, out / TABLE]
    return report


def folder_name(label: str) -> str:
    """A class as the name of a folder that every system takes; `crops.csv` has the class itself."""
    # percent first, so that reading it undoes it
    safe = " !#$&'()+,-.;=@[]^_`{}~" + "".join(c for c in label if c.isalnum())
    name = quote(xml_text(label), safe=safe)
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        name = "".join(f"%{ord(c):02X}" if c in ". " else c for c in name)
    return name[:120] or "%"


def _file_name(image: str, place: int, taken: set[str]) -> str:
    stem = "_".join(name_parts(image))
    stem = folder_name(stem.rpartition(".")[0] or stem)
    name = f"{stem}_{place}.jpg"
    while name.casefold() in taken:
        stem += "-2"
        name = f"{stem}_{place}.jpg"
    taken.add(name.casefold())
    return name
