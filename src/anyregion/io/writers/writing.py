"""What writers of label formats share: their options, what they report, names of files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, name_parts, writing
from anyregion.images import read_image, read_size
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.outlines import outline_polygons, single_outline
from anyregion.masks import mask_iou, segmentation_to_rle

Shapes: TypeAlias = Literal["auto", "boxes", "polygons"]
# what no XML 1.0 may hold, escaped or not
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How labels are written.

    Attributes:
        shapes: `auto`, masks as exactly as the format holds them; `boxes`, without masks;
            `polygons`, masks as outlines.
        tolerance: how far an outline may lie from the mask's edge, in pixels; up to a half no
            pixel changes sides on COCO's masks (docs/reference/formats.md).
        images: the folder of the image files, for formats that hold or cut them.
        copy_images: put the image files beside the labels, where the format has a place for them.
        image_prefix: what Label Studio finds an image's name behind.
    """

    shapes: Shapes = "auto"
    tolerance: float = 0.5
    images: Path | None = None
    copy_images: bool = False
    image_prefix: str = "/data/local-files/?d="


@dataclass(eq=False)
class WriteReport:
    """What was written, filled while it is.

    Attributes:
        images, regions: how many.
        files: those that matter, in their order.
        set_aside: what could not be written, and why.
        outlines: of each mask that was written as an outline: image, region, and the IoU of the
            filled outline with the mask.
    """

    images: int = 0
    regions: int = 0
    files: list[Path] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    outlines: list[tuple[str, int | str, float]] = field(default_factory=list)

    def count(self, image: LabelledImage) -> None:
        """Count an image that was written with all its regions."""
        self.images += 1
        self.regions += len(image.regions)


class Outlines:
    """Draws masks as outlines and notes in a report how much of each is lost."""

    def __init__(self, options: WriteOptions, report: WriteReport) -> None:
        self._tolerance = options.tolerance
        self._report = report

    def parts(self, image: LabelledImage, region: LabelledRegion) -> list[list[float]]:
        """One polygon for each part of the region's mask; holes are joined to it."""
        assert region.mask is not None
        polygons = outline_polygons(region.mask, tolerance=self._tolerance)
        self._note(image, region, polygons)
        return polygons

    def single(self, image: LabelledImage, region: LabelledRegion) -> list[float]:
        """One polygon for the whole mask; of a region without one the corners of its box."""
        if region.mask is None:
            x0, y0, x1, y1 = region.box
            return [x0, y0, x1, y0, x1, y1, x0, y1]
        polygon = single_outline(region.mask, tolerance=self._tolerance)
        self._note(image, region, [polygon])
        return polygon

    def _note(
        self, image: LabelledImage, region: LabelledRegion, polygons: list[list[float]]
    ) -> None:
        assert region.mask is not None
        try:
            overlap = mask_iou(region.mask, segmentation_to_rle(polygons, *image.size))
        except InputError:
            overlap = float("nan")  # more corners than are drawn
        self._report.outlines.append((image.name, region.id, overlap))


def use_mask(region: LabelledRegion, options: WriteOptions) -> bool:
    """Whether a region is written by its mask."""
    return region.mask is not None and options.shapes != "boxes"


class Stems:
    """Names of the files of formats with a file an image: its path with another suffix."""

    def __init__(self, report: WriteReport) -> None:
        self._taken: dict[str, str] = {}
        self._report = report

    def of(self, image: LabelledImage) -> PurePosixPath | None:
        """The path without its suffix; None, and set aside, where another image has it."""
        parts = name_parts(image.name)
        if not parts:
            self._report.set_aside.append(SetAside(repr(image.name), "no name of a file"))
            return None
        stem = PurePosixPath(*parts).with_suffix("")
        # two names of which a disk that does not tell capitals makes one
        other = self._taken.setdefault(str(stem).casefold(), image.name)
        if other != image.name:
            reason = f"its labels would lie in the file of {other}'s: rename one of the two"
            self._report.set_aside.append(SetAside(image.name, reason))
            return None
        return stem


def inside(name: str) -> PurePosixPath:
    """An image's name as a path that leads out of no folder: `../../a.jpg` is `a.jpg`."""
    return PurePosixPath(*name_parts(name))


def copy_image(image: LabelledImage, options: WriteOptions, target: Path) -> str | None:
    """Copy an image's file, whole or not at all; what is wrong where it cannot be.

    One that EXIF turns is written upright, as its labels count: not every trainer turns it.
    """
    source = None if options.images is None else find_image(options.images, image.name)
    if source is None:
        return f"no such file below {options.images}"
    try:
        size = read_size(source)
        pixels = None if size.turn is None else read_image(source)
    except InputError as error:
        return str(error)
    if size.upright != image.size:
        return f"the image is {size.upright}, its labels are of {image.size}"
    with writing(target), atomic_path(target) as temporary:
        if pixels is None:
            shutil.copyfile(source, temporary)
        else:
            Image.fromarray(pixels).save(temporary, quality=95)
    return None


def write_xml(path: Path, root: ElementTree.Element, *, declaration: bool = True) -> None:
    """Write a tree as UTF-8, atomically; with or without the line that says so."""
    tree = ElementTree.ElementTree(root)
    with writing(path), atomic_path(path) as temporary:
        tree.write(temporary, encoding="utf-8", xml_declaration=declaration)


def xml_text(text: Any) -> str:
    """The text with what XML cannot hold in other words: control characters, halves of pairs."""
    spelled = str(text).encode(errors="backslashreplace").decode()
    return _NO_XML.sub("�", spelled)


def add_element(parent: ElementTree.Element, tag: str, text: Any = None, **attributes: Any) -> Any:
    """A child element with text and attributes that XML can hold."""
    element = ElementTree.SubElement(parent, tag, {k: xml_text(v) for k, v in attributes.items()})
    if text is not None:
        element.text = xml_text(text)
    return element


def rounded(values: Iterable[float], digits: int = 2) -> list[float]:
    """Coordinates to a hundredth of a pixel, unless said otherwise."""
    return [round(float(v), digits) for v in values]


def crop_of(mask: Any, box: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The part of a mask array in a box of whole pixels."""
    x0, y0, x1, y1 = box
    part: np.ndarray[Any, np.dtype[np.bool_]] = mask[y0:y1, x0:x1]
    return part


def by_name(classes: ClassNames) -> dict[str, int]:
    """The position of each class."""
    return {name: position for position, name in enumerate(classes.names)}
