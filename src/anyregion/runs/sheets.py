"""`write_run_sheets`: the regions of a run cut out, side by side, the doubtful first or by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from anyregion.drawing.options import PictureOptions
from anyregion.drawing.palette import Colours
from anyregion.drawing.picture import NONE_OF_THESE
from anyregion.errors import InputError, SetAside
from anyregion.io.labels import LabelledRegion
from anyregion.io.writers.writing import WriteOptions
from anyregion.runs.crop_sheets import ON_A_SHEET, Crop, write_sheets
from anyregion.runs.export_labels import LabelSource
from anyregion.runs.pipeline import Track, silent
from anyregion.runs.review import margin_of
from anyregion.runs.run_file import is_results_folder

SheetOrder: TypeAlias = Literal["doubt", "name", "score"]
ORDERS: tuple[SheetOrder, ...] = get_args(SheetOrder)
MOST = 300


@dataclass(frozen=True)
class SheetsReport:
    """What was written.

    Attributes:
        folder: of the sheets: 001.jpg and so on.
        sheets, regions: how many.
        left: regions of the run that come later in the order, and are not shown.
        set_aside: images that cannot be shown, and why.
    """

    folder: Path
    sheets: int
    regions: int
    left: int
    set_aside: tuple[SetAside, ...]


def write_run_sheets(
    run: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    order: SheetOrder = "doubt",
    most: int = MOST,
    options: PictureOptions | None = None,
    track: Track = silent,
) -> SheetsReport:
    """Cut the regions of a run out of their images, thirty on a sheet.

    Below each stand its best name and score, the second best, and the image.

    Args:
        run: the results folder of `recognize`.
        out: the folder; sheets that are there are removed.
        images: the folder of the images; where the run had them, unless given.
        order: `doubt`: first what was refused, then those whose best two names are nearest to each
            other; `name`: name by name, the surest first; `score`: the lowest first.
        most: regions that are shown.
        options: of pictures, as far as they are about crops, and `min_score`.
        track: shows how far the work is.

    Raises:
        InputError: no run, no regions, or no folder of images.
    """
    run, out, options = Path(run), Path(out), options or PictureOptions()
    if order not in ORDERS:
        raise InputError(f"sheets are sorted by {', '.join(ORDERS)}, not by {order!r:.60}")
    write = WriteOptions(images=None if images is None else Path(images))
    if not is_results_folder(run):
        raise InputError(f"{run}: not the results folder of a run")
    source = LabelSource(run, write, keep_refused=True)
    rows = [
        (image.name, region)
        for image in source
        for region in image.regions
        if (region.score or 0.0) >= options.min_score
    ]
    if not rows:
        raise InputError(f"{run}: no regions to show")
    folder = source.options.images
    if folder is None or not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images: give it with --images")
    names = source.classes.names
    places = {name: i for i, name in enumerate(names)}

    def place(row: tuple[str, LabelledRegion]) -> tuple[float, ...]:
        _, region = row
        score = region.score or 0.0
        if order == "doubt":
            return (margin_of(region), score)
        if order == "name":
            # what was refused has none of the names
            return (region.refused, places.get(region.label, len(names)), -score)
        return (score,)

    # stable: of equal ones in the order of the run
    chosen = sorted(rows, key=place)[:most]
    set_aside = write_sheets(
        out,
        [_crop(name, region) for name, region in chosen],
        folder,
        track,
        colours=Colours(names),
        options=options,
    )
    sheets = -(-len(chosen) // ON_A_SHEET)
    return SheetsReport(out, sheets, len(chosen), len(rows) - len(chosen), tuple(set_aside))


def _crop(image: str, region: LabelledRegion) -> Crop:
    score = "" if region.score is None else f" {region.score:.2f}"
    second = ("", "")
    if len(region.scores) > 1:
        second = (region.labels[1], f" {region.scores[1]:.2f}")
    best = ("", f"{NONE_OF_THESE} ({region.label}{score})") if region.refused else None
    return Crop(
        image,
        np.array(region.box),
        region.label,
        (best or (region.label, score), second, ("", f"#{region.id}  {image}")),
        score=1.0 if region.score is None else region.score,
        refused=region.refused,
    )
