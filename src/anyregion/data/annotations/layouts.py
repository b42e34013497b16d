"""Layouts of annotations that are not read, recognised so that an error can name them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

READABLE = (
    "what is read: COCO annotations (also LVIS, Objects365, V3Det, ODinW), a Pascal VOC folder or "
    "list of images, OpenImages' CSV of boxes, YOLO's data.yaml or folder, LabelMe, Label Studio's "
    "JSON, CVAT for images, a CSV of boxes (image, x0, y0, x1, y1, label), a folder of crops; as "
    "regions also COCO results and {image: {boxes: ...}}"
)

_CVAT = "CVAT's {}: export the task again as CVAT for images 1.1, or as COCO 1.0"
_LABEL_STUDIO = "Label Studio's {}: export the project again as JSON, or as COCO"
_VIA = "VGG Image Annotator's {}: export it again as COCO"
_YOLO = (
    "YOLO's labels (class and fractions of the image, a line a box): give data.yaml, or the folder "
    "that has labels and images"
)
# keys that an object has to have, and the layout that has them
_OBJECTS: tuple[tuple[set[str], str], ...] = (
    ({"_via_img_metadata"}, _VIA.format("project")),
    ({"_via_settings"}, _VIA.format("project")),
    ({"filename", "regions"}, _VIA.format("JSON")),
    ({"shapes", "tracks"}, _CVAT.format("own JSON")),
    ({"items", "categories", "info"}, _CVAT.format("Datumaro JSON")),
    ({"data", "completions"}, _LABEL_STUDIO.format("JSON of before version 1.0")),
    ({"annotation_id", "annotator"}, _LABEL_STUDIO.format("JSON-MIN")),
    ({"image", "annotations"}, "CreateML's JSON: convert it to COCO"),
    ({"data_row"}, "Labelbox's export: convert it to COCO"),
    ({"External ID", "Label"}, "Labelbox's export: convert it to COCO"),
    ({"objects", "size"}, "Supervisely's JSON: export it as COCO"),
    ({"name", "labels"}, "Scalabel's (BDD100K's) JSON: convert it to COCO"),
    ({"filename", "ann"}, "mmdetection's middle format: convert it to COCO"),
    ({"type", "features"}, "GeoJSON: convert it to COCO, in pixels"),
)
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "this is a ZIP archive, whatever its name: unpack it and give what is inside"),
    (b"PK\x05\x06", "this is an empty ZIP archive"),
    (b"\x1f\x8b", "this is a gzip archive: unpack it and give what is inside"),
    (b"7z\xbc\xaf", "this is a 7-Zip archive: unpack it and give what is inside"),
    (b"Rar!", "this is a RAR archive: unpack it and give what is inside"),
    (b"BZh", "this is a bzip2 archive: unpack it and give what is inside"),
    (b"\xfd7zXZ", "this is an xz archive: unpack it and give what is inside"),
    (b"PAR1", "this is a Parquet table: convert it to COCO"),
    (b"\x89PNG", "this is a PNG image, not annotations"),
    (b"\xff\xd8\xff", "this is a JPEG image, not annotations"),
    (b"%PDF", "this is a PDF, not annotations"),
    (b"\xff\xfe", "this is UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "this is UTF-16 text: save it as UTF-8"),
    (b"version https://git-lfs", "this is a Git LFS pointer: fetch the file itself (git lfs pull)"),
)
_YOLO_LINE = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*", re.IGNORECASE)
_ROOT = re.compile(r"<([A-Za-z_][\w.-]*)")
_HEAD = 4096


def is_yolo_line(line: str) -> bool:
    """Whether a line is a class and four numbers or more, as YOLO's labels are."""
    return _YOLO_LINE.fullmatch(line) is not None


def is_label_studio(content: Any) -> bool:
    """Whether parsed JSON is Label Studio's tasks, or one of them."""
    tasks = content[:8] if isinstance(content, list) else [content]
    return any(
        isinstance(task, dict)
        and "data" in task
        and bool(task.keys() & {"annotations", "predictions"})
        for task in tasks
    )


def xml_root(path: Path) -> str:
    """The first tag of an XML file; empty where it has none."""
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(_HEAD)
    return next(iter(_ROOT.findall(head.decode("utf-8-sig", "replace"))), "")


def describe_json(content: Any) -> str | None:
    """The layout of parsed JSON in words, with what to do; None for one that is not known."""
    if isinstance(content, list):
        objects = [entry for entry in content[:8] if isinstance(entry, dict)]
    elif isinstance(content, dict):
        # VGG's has the files as keys, and so may others
        values = [v for v in list(content.values())[:8] if isinstance(v, dict)]
        objects = [content, *values]
    else:
        return None
    # what COCO's annotations have is not taken for another's
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return None
    for entry in objects:
        for keys, words in _OBJECTS:
            if keys <= entry.keys():
                return words
    return None


def describe_file(path: Path) -> str | None:
    """The format of a file that is no JSON, in words, with what to do; None where it is unknown."""
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    if head[257:262] == b"ustar":
        return "this is a tar archive: unpack it and give what is inside"
    text = head.decode("utf-8-sig", "replace").lstrip()
    lines = text.splitlines() or [""]
    if text.startswith("<"):
        tag = next(iter(_ROOT.findall(text)), "")
        if tag == "annotation":
            return "one XML file of Pascal VOC: give the folder that it lies in"
        is_page = tag.casefold() == "html" or text[:9].casefold() == "<!doctype"
        return "this is a web page, not annotations" if is_page else f"this is XML of <{tag}>"
    if is_yolo_line(lines[0]):
        return _YOLO
    columns = [name.strip() for name in lines[0].split(",")]
    if {"filename", "region_count"} <= set(columns):
        return _VIA.format("CSV")
    if len(lines) > 1 and re.fullmatch(r"item\s*\{", lines[0].strip()):
        return "TensorFlow's label map: write its names into a text file, one a line"
    if len(lines) > 1:
        with suppress(ValueError, RecursionError):
            if isinstance(json.loads(lines[0]), dict) and lines[1].startswith("{"):
                return "JSON of an object a line: put them into one list, with commas between"
    return None


def describe_folder(path: Path) -> str | None:
    """The layout of a folder that cannot be read as annotations; None where it is unknown."""
    for folder in (path, path / "labels", path / "labels" / "train", path / "train" / "labels"):
        for pattern in ("*.txt", "*.json", "*.xml"):
            # names and notes lie beside labels: a few files are looked at
            for file in sorted(folder.glob(pattern))[:5]:
                words = describe_file(file)
                if words is None and pattern == "*.json":
                    with suppress(ValueError, RecursionError, OSError):
                        content = json.loads(file.read_text(encoding="utf-8-sig"))
                        words = describe_json(content)
                        if isinstance(content, dict) and {"images", "annotations"} <= {*content}:
                            words = f"a folder, whose {file.name} looks like COCO: give that file"
                if words is not None:
                    return words
    return None
