"""Photos in two colours each, annotated: left half, right half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runs.helpers import picture

HALVES = {1: ("red", "blue"), 2: ("lime", "red"), 3: ("white", "black"), 10: ("blue", "yellow")}
CLASSES = {1: "red", 2: "lime", 3: "blue", 5: "yellow", 7: "white", 9: "black"}
LEFT, RIGHT = [0, 0, 20, 30], [20, 0, 20, 30]
RECTANGLES = {
    "left": [[0, 0, 20, 0, 20, 30, 0, 30]],
    "right": [[20, 0, 40, 0, 40, 30, 20, 30]],
}


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


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[Path, Path]:
    """Annotations and the folder of their images."""
    return annotate(tmp_path), tmp_path / "photos"


def edit(file: Path, change: Any) -> Path:
    """Rewrite a JSON file by a function that changes what is in it."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file
