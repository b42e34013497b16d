"""Small annotated images, and an extractor whose numbers tell image, box and mirror image apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.features import Features, to_half
from anyregion.data.store.store import Store, create_store
from anyregion.errors import SetAside
from anyregion.images import Pixels
from anyregion.regions import Regions

COUNTS = [2, 0, 3, 1, 2]
WIDTH, HEIGHT = 24, 16


def annotations(counts: Sequence[int] = COUNTS, **changed: Any) -> Annotations:
    """Images of so many regions each; the last region of an image with three is a crowd."""
    rng = np.random.default_rng(5)
    total = sum(counts)
    low = rng.uniform(0, [WIDTH - 8, HEIGHT - 8], (total, 2))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    crowd = np.zeros(total, dtype=bool)
    for i, count in enumerate(counts):
        crowd[starts[i] + 2 : starts[i] + count] = True
    columns: dict[str, Any] = {
        "categories": Categories(
            np.array([3, 1, 90]), ("cup", "tée", "bus"), ((), ("té",), ()), ("r", "", "f")
        ),
        "image_ids": tuple(f"id {i}" for i in range(len(counts))),
        "file_names": tuple(f"sub/bild ä{i}.png" for i in range(len(counts))),
        "sizes": np.array([[HEIGHT, WIDTH]] * len(counts), dtype=np.int64).reshape(-1, 2),
        "starts": starts,
        "boxes": np.concatenate([low, low + rng.uniform(2, 8, (total, 2))], axis=1),
        "labels": rng.integers(0, 3, total),
        "crowd": crowd,
        "areas": rng.uniform(1, 50, total),
        "region_ids": np.arange(100, 100 + total),
    }
    return Annotations(**{**columns, **changed})


def full_annotations() -> Annotations:
    """With every column that a file may have."""
    total = sum(COUNTS)
    masks = tuple([[1.0, 2, 3, 4, 5, 6]] if i % 2 else None for i in range(total))
    lists = tuple(np.arange(i % 3) for i in range(len(COUNTS)))
    return annotations(
        segmentations=masks,
        negatives=lists,
        not_exhaustive=lists[::-1],
        set_aside=(SetAside("image 9", "gone ✂"),),
    )


def write_images(folder: Path, original: Annotations) -> Path:
    for i, name in enumerate(original.file_names):
        rng = np.random.default_rng(i)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return folder


class SmallExtractor:
    """Tokens of four numbers: the box, and what the image looks like in it."""

    def __init__(self, name: str = "small", before: Callable[[Pixels], None] | None = None) -> None:
        self.name = name
        self.seen = 0
        self.before = before

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-1"

    def describe(self) -> Mapping[str, str]:
        return {"eyes": self.name}

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        return [self._one(*both) for both in zip(images, regions, strict=True)]

    def _one(self, pixels: Pixels, regions: Regions) -> Features:
        if self.before is not None:
            self.before(pixels)
        self.seen += 1
        tokens = [
            [x0, x1, y0, pixels[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1].mean()]
            for x0, y0, x1, y1 in regions.boxes
        ]
        return {
            "tokens": to_half("tokens", np.array(tokens).reshape(-1, 4)),
            "map": to_half("map", pixels[::4, ::4] / 255),
            "span": np.array(pixels.shape[:2], dtype=np.float32),
        }


def new_store(tmp_path: Path, original: Annotations | None = None, **options: Any) -> Store:
    """An empty store of two images a shard, beside the folder `images`."""
    original = original or annotations()
    write_images(tmp_path / "images", original)
    extractor = options.pop("extractor", None) or SmallExtractor()
    return create_store(
        tmp_path / "store", original, extractor, **{"images_per_shard": 2, **options}
    )


def same(first: Features, second: Features) -> bool:
    return first.keys() == second.keys() and all(
        values.dtype == second[name].dtype and np.array_equal(values, second[name])
        for name, values in first.items()
    )
