"""`read_annotations`: the annotation files of the common data sets, in any of their layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.boxes_csv import columns_of, read_boxes_csv
from anyregion.data.annotations.builder import AnnotationRecords, build_annotations
from anyregion.data.annotations.coco import Rows, coco_records, read_content
from anyregion.data.annotations.crop_folders import TABLE, read_crop_folders
from anyregion.data.annotations.cvat import read_cvat
from anyregion.data.annotations.folders import BESIDE_IMAGES
from anyregion.data.annotations.label_studio import read_label_studio
from anyregion.data.annotations.labelme import is_labelme, read_labelme
from anyregion.data.annotations.layouts import (
    READABLE,
    describe_file,
    describe_folder,
    is_label_studio,
    xml_root,
)
from anyregion.data.annotations.openimages import read_openimages
from anyregion.data.annotations.voc import read_voc
from anyregion.data.annotations.yolo import find_config, labels_folder, read_yolo
from anyregion.errors import InputError
from anyregion.files import read_json, reading

Layout: TypeAlias = Literal[
    "auto", "coco", "voc", "openimages", "yolo", "labelme", "label-studio", "cvat", "csv", "crops"
]
# what one JSON file may be of
_JSON = ("coco", "labelme", "label-studio")


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

    Layouts, told apart by the content:
        coco: a JSON file in COCO's format, also as LVIS v0.5 and v1, Objects365 v1 and v2, V3Det,
            and OpenImages' converters write it; or a folder with Roboflow's
            `_annotations.coco.json`, as in ODinW.
        voc: a folder in Pascal VOC's format (`Annotations/*.xml`), or one of its lists of images,
            `ImageSets/Main/<split>.txt`. `difficult` objects become crowd.
        openimages: the CSV of boxes; its classes and the images' sizes come from elsewhere.
        yolo: `data.yaml`, the folder that it lies in, or a folder of labels; `images` where the
            images are elsewhere.
        labelme: a JSON file of one image, or a folder of them.
        label-studio: its JSON of tasks; `images` tells how uploaded files are called.
        cvat: the XML of CVAT for images 1.1, or its folder.
        csv: a table with the columns image, x0, y0, x1, y1, and label.
        crops: a folder of crops for each class; only with `crops.csv` in it unless it is named.

    Rules: crowd regions (`iscrowd`, OpenImages' `IsGroupOf`) are kept, marked. Boxes that are not
    finite, empty, inverted or wholly outside the stated image are set aside, those over the border
    are clipped. Regions of unknown images or classes are set aside. Of two images or classes of
    one id the first is kept; a class of an earlier one's name (whatever its case and underscores)
    is merged into it, and reported. Of two regions of one id the second gets a new one.

    Args:
        path: see above.
        layout: `auto`, or one of these.
        masks: also read outlines and masks; they take many times the memory of the boxes.
        clip: False leaves boxes that reach over the border as they are, for evaluators that have
            to equal others.
        images: the folder of the images, for what only they tell (OpenImages, YOLO: their sizes).
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
    prompts: bool = False,
    images: str | Path | None = None,
    listed: Path | None = None,
    classes: str | Path | None = None,
    sizes: str | Path | None = None,
) -> AnnotationRecords:
    """The rows of a file of annotations, as `read_annotations` reads it, not yet put together.

    Args:
        prompts: also read what is regions without being annotations, as `load_regions` does: COCO
            results and a detector's boxes, whatever the file is called.
        listed: of COCO results the COCO file that lists their images.
    """
    path = Path(path)
    if layout not in get_args(Layout):
        raise InputError(f"layout must be one of {', '.join(get_args(Layout))}, not {layout!r}")
    if not path.exists():
        raise InputError(f"{path}: there is no such file{'' if prompts else ' or folder'}")
    if layout == "auto":
        layout = detect_layout(path, prompts=prompts)
    if listed is not None and (layout not in _JSON or path.is_dir()):
        raise InputError(f"{path} lists its images itself: {listed} is for COCO results")
    if layout == "voc":
        return read_voc(path)
    if layout == "openimages":
        return read_openimages(path, images=images, classes=classes, sizes=sizes)
    if layout == "yolo":
        return read_yolo(path, masks=masks, images=images)
    if layout == "cvat":
        return read_cvat(cvat_file(path) or path, masks=masks)
    if layout == "csv":
        return read_boxes_csv(path)
    if layout == "crops":
        return read_crop_folders(path)
    if layout == "labelme":
        return read_labelme(path, masks=masks)
    if layout == "label-studio":
        return read_label_studio(path, read_json(path), masks=masks, images=images)
    return _read_json(_beside(path) or path, masks, prompts, images, listed)


def _read_json(
    path: Path, masks: bool, prompts: bool, images: str | Path | None, listed: Path | None
) -> AnnotationRecords:
    """Read JSON by what is in it, parsed once: COCO's and its like, LabelMe's or Label Studio's."""
    rows = Rows(masks, prompts)
    content = read_content(path, rows)
    if is_labelme(content):
        return read_labelme(path, content, masks=masks)
    if is_label_studio(content):
        return read_label_studio(path, content, masks=masks, images=images)
    return coco_records(path, content, rows, images=listed)


