"""`write_review`: regions of a run in one HTML file, the most doubtful first, to be corrected."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from anyregion.data.image_files import find_image
from anyregion.drawing.crops import crop_region
from anyregion.drawing.palette import name_colour
from anyregion.errors import AnyRegionError, InputError, SetAside
from anyregion.files import atomic_path, writing
from anyregion.images import Pixels, read_image
from anyregion.io.labels import LabelledRegion
from anyregion.io.writers.writing import WriteOptions
from anyregion.runs.export_labels import LabelSource
from anyregion.runs.pipeline import Track, silent
from anyregion.teaching.corrections import NONE_OF_THESE
from anyregion.vocabulary import name_key

TOP = 5
"""Names that are offered of each region, a key each."""
_QUALITY = 80


@dataclass(frozen=True)
class ReviewReport:
    """What was written.

    Attributes:
        path: the file.
        regions: how many it shows.
        left: regions of the run that are surer than those, and not shown.
        megabytes: of the file.
        set_aside: images that cannot be shown, and why.
    """

    path: Path
    regions: int
    left: int
    megabytes: float
    set_aside: tuple[SetAside, ...]


def write_review(
    run: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    most: int = 500,
    track: Track = silent,
) -> ReviewReport:
    """Show the regions of a run in a file that any browser opens, without any server.

    A person goes through it with keys, and saves the regions that they looked at as a COCO file,
    which `teach` reads: its categories are the right names.

    Args:
        run: the results folder of `recognize`.
        out: the HTML file.
        images: the folder of the images; where the run had them, unless given.
        most: regions that are shown: those whose best two names are nearest to each other.
        track: shows how far the work is.

    Raises:
        InputError: no run, no regions, or none of its images is there.
    """
    run, out = Path(run), Path(out)
    options = WriteOptions(images=None if images is None else Path(images))
    source = LabelSource(run, options, keep_refused=True)
    if not source.is_run:
        raise InputError(f"{run}: not the results folder of a run")
    sizes: dict[str, tuple[int, int]] = {}
    rows: list[tuple[float, str, LabelledRegion]] = []
    for image in source:
        sizes[image.name] = image.size
        rows += [(margin_of(region), image.name, region) for region in image.regions]
    if not rows:
        raise InputError(f"{run}: no regions to review")
    # stable: of equal margins in the order of the run
    chosen = sorted(rows, key=lambda row: row[0])[:most]
    folder = source.options.images
    if folder is None or not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images: give it with --images")
    crops, set_aside = _crops(chosen, folder, track)
    regions = [
        {
            "image": name,
            "id": region.id,
            "box": [round(v, 3) for v in region.box],
            "labels": list(region.labels or (region.label,))[:TOP],
            "scores": [round(score, 4) for score in region.scores[:TOP]],
            "refused": region.refused,
            "crop": crops[i],
        }
        for i, (_, name, region) in enumerate(chosen)
        if i in crops
    ]
    if not regions:
        raise InputError(f"{folder}: none of the images of {run} can be shown there")
    classes = source.classes
    categories = [
        {"id": i, "name": name} for name, i in zip(classes.names, classes.ids, strict=True)
    ]
    if name_key(NONE_OF_THESE) not in map(name_key, classes.names):
        categories.append({"id": max(classes.ids, default=0) + 1, "name": NONE_OF_THESE})
    content = {
        "run": run.resolve().name,
        "sizes": {region["image"]: sizes[str(region["image"])] for region in regions},
        "categories": categories,
        "none": NONE_OF_THESE,
        "regions": regions,
    }
    page = (files("anyregion.runs") / "review.html").read_text(encoding="utf-8")
    # within a script only this could end it
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    with writing(out), atomic_path(out) as temporary:
        temporary.write_text(page.replace("/*CONTENT*/null", text), encoding="utf-8")
    return ReviewReport(
        out, len(regions), len(rows) - len(chosen), out.stat().st_size / 1e6, tuple(set_aside)
    )


def margin_of(region: LabelledRegion) -> float:
    """How far the best name is ahead; what was refused comes before all else."""
    if region.refused:
        return -1.0
    scores = region.scores
    return scores[0] - scores[1] if len(scores) > 1 else float(region.score or 0.0)


def _crops(
    chosen: list[tuple[float, str, LabelledRegion]], folder: Path, track: Track
) -> tuple[dict[int, str], list[SetAside]]:
    """By position the region, cut out of its image, as a `data:` address."""
    crops: dict[int, str] = {}
    set_aside: list[SetAside] = []
    rows_of: dict[str, list[int]] = {}
    for i, (_, name, _) in enumerate(chosen):
        rows_of.setdefault(name, []).append(i)
    progress: Callable[[int, int], None] = track("cutting out regions", "images")
    for number, (name, rows) in enumerate(rows_of.items(), 1):
        path = find_image(folder, name)
        try:
            if path is None:
                raise InputError(f"not in {folder}")
            pixels: Pixels = read_image(path)
        except AnyRegionError as error:
            set_aside.append(SetAside(name, str(error)))
        else:
            for i in rows:
                region = chosen[i][2]
                crops[i] = _address(
                    crop_region(pixels, np.array(region.box), name_colour(region.label))
                )
        progress(number, len(rows_of))
    return crops, set_aside


def _address(crop: Image.Image) -> str:
    content = io.BytesIO()
    crop.save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
