"""Small files of annotation tools: three regions of two images, as each tool writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.coco_files import photo, write

# of both images, 60 x 40 pixels
BOXES = {"a": [[6.0, 8.0, 30.0, 28.0], [30.0, 10.0, 54.0, 30.0]], "b": [[0.0, 0.0, 12.0, 10.0]]}
LABELS = {"a": ["cat", "dog"], "b": ["dog"]}


def photos(folder: Path) -> Path:
    for name in BOXES:
        photo(folder / f"{name}.jpg")
    return folder


def yolo(folder: Path, *, images: bool = True, **settings: Any) -> Path:
    lines = {"a": "0 0.3 0.45 0.4 0.5\n1 0.7 0.5 0.4 0.5\n", "b": "1 0.1 0.125 0.2 0.25\n"}
    for split, name in (("train", "a"), ("val", "b")):
        text = folder / "labels" / split / f"{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(lines[name])
        if images:
            photo(folder / "images" / split / f"{name}.jpg")
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": ["cat", "dog"]}
    (folder / "data.yaml").write_text(json.dumps({**content, **settings}))
    return folder / "data.yaml"


def labelme(folder: Path) -> Path:
    for name, boxes in BOXES.items():
        shapes = [
            {
                "label": label,
                "points": [box[2:], box[:2]] if label == "cat" else [box[:2], box[2:]],
                "shape_type": "rectangle",
                "group_id": None,
                "flags": {},
            }
            for label, box in zip(LABELS[name], boxes, strict=True)
        ]
        page = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"}
        write(folder / f"{name}.json", {**page, "imageHeight": 40, "imageWidth": 60})
    return folder


def ls_rectangle(identity: str, label: str | None, box: list[float], **more: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    value: dict[str, Any] = {
        "x": x0 / 0.6, "y": y0 / 0.4, "width": (x1 - x0) / 0.6, "height": (y1 - y0) / 0.4,
        "rotation": 0,
    }  # fmt: skip
    if label is not None:
        value["rectanglelabels"] = [label]
    return ls_result(identity, "rectanglelabels", {**value, **more})


def ls_result(identity: str, kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": identity, "type": kind, "from_name": "label", "to_name": "image",
        "original_width": 60, "original_height": 40, "image_rotation": 0, "value": value, **more,
    }  # fmt: skip


def ls_task(number: int, image: str, results: list[Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 10 + number, "result": results, "was_cancelled": False, **more}
    return {"id": number, "data": {"image": image}, "annotations": [annotation]}


def label_studio(path: Path) -> Path:
    tasks = [
        ls_task(
            101 + i,
            f"/data/upload/1/0a1b2c3d-{name}.jpg",
            [
                ls_rectangle(f"r{name}{k}", label, box)
                for k, (label, box) in enumerate(zip(LABELS[name], boxes, strict=True))
            ],
        )
        for i, (name, boxes) in enumerate(BOXES.items())
    ]
    return write(path, tasks)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><labels>
<label><name>dog</name><attributes><attribute><name>age</name></attribute></attributes></label>
<label><name>cat</name><attributes></attributes></label></labels></task></meta>
{images}</annotations>
"""


def cvat_image(number: int, name: str, shapes: str) -> str:
    return f'<image id="{number}" name="{name}" width="60" height="40">{shapes}</image>\n'


def cvat_box(label: str, box: list[float], more: str = "") -> str:
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
    text = " ".join(f'{key}="{value}"' for key, value in corners.items())
    return (
        f'<box label="{label}" source="manual" occluded="0" {text} z_order="0"{more}>'
        '<attribute name="age">3</attribute></box>'
    )


def cvat(path: Path) -> Path:
    images = [
        cvat_image(
            i,
            f"{name}.jpg",
            "".join(cvat_box(*pair) for pair in zip(LABELS[name], boxes, strict=True)),
        )
        for i, (name, boxes) in enumerate(BOXES.items())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CVAT.format(images="".join(images)))
    return path


def boxes_csv(path: Path) -> Path:
    rows = ["image,id,x0,y0,x1,y1,label,score"]
    for name, boxes in BOXES.items():
        for k, (label, box) in enumerate(zip(LABELS[name], boxes, strict=True)):
            rows.append(",".join(map(str, [f"{name}.jpg", f"r{k}", *box, label, 0.5])))
    path.write_text("\n".join(rows) + "\n")
    return path


def crops(folder: Path) -> Path:
    table = ["crop,image,width,height,id,x0,y0,x1,y1,folder,label,score"]
    for name, boxes in BOXES.items():
        for k, (label, box) in enumerate(zip(LABELS[name], boxes, strict=True)):
            file = folder / label / f"{name}_{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            sides = (round(box[2] - box[0]), round(box[3] - box[1]))
            Image.fromarray(np.zeros((sides[1], sides[0], 3), np.uint8)).save(file)
            place = f"{label}/{file.name}"
            values = [place, f"{name}.jpg", 60, 40, k, *box, label, label, 0.5]
            table.append(",".join(map(str, values)))
    (folder / "crops.csv").write_text("\n".join(table) + "\n")
    return folder
