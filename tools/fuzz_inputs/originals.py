"""Valid small files that the generators spoil, and what their command lines share."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Rng = random.Random
Words = list[str]

SIZE = (64, 48)  # of every photograph, width and height
NAMES = ["cat", "dog", "bicycle"]


def photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(255, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


class Originals:
    """Valid files that the generators spoil, written once.

    Attributes:
        root: the folder of all.
        photos: a folder of three images, `0.png` to `2.png`.
        coco, results, detector: annotations of these, as JSON values.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.photos = root, root / "photos"
        self.photos.mkdir(parents=True)
        images, regions = [], []
        for i in range(3):
            photo(i).save(self.photos / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]})
            for j in range(2):
                x, y, w, h = 4 + 9 * j, 5 + 7 * i, 20, 15
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                mask: Any = [polygon]
                if j:
                    mask = {
                        "size": [SIZE[1], SIZE[0]],
                        "counts": [x * SIZE[1], 700, 64 * 48 - 700 - x * 48],
                    }
                regions.append(
                    {
                        "id": len(regions) + 1,
                        "image_id": i,
                        "category_id": 1 + (i + j) % 3,
                        "iscrowd": j * (i == 2),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": mask,
                    }
                )
        categories = [{"id": i + 1, "name": n, "synonyms": [n + "s"]} for i, n in enumerate(NAMES)]
        self.coco = {"images": images, "annotations": regions, "categories": categories}
        self.results = [
            {
                "image_id": r["image_id"],
                "category_id": r["category_id"],
                "bbox": r["bbox"],
                "score": 0.9,
                "segmentation": r["segmentation"],
            }
            for r in regions
        ]
        self.detector = {
            str(i): {
                "boxes": [[4, 5, 24, 20], [1, 1, 9, 9]],
                "scores": [0.5, 0.9],
                "labels": [1, 2],
            }
            for i in range(3)
        }
        (root / "coco.json").write_text(json.dumps(self.coco))
        self._made: dict[str, Path] = {}

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that is filled by `make` when it is asked for the first time."""
        if name not in self._made:
            path = self.root / name
            path.mkdir()
            make(path)
            self._made[name] = path
        return self._made[name]


def recognize_words(out: Path, *words: object) -> Words:
    return ["recognize", *map(str, words), "--out", str(out / "out")]


def picture_words(rng: Rng) -> Words:
    return rng.choice([["--no-pictures"], ["--no-pictures", "--csv"], []])


def run(words: Words) -> None:
    from anyregion.cli.main import main

    if code := main(words):
        raise RuntimeError(f"{' '.join(words)}: exit code {code}")


# with how often each is drawn: those whose call takes milliseconds more often
