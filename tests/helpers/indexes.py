"""Indexes of pictures in two colours, made in this process or in one that can be killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.images import Pixels
from anyregion.index import EngineOptions, IndexOptions, IndexReport, index_images
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.runs.pipeline import ProposedRegions
from tests.helpers.colours import COLOURS, ColourEncoder
from tests.helpers.halves import picture

LEFT_RIGHT = Regions.from_boxes([[0, 0, 20, 30], [20, 0, 40, 30]], ids=["left", 7])


class HalvesProposer:
    """Finds both halves of a picture, and the left one once more."""

    name = fingerprint = "halves"

    def propose(self, image: Pixels) -> Regions:
        height, width = image.shape[:2]
        middle = width / 2
        boxes = [[0, 0, middle, height], [middle, 0, width, height], [1, 1, middle, height - 1]]
        return Regions.from_boxes(boxes, scores=[0.9, 0.8, 0.7])


class HalfPrecision(ColourEncoder):
    """Sees what an index keeps of a region."""

    def embed_regions(self, *args: Any, **options: Any) -> list[RegionEmbeddings]:
        embedded = super().embed_regions(*args, **options)
        return [
            RegionEmbeddings(
                e.embeddings.astype(np.float16).astype(np.float32), e.boxes, e.rows, e.masks
            )
            for e in embedded
        ]


class SlowEncoder(ColourEncoder):
    """Leaves time to be killed."""

    def encode_images(self, images: Sequence[Pixels]) -> Sequence[Any]:
        time.sleep(float(os.environ.get("SECONDS_PER_IMAGE", "0")) * len(images))
        return super().encode_images(images)


def half_precision() -> Recognizer:
    return Recognizer(HalfPrecision(), cache=None)


def slow_recognizer() -> Recognizer:
    return Recognizer(SlowEncoder(), cache=None)


def pictures(folder: Path, count: int) -> Path:
    """Pictures in pairs of colours, no two beside each other alike."""
    for i in range(count):
        left, right = COLOURS[i % 6], COLOURS[(i + 1 + i // 6) % 6]
        picture(folder / f"{i % 3}" / f"{i:03}.png", left, right, size=(40 + i % 5, 30))
    return folder


def make_index(paths: Any, out: Path, **options: Any) -> IndexReport:
    """With small shards, the halves as regions, and colours as the model."""
    stored = {k: options.pop(k) for k in ("masks", "features", "use_masks") if k in options}
    shard_images = options.pop("shard_images", 4)
    return index_images(
        paths,
        options.pop("regions", LEFT_RIGHT),
        out=out,
        recognizer=options.pop("load", half_precision),
        options=IndexOptions(shard_images=shard_images, **stored),
        engine=options.pop("engine", None) or EngineOptions(workers=options.pop("workers", 1)),
        **options,
    )


def found() -> ProposedRegions:
    return ProposedRegions(HalvesProposer())


if __name__ == "__main__":
    make_index(
        sys.argv[1],
        Path(sys.argv[2]),
        load=slow_recognizer,
        engine=EngineOptions(
            name="ray" if sys.argv[4:] else "local",
            workers=int(sys.argv[3]),
            address=sys.argv[4] if sys.argv[4:] else None,
        ),
    )
