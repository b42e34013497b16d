"""`read_annotations`: the annotation files of the common data sets, in any of their layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.builder import AnnotationRecords, build_annotations
from anyregion.data.annotations.coco import read_coco
from anyregion.data.annotations.folders import BESIDE_IMAGES
from anyregion.data.annotations.layouts import READABLE, describe_file, describe_folder
from anyregion.data.annotations.openimages import read_openimages
from anyregion.data.annotations.voc import read_voc
from anyregion.errors import InputError

Layout: TypeAlias = Literal["auto", "coco", "voc", "openimages"]


def read_annotations(
    path: str | Path,
    *,
    layout: Layout = "auto",
    masks: bool = False,
    clip: bool = True,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    sizes: str | Path | None = None,
) -> Annotations:
    """Read the annotations of one data set; what cannot be used is set aside, with its reason.

    Layouts, told apart by the path:
        coco: a JSON file in COCO's format, also as LVIS v0.5 and v1, Objects365 v1 and v2, V3Det,
            and OpenImages' converters write it; or a folder with Roboflow's
            `_annotations.coco.json`, as in ODinW.
        voc: a folder in Pascal VOC's format (`Annotations/*.xml`), or one of its lists of images,
            `ImageSets/Main/<split>.txt`. `difficult` objects become crowd.
        openimages: the CSV of boxes; its classes and the images' sizes come from elsewhere.

    Rules: crowd regions (`iscrowd`, OpenImages' `IsGroupOf`) are kept, marked. Boxes that are not
    finite, empty, inverted or wholly outside the stated image are set aside, those over the border
    are clipped. Regions of unknown images or classes are set aside. Of two images or classes of
    one id the first is kept; a class of an earlier one's name (whatever its case and underscores)
    is merged into it, and reported. Of two regions of one id the second gets a new one.

    Args:
        path: see above.
        layout: `auto`, or one of the three.
        masks: also read the segmentations (COCO); they take many times the memory of the boxes.
        clip: False leaves boxes that reach over the border as they are, for evaluators that have
            to equal others.
        images: OpenImages: the folder of the images, to read their sizes.
        classes: OpenImages: the CSV of class descriptions; looked for beside the boxes.
        sizes: OpenImages: a CSV `ImageID,Width,Height`, in place of `images`.

    Raises:
        InputError: no such file, or malformed as a whole; names the file and the place.
    """
    records = read_records(
        path, layout=layout, masks=masks, images=images, classes=classes, sizes=sizes
    )
    return build_annotations(records, clip=clip)


def read_records(
    path: str | Path,
    *,
    layout: Layout = "auto",
    masks: bool = False,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    sizes: str | Path | None = None,
) -> AnnotationRecords:
    """The rows of a file of annotations, as `read_annotations` reads it, not yet put together."""
    path = Path(path)
    if layout not in get_args(Layout):
        raise InputError(f"layout must be one of {', '.join(get_args(Layout))}, not {layout!r}")
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    if layout == "auto":
        layout = _layout(path)
    if layout == "voc":
        return read_voc(path)
    if layout == "openimages":
        return read_openimages(path, images=images, classes=classes, sizes=sizes)
    return read_coco(_beside(path) or path, masks=masks)


def _layout(path: Path) -> Layout:
    if path.is_file():
        by_suffix: dict[str, Layout] = {".json": "coco", ".csv": "openimages", ".txt": "voc"}
        if path.suffix.lower() in by_suffix:
            return by_suffix[path.suffix.lower()]
    elif (path / "Annotations").is_dir() or next(path.glob("*.xml"), None) is not None:
        return "voc"
    elif _beside(path) is not None:
        return "coco"
    if known := describe_folder(path) if path.is_dir() else describe_file(path):
        raise InputError(f"{path}: {known}; {READABLE}")
    what = "a folder without annotations: " if path.is_dir() else ""
    raise InputError(
        f"{path}: {what}neither COCO JSON (.json), nor OpenImages' boxes (.csv), nor a Pascal VOC "
        "folder or list of images (.txt), nor a folder with _annotations.coco.json"
    )


def _beside(path: Path) -> Path | None:
    return next((path / name for name in BESIDE_IMAGES if (path / name).is_file()), None)
