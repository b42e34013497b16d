"""Small annotation files and images that the tests of data write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def content(**changes: Any) -> dict[str, Any]:
    """Two images, two classes with a hole between their ids, three regions."""
    return {
        "images": [
            {"id": 7, "file_name": "one.jpg", "height": 40, "width": 60},
            {"id": 3, "file_name": "two.jpg", "height": 40, "width": 60},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            region(1, 3, 90, [0, 0, 10, 10]),
            region(2, 7, 5, [10, 10, 20, 20]),
            region(3, 3, 5, [5, 5, 30, 30]),
        ],
        **changes,
    }


def region(number: Any, image: Any, category: Any, box: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, **more}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def photo(
    path: Path, *, size: tuple[int, int] = (60, 40), colour: Any = "red", turn: int = 1
) -> Path:
    """A JPEG of `size` (width, height as stored) and EXIF orientation `turn`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", size, colour).save(path, exif=exif)
    return path
