"""Sheets of crops of many images' regions, in files: 001.jpg, 002.jpg and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.data.image_files import find_image
from anyregion.drawing.crops import crop_region, crop_sheet
from anyregion.drawing.options import PictureOptions
from anyregion.drawing.palette import Colours, answer_colour
from anyregion.errors import AnyRegionError, InputError, SetAside
from anyregion.files import atomic_path, writing
from anyregion.images import Pixels, read_image
from anyregion.runs.pipeline import Track

# of a sheet, which is read from left to right in rows of six
ON_A_SHEET = 30


@dataclass(frozen=True, eq=False)
class Crop:
    """A region to be shown.

    Attributes:
        image: its file's name.
        box: `(4,)` xyxy in pixels; NaN for the whole image.
        colour_of: the name whose colour outlines it.
        lines: below it, each a name on its colour and what follows it, or no name and text on
            white; as many as of any other.
        score: how sure the answer is: those under `PictureOptions.doubt` are pale and dashed.
        refused: it is none of the names: grey.
    """

    image: str
    box: NDArray[np.float64]
    colour_of: str
    lines: tuple[tuple[str, str], ...]
    score: float = 1.0
    refused: bool = False


def write_sheets(
    folder: Path,
    crops: Sequence[Crop],
    images: str | Path | Callable[[str], Pixels] | None,
    track: Track,
    *,
    colours: Colours | None = None,
    options: PictureOptions | None = None,
) -> list[SetAside]:
    """Sheets of crops in their order; what could not be shown, and why.

    Sheets that are there are removed.

    Args:
        folder: made if there is anything to show.
        crops: the regions.
        images: the folder of their images, or what reads one by its name; None: none are shown.
        track: shows how far the work is.
        colours: of the names.
        options: of pictures, as far as they are about crops: the font, and where doubt begins.
    """
    colours, options = colours or Colours(), options or PictureOptions()
    with writing(folder):
        for old in folder.glob("[0-9][0-9][0-9].jpg"):
            old.unlink()
        if images is None or not crops:
            return []
        folder.mkdir(parents=True, exist_ok=True)
    set_aside: list[SetAside] = []
    progress = track("cutting out regions", "sheets")
    starts = range(0, len(crops), ON_A_SHEET)
    progress(0, len(starts))
    for number, start in enumerate(starts, 1):
        of_sheet = crops[start : start + ON_A_SHEET]
        shown: dict[int, Image.Image] = {}
        for name in dict.fromkeys(crop.image for crop in of_sheet):  # each image once
            try:
                pixels = _read(images, name)
            except AnyRegionError as error:
                set_aside.append(SetAside(name, f"no crop: {error}"))
                pixels = np.full((8, 8, 3), 200, dtype=np.uint8)
            for i, crop in enumerate(of_sheet):
                if crop.image == name:
                    own = colours[crop.colour_of]
                    colour, dashed = answer_colour(
                        own, crop.score, doubt=options.doubt, refused=crop.refused
                    )
                    shown[i] = crop_region(pixels, crop.box, colour, dashed=dashed)
        lines = [crop.lines for crop in of_sheet]
        font = None if options.font is None else str(options.font)
        ordered = [shown[i] for i in range(len(of_sheet))]
        sheet = crop_sheet(ordered, lines, colours=colours, font=font)
        target = folder / f"{number:03}.jpg"
        with writing(target), atomic_path(target) as temporary:
            # whole colours: of every second pixel alone, thin lines are grey
            sheet.save(temporary, "JPEG", quality=90, subsampling=0)
        progress(number, len(starts))
    return set_aside


def _read(images: str | Path | Callable[[str], Pixels], name: str) -> Pixels:
    if callable(images):
        return images(name)
    path = find_image(Path(images), name)
    if path is None:
        raise InputError(f"not found in {images}")
    return read_image(path)