def detect_layout(path: Path, *, prompts: bool = False) -> Layout:
    """The layout of a file or folder by its content; `coco` stands for every kind of JSON.

    Args:
        prompts: take a file for JSON that is nothing else by its name.

    Raises:
        InputError: none that is read; it is named where it is known.
    """
    layout = _file_layout(path, prompts) if not path.is_dir() else _folder_layout(path)
    if layout is not None:
        return layout
    if known := describe_folder(path) if path.is_dir() else describe_file(path):
        raise InputError(f"{path}: {known}; {READABLE}")
    what = "a folder without annotations: " if path.is_dir() else ""
    raise InputError(f"{path}: {what}of no layout that is known; {READABLE}")


def _file_layout(path: Path, prompts: bool) -> Layout | None:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return "coco"
    if suffix in (".yaml", ".yml"):
        return "yolo"
    start = b""
    if path.is_file():  # a pipe can be read only once
        with reading(path), path.open("rb") as file:
            start = file.read(4096)
    # JSON may be called anything, as long as it is no other layout's name
    if prompts and (
        start.lstrip()[:1] in (b"{", b"[") or suffix not in (".csv", ".tsv", ".txt", ".xml")
    ):
        is_cvat = bool(start) and xml_root(path) == "annotations"
        return "cvat" if is_cvat else "coco"
    if suffix in (".csv", ".tsv"):
        header = start.decode("utf-8-sig", "replace").partition("\n")[0]
        return "csv" if columns_of(header) else "openimages"
    if suffix == ".xml":
        return "cvat" if xml_root(path) == "annotations" else None
    return "voc" if suffix == ".txt" else None


def _folder_layout(path: Path) -> Layout | None:
    if (path / TABLE).is_file():
        return "crops"
    if (path / "Annotations").is_dir():
        return "voc"
    if cvat_file(path) is not None:
        return "cvat"
    if next(path.glob("*.xml"), None) is not None:
        return "voc"
    if _beside(path) is not None:
        return "coco"
    if find_config(path) is not None or labels_folder(path) is not None:
        return "yolo"
    for file in sorted(path.rglob("*.json"))[:5]:
        try:
            if is_labelme(read_json(file)):
                return "labelme"
        except InputError:
            continue
    return None


def cvat_file(path: Path) -> Path | None:
    """The XML of CVAT in a folder, where it is one."""
    files = sorted(path.glob("*.xml")) if path.is_dir() else []
    return next((file for file in files[:20] if xml_root(file) == "annotations"), None)


def _beside(path: Path) -> Path | None:
    return next((path / name for name in BESIDE_IMAGES if (path / name).is_file()), None)
