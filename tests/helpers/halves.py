"""Photos in two colours each, their annotations, and proposers that find the halves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.masks import encode_mask
from anyregion.regions import Regions

HALVES = {1: ("red", "blue"), 2: ("lime", "red"), 3: ("white", "black"), 10: ("blue", "yellow")}
CLASSES = {1: "red", 2: "lime", 3: "blue", 5: "yellow", 7: "white", 9: "black"}
LEFT, RIGHT = [0, 0, 20, 30], [20, 0, 20, 30]
RECTANGLES = {
    "left": [[0, 0, 20, 0, 20, 30, 0, 30]],
    "right": [[20, 0, 40, 0, 40, 30, 20, 30]],
}


def picture(path: Path, left: str, right: str, *, size: tuple[int, int] = (40, 30)) -> Path:
    image = Image.new("RGB", size, left)
    image.paste(Image.new("RGB", (size[0] // 2, size[1]), right), (size[0] // 2, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({} if path.suffix == ".png" else {"quality": 95}))
    return path


def annotate(folder: Path, halves: dict[int, tuple[str, str]] | None = None) -> Path:
    """Pictures below `folder/photos`, and COCO annotations of all they show."""
    ids = {name: i for i, name in CLASSES.items()}
    content: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in CLASSES.items()],
    }
    for image, colours in (halves or HALVES).items():
        name = f"{image}.png"
        picture(folder / "photos" / name, *colours)
        content["images"].append({"id": image, "file_name": name, "height": 30, "width": 40})
        for colour, box, side in zip(colours, (LEFT, RIGHT), ("left", "right"), strict=True):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": ids[colour],
                    "bbox": box,
                    "area": 600,
                    "iscrowd": 0,
                    "segmentation": RECTANGLES[side],
                }
            )
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return path


def make_set(folder: Path, *splits: str) -> None:
    for split in splits:
        place = folder / split
        file = annotate(place)
        for photo in (place / "photos").iterdir():
            photo.rename(place / photo.name)
        file.rename(place / "_annotations.coco.json")


def edit(file: Path, change: Any) -> Path:
    """Rewrite a JSON file by a function that changes what is in it."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


class Halves:
    """Finds the left half, the right half, and the whole."""

    name = "halves"
    fingerprint = "halves-1"

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def propose(self, image: Pixels) -> Regions:
        self.seen.append(image.shape)
        boxes = [[0, 0, 20, 30], [20, 0, 40, 30], [0, 0, 40, 30]]
        return Regions.from_boxes(boxes, scores=[0.9, 0.9, 0.1])


class MaskedHalves:
    """Finds the left and the right half, in an image whose first pixel is no pure yellow."""

    name = "halves"

    def __init__(self, fingerprint: str = "halves-1") -> None:
        self.fingerprint = fingerprint

    def propose(self, image: Pixels) -> Regions:
        height, width = image.shape[:2]
        if tuple(image[0, 0]) == (255, 255, 0):
            return Regions.from_boxes(np.zeros((0, 4)), scores=[])
        if (image[0, 0] > 250).all():
            raise InputError("white is refused")
        # the right half's mask is a column of the left one
        column = np.zeros((height, width), dtype=bool)
        column[:, :3] = True
        return Regions.from_prompts(
            boxes=[[0, 0, width / 2, height], [width / 2, 0, width, height]],
            masks=[None, encode_mask(column)],
            scores=[0.9, 0.5],
        )
